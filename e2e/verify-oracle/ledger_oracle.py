"""The operator's ledger, read a second time: what its signed entries say of streams and pods.

Written from the rules and docs/witness.md alone. Certificates are not looked at: the ledger names the keys of streams.
"""

import base64
import re

from evidence import SID, Note, Tree, cover, hashes, leaf_hash, parse

KEYS = {
    "open": "key witness", "resumed": "from", "expected": "pod ns name injection from", "gone": "pod",
    "uncovered": "pod ns name reason from to?", "certified": "stream key until cert", "head": "heads",
    "epoch": "stream size root next_key", "closed": "stream size root", "lost": "stream size root",
    "rebased": "stream size root old_size old_root key", "fork": "stream note", "abandoned": "stream from to reason",
    "unwrap": "stream pod", "witnessed": "note", "pruned": "stream from to reason by nodes",
    "erased": "stream from to reason by nodes", "state": "key? witness? frontier? last? streams? pods? uncovered? abandoned? pruned? erased?",
}
NUMBER = re.compile("0|[1-9][0-9]*")
SECOND = 10 ** 9
# A sign of life each 300 s; 40 s between two blocks at most; 300 s more.
BEHIND = (300 + 40 + 300) * SECOND


class Bad(Exception):
    """The ledger is not what was signed, or not whole."""


def root_keys(roots):
    """Keys of ledgers by name, from lines `ledger name+id+key`."""
    keys = {}
    for line in roots.splitlines():
        if line.startswith("ledger "):
            name, _, key = line[7:].split("+", 2)
            raw = base64.b64decode(key, validate=True)
            if raw[:1] != b"\1" or len(raw) != 33:
                raise ValueError("not the key of a ledger")
            keys[name] = raw[1:]
    return keys


class Ledger:
    def __init__(self):
        self.clusters, self.streams, self.numbers = set(), {}, {}
        self.pods, self.uncovered, self.outages, self.last = {}, {}, [], 0
        self.abandoned, self.pruned, self.heads, self.forks = {}, [], [], set()
        self.witnesses = set()

    def stream(self, sid):
        return self.streams.setdefault(sid, {"key": None, "later": {}, "size": 0, "root": None, "life": "open", "heads": []})

    def say(self, fields, typ, seq):
        number = lambda key: int(fields[key])
        if "witness" in fields:
            cluster, namespace, *_ = fields["sid"].split("/")
            self.witnesses.add((f"{cluster}/{namespace}/witness", bytes.fromhex(fields["witness"])))
        if typ == "resumed":
            self.outages.append((number("from"), number("t0")))
        elif typ == "expected":
            self.pods[fields["pod"]] = fields["ns"]
        elif typ == "uncovered":
            self.uncovered[fields["pod"], fields["from"]] = fields["ns"]
        elif typ == "certified":
            self.stream(fields["stream"])["key"] = bytes.fromhex(fields["key"])
            self.numbers[str(seq)] = fields["stream"]
        elif typ == "head":
            for row in filter(None, fields["heads"].split(",")):
                stream, size, root = row.split(":")
                self.advance(self.numbers[stream], int(size), root)
        elif typ in ("epoch", "closed"):
            self.advance(fields["stream"], number("size"), fields["root"])
            if typ == "epoch":
                self.stream(fields["stream"])["later"][number("size")] = bytes.fromhex(fields["next_key"])
            else:
                self.stream(fields["stream"])["life"] = "closed"
        elif typ == "lost":
            self.stream(fields["stream"])["life"] = "lost"
        elif typ == "rebased":
            self.advance(fields["stream"], number("old_size"), fields["old_root"])
            self.advance(fields["stream"], number("size"), fields["root"])
        elif typ == "fork":
            self.forks.add(fields["stream"])
        elif typ == "abandoned":
            self.abandoned.setdefault(fields["stream"], []).append(range(number("from"), number("to")))
        elif typ in ("pruned", "erased"):
            self.remove(typ, fields["stream"], number("from"), number("to"), hashes(fields["nodes"]))
        elif typ == "state":
            self.restated(fields)

    def remove(self, typ, sid, start, end, nodes):
        if len(list(cover(start, end))) != len(nodes):
            raise ValueError("nodes")
        self.pruned.append((typ, sid, (start, end), nodes))

    def restated(self, fields):
        for row in filter(None, fields.get("streams", "").split(",")):
            at, sid, life, size, root, key, key_from, *_ = row.split(":")
            self.numbers[at] = sid
            stream = self.stream(sid)
            stream["life"], stream["size"], stream["root"] = life, int(size), bytes.fromhex(root)
            if int(key_from):
                stream["later"][int(key_from)] = bytes.fromhex(key)
        for row in filter(None, fields.get("pods", "").split(",")):
            uid, namespace, *_ = row.split(":")
            self.pods.setdefault(uid, namespace)
        for row in filter(None, fields.get("uncovered", "").split(",")):
            uid, namespace, _, _, since = row.split(":")
            self.uncovered.setdefault((uid, since), namespace)
        for row in filter(None, fields.get("abandoned", "").split(",")):
            sid, start, end, _ = row.split(":")
            self.abandoned.setdefault(sid, []).append(range(int(start), int(end)))
        for typ in ("pruned", "erased"):
            for row in filter(None, fields.get(typ, "").split(",")):
                sid, start, end, _, _, nodes = row.split(":")
                self.remove(typ, sid, int(start), int(end), [bytes.fromhex(node) for node in nodes.split("+")])

    def advance(self, sid, size, root):
        stream = self.stream(sid)
        stream["heads"].append((size, bytes.fromhex(root)))
        stream["size"], stream["root"] = size, bytes.fromhex(root)

    def excuses(self, sid, first):
        cluster, _, pod, _ = sid.split("/")
        kept = first < self.last and not any(start <= first <= end for start, end in self.outages)
        return cluster in self.clusters and (pod in self.pods or not kept)

    def cosigned(self, note):
        """When its own witness cosigned this head, in nanoseconds; 0: it did not."""
        return max((note.cosigned_at(*witness) or 0 for witness in self.witnesses), default=0) * SECOND

    def gone(self, sid, seq):
        return any(seq in part for part in self.abandoned.get(sid, []))


def fields_of(body):
    """A body's fields; its type must be known, and its keys those of the type."""
    fields = parse(body)
    typ = fields["typ"].removeprefix("ledger-")
    keys = KEYS[typ].split()
    may = {key.rstrip("?") for key in keys} | {"v", "typ", "sid", "seq", "t0", "prev"}
    must = {key for key in keys if not key.endswith("?")} | {"v", "typ", "sid", "seq", "t0"}
    if not must <= fields.keys() <= may or fields["v"] != "1" or not all(NUMBER.fullmatch(fields[key]) for key in ("seq", "t0")):
        raise ValueError("not an entry")
    return typ, fields


def entries_of(bodies):
    """By ledger: bodies by place; and signed heads by ledger."""
    entries, notes = {}, {}
    for body in set(bodies):
        try:
            fields = parse(body)
            if fields["typ"] == "head":
                note = Note(base64.b64decode(fields["note"], validate=True).decode())
                notes.setdefault(note.origin, []).append(note)
            elif fields["typ"].startswith("ledger-") and SID.match(fields["sid"]):
                entries.setdefault(fields["sid"], {}).setdefault(int(fields["seq"]), []).append(body)
        except (ValueError, KeyError, AttributeError):
            pass
    return entries, notes


def from_where_reading_begins(places):
    """Old blocks are removed one by one, so that a ledger may begin amid two restatements. What stands ahead of the first of
    them is restated there; it must follow all the same."""
    due = None
    for seq in sorted(places):
        body = places[seq][0]
        try:
            typ, fields = fields_of(body)
        except (ValueError, KeyError, AttributeError) as problem:
            raise Bad(f"entry {seq}: {problem}") from problem
        if due is not None and (seq, fields.get("prev")) != due:
            raise Bad(f"entry {seq} does not follow")
        if seq == 0 or (typ == "state" and "frontier" in fields):
            return {place: bodies for place, bodies in places.items() if place >= seq}
        due = seq + 1, leaf_hash(body).hex()
    return places


def read_one(sid, key, places, notes, ledger):
    """Takes up what is under the last signed head; whether there is more behind it."""
    if any(len(bodies) > 1 for bodies in places.values()):
        raise Bad("two bodies")
    signed = {note.size: note.root for note in notes if note.signed_by(key)}
    if not signed:
        raise Bad("no signed head")
    if max(signed) > max(places) + 1:
        raise Bad("cut")
    places = from_where_reading_begins(places)
    tree, due, prev = None, 0, None
    for seq in sorted(place for place in places if place < max(signed)):
        body = places[seq][0]
        try:
            typ, fields = fields_of(body)
            if tree is None or seq != due:
                # Reading begins, or goes on after what is not there, where all that is known is restated.
                if seq and not (typ == "state" and "frontier" in fields):
                    raise Bad(f"entry {seq} does not follow")
                tree, prev = Tree(), fields.get("prev")
                for (start, size), value in zip(cover(0, seq), hashes(fields.get("frontier", "")), strict=True):
                    tree.put(start, size, value)
            if fields.get("prev") != prev or (typ == "open") != (seq == 0):
                raise Bad(f"entry {seq} does not follow")
            ledger.say(fields, typ, seq)
        except (ValueError, KeyError, AttributeError) as problem:
            raise Bad(f"entry {seq}: {problem}") from problem
        leaf = leaf_hash(body)
        tree.put(seq, 1, leaf)
        prev, due, ledger.last = leaf.hex(), seq + 1, max(ledger.last, int(fields["t0"]))
        if due in signed and tree.root(due) != signed[due]:
            raise Bad(f"head of {due}")
    if due != max(signed):
        raise Bad("cut")
    ledger.clusters.add(sid.split("/")[0])
    return max(places) >= max(signed)


def read(roots, bodies):
    """The ledger, or None; and what was found of it."""
    keys, findings, ledger = root_keys(roots), set(), None
    entries, notes = entries_of(bodies)
    for sid, places in entries.items():
        if sid not in keys:
            findings.add("FOREIGN" if keys else "UNANCHORED")
            continue
        said = ledger or Ledger()
        try:
            if read_one(sid, keys[sid], places, notes.get(sid, []), said):
                findings.add("FOREIGN")
            ledger = said
        except Bad:
            findings.add("TAMPERED")
    if any(name not in entries for name in keys):
        findings.add("UNANCHORED")
    return ledger, findings
