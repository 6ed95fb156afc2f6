"""A second verifier of Testimony's evidence, written from the rules alone: it shares no code with the first.

It holds everything in memory and looks at a stream from its end: a genuine record says what the one before it was. Input: JSON lines
{"name": ..., "bodies": [...]}, each a whole export. Output: for each a JSON line with the verdict, the records and how many are
proved. Standard library, `cryptography` for Ed25519, `rfc8785` for the canonical form.
"""

import base64
import hashlib
import json
import re
import sys

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ORDER = ["OK", "PRUNED", "PENDING", "PARTIAL", "GAP", "UNCLOSED", "UNANCHORED", "PROJECTION", "UNKNOWN", "MISSING", "FOREIGN",
         "TAMPERED", "FORK"]
TYPS = {"open", "certified", "recovered", "policy", "clock", "stage", "exchange", "burst", "gap", "hole", "checkpoint", "close"}
SID = re.compile(r"[a-z0-9.-]+/[a-z0-9.-]+/[a-z0-9.-]+/[0-9a-f]{32}-(0|[1-9][0-9]*)-(0|[1-9][0-9]*)\Z")


HASH = re.compile(r"[0-9a-f]{64}\Z")


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def leaf_hash(body):
    return sha(b"\0", body.encode())


def unescape(text):
    """R1. Refuses what the escaping does not produce."""
    if text == "%":
        return b""
    out = bytearray()
    at = 0
    while at < len(text):
        if text[at] == "%":
            if not re.fullmatch("[0-9A-F]{2}", text[at + 1:at + 3]):
                raise ValueError("escape")
            out.append(int(text[at + 1:at + 3], 16))
            at += 3
        else:
            out.append(ord(text[at]))
            at += 1
    if escape(bytes(out)) != text:
        raise ValueError("not canonical")
    return bytes(out)


def escape(value):
    if not value:
        return "%"
    def one(at, byte):
        edge = byte == 0x20 and at in (0, len(value) - 1)
        return chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 and not edge else f"%{byte:02X}"
    return "".join(one(at, byte) for at, byte in enumerate(value))


def parse(body):
    """R3: a flat map of escaped strings that gives the same bytes when it is written again."""
    pairs = json.loads(body, object_pairs_hook=lambda pairs: pairs)
    fields = dict(pairs)
    if len(fields) != len(pairs) or len(body) > 65536:
        raise ValueError("a key stands twice")
    if not all(isinstance(value, str) for value in fields.values()) or rfc8785.dumps(fields) != body.encode():
        raise ValueError("not canonical")
    return {key: unescape(value).decode("utf-8", "surrogateescape") for key, value in fields.items()}


# The tree of RFC 6962, by its definition.
def root_of(leaves):
    if not leaves:
        return sha()
    level = list(leaves)
    while len(level) > 1:
        level = [sha(b"\1", level[n], level[n + 1]) if n + 1 < len(level) else level[n] for n in range(0, len(level), 2)]
    return level[0]


def cover(begin, end):
    """Perfect subtrees that cover [begin, end): pairs of start and size."""
    while begin < end:
        size = 1 << ((end - begin).bit_length() - 1)
        if begin:
            size = min(size, begin & -begin)
        yield begin, size
        begin += size


class Tree:
    """Leaves and whole subtrees; a root if nothing is unknown."""

    def __init__(self):
        self.known = {}

    def put(self, start, size, value):
        self.known[(start, size)] = value

    def node(self, start, size, end):
        found = self.known.get((start, size)) if start + size <= end else None
        if found is not None or size == 1:
            return found
        half = size // 2
        left = self.node(start, half, end)
        if start + half >= end:
            return left
        right = self.node(start + half, half, end)
        return None if left is None or right is None else sha(b"\1", left, right)

    def root(self, end):
        return self.node(0, 1 << max(end - 1, 1).bit_length(), end)


class Note:
    def __init__(self, text):
        at = text.rindex("\n\n")
        self.text = text[:at + 1]
        self.origin, size, root, *more = self.text.split("\n")[:-1]
        if more:
            raise ValueError("extension lines")
        self.size, self.root = int(size), base64.b64decode(root, validate=True)
        self.signatures = []
        for line in text[at + 2:].split("\n")[:-1]:
            name, encoded = re.fullmatch("\u2014 ([^ +]+) ([A-Za-z0-9+/=]+)", line).groups()
            raw = base64.b64decode(encoded, validate=True)
            self.signatures.append((name, raw[:4], raw[4:]))

    def signed_by(self, key):
        hint = sha(self.origin.encode(), b"\n\x01", key)[:4]
        for name, identity, signature in self.signatures:
            if name == self.origin and identity == hint:
                try:
                    Ed25519PublicKey.from_public_bytes(key).verify(signature, self.text.encode())
                    return True
                except (InvalidSignature, ValueError):
                    pass
        return False


class Stream:
    def __init__(self, sid):
        self.sid, self.records, self.heads, self.holes, self.ends = sid, {}, [], [], []
        self.findings, self.proved, self.claimed = set(), 0, 0

    def add(self, seq, leaf, fields):
        self.records.setdefault(seq, {})[leaf] = fields

    def choose(self):
        """What stood at each place, from the end to the start: (leaf, fields or None)."""
        truth = {}
        above = None
        for seq in range(max(self.records), -1, -1):
            here = self.records.get(seq, {})
            said = None
            if above is not None and above[1] is not None and HASH.match(above[1].get("prev", "")):
                said = bytes.fromhex(above[1]["prev"])
            elif seq + 1 in self.records:
                # What stands above was changed; it may still say truly what was below it.
                says = [f.get("prev", "") for f in self.records[seq + 1].values()]
                says = [bytes.fromhex(prev) for prev in says if HASH.match(prev)]
                matching = [leaf for leaf in says if leaf in here]
                said = matching[0] if matching else (next(iter(here)) if here else (says[0] if says else None))
            elif here:
                linked = [leaf for leaf, f in here.items() if seq == 0 or any(
                    below.hex() == f.get("prev") for below in self.records.get(seq - 1, {}))]
                said = (linked or list(here))[0]
            above = (said, here.get(said)) if said is not None else None
            if above is not None:
                truth[seq] = above
        return truth

    def prepare(self):
        """What stands where, and up to where signed heads prove it."""
        self.size = self.end = 0
        self.forked = False
        self.truth, self.tree = {}, Tree()
        if not self.records:
            return
        self.truth = self.choose()
        for seq, (leaf, _) in self.truth.items():
            self.tree.put(seq, 1, leaf)
        for hole in self.holes:
            for (start, size), value in zip(cover(*hole["range"]), hole["nodes"], strict=True):
                self.tree.known.setdefault((start, size), value)
        self.size, self.forked = self.check_heads(self.truth, self.tree)

    def proves(self, seq, leaf):
        """Whether this record is proved: what it says of others counts only then."""
        return seq < max(self.size, self.end) and self.truth.get(seq, (None, None))[0] == leaf

    def judge(self):
        if not self.records:
            self.findings.add("MISSING" if any(end["size"] for end in self.ends) or self.heads else "OK")
            return
        self.end = self.check_ends(self.truth, self.tree, self.size)
        self.check_records(self.truth, max(self.size, self.end), self.size)
        self.check_life(self.truth, self.size, self.end)
        if self.forked:
            self.findings.add("FORK")

    def check_heads(self, truth, tree):
        key, keys = None, []
        for seq in sorted(truth):
            fields = truth[seq][1]
            if fields and fields.get("typ") == "open":
                keys.append((0, bytes.fromhex(fields["key"])))
            elif fields and "next_key" in fields:
                keys.append((seq + 2, bytes.fromhex(fields["next_key"])))
        size, seen, forked = 0, {}, False
        for head in sorted(self.heads, key=lambda head: head["note"].size):
            note = head["note"]
            key = next((key for begin, key in reversed(keys) if begin <= note.size), None)
            if key is None:
                # The record that names it is not there, or was changed.
                self.findings.add("UNANCHORED")
                self.claimed = max(self.claimed, note.size)
                continue
            if not note.signed_by(key):
                self.findings.add("FOREIGN")
                continue
            self.claimed = max(self.claimed, note.size)
            if seen.setdefault(note.size, note.root) != note.root:
                forked = True
            if tree.root(note.size) != note.root and head["frontier"] is not None and note.size - 1 in truth:
                trial = Tree()
                trial.known = {place: value for place, value in tree.known.items() if place[0] >= note.size - 1}
                for (start, length), value in zip(cover(0, note.size - 1), head["frontier"], strict=True):
                    trial.put(start, length, value)
                if trial.root(note.size) == note.root:
                    tree.known = trial.known
            if tree.root(note.size) == note.root:
                size = note.size
            else:
                self.findings.add("TAMPERED" if all(seq in truth for seq in range(note.size)) else "MISSING")
        for begin, _ in keys[1:]:
            if size >= begin and begin - 1 not in seen:
                self.findings.add("MISSING")
        return size, forked

    def check_ends(self, truth, tree, size):
        end = 0
        for stated in self.ends:
            if stated["size"] <= size or stated["size"] == 0:
                continue
            root = tree.root(stated["size"])
            if root == stated["root"]:
                end = max(end, stated["size"])
            else:
                self.findings.add("MISSING" if root is None else "TAMPERED")
        return end

    def check_records(self, truth, covered, size):
        holes = [range(*hole["range"]) for hole in self.holes]
        close = self.closed(truth)
        for seq in range(max(covered, max(self.records) + 1)):
            here = self.records.get(seq, {})
            genuine = truth.get(seq, (None, None))[1]
            if seq < max(covered, self.claimed):
                self.proved += genuine is not None and seq < covered
                if genuine is None and here:
                    self.findings.add("TAMPERED")
                elif genuine is None:
                    self.findings.add("GAP" if any(seq in hole for hole in holes) else "MISSING")
            if len(here) > 1 or (close is not None and seq > close):
                self.findings.add("FOREIGN" if here else "MISSING")
            if genuine and genuine["typ"] == "":
                self.findings.add("UNKNOWN")
            if genuine and genuine["typ"] == "gap":
                self.findings.add("GAP")
        self.check_totals(truth)

    def closed(self, truth):
        return min((seq for seq, (_, fields) in truth.items() if fields and fields.get("typ") == "close"), default=None)

    def check_totals(self, truth):
        counted = {"exchanges": 0, "bursts": 0, "gaps": 0}
        for seq in sorted(truth):
            fields = truth[seq][1]
            if fields is None:
                return
            typ = fields["typ"]
            counted["exchanges"] += typ == "exchange"
            counted["bursts"] += int(fields["count"]) if typ == "burst" else 0
            counted["gaps"] += int(fields["count"]) if typ == "gap" else 0
            if typ in ("checkpoint", "close"):
                total = {key: int(fields.get(key, "0")) for key in ("begun", "exchanges", "bursts", "gaps", "none", "open")}
                if total["begun"] != sum(total.values()) - total["begun"] or any(total[key] != n for key, n in counted.items()):
                    self.findings.add("TAMPERED")

    def check_life(self, truth, size, end):
        close = self.closed(truth)
        if size == 0 and not self.heads and (0 not in truth or truth[0][1] is None):
            self.findings.add("FOREIGN")
        elif (close is None or size <= close) and not end:
            self.findings.add("UNCLOSED")


def hashes(text):
    return [bytes.fromhex(part) for part in text.split(",") if part]


def verify(bodies):
    streams, findings = {}, set()
    stream = lambda sid: streams.setdefault(sid, Stream(sid))
    named = set()
    for body in set(bodies):
        try:
            fields = parse(body)
            typ = fields["typ"]
            if typ == "head":
                note = Note(base64.b64decode(fields["note"], validate=True).decode())
                frontier = hashes(fields["frontier"]) if "frontier" in fields else None
                if note.size < 1 or (frontier is not None and len(list(cover(0, note.size - 1))) != len(frontier)):
                    raise ValueError("frontier")
                stream(note.origin).heads.append({"note": note, "frontier": frontier})
                continue
            sid, seq = fields["sid"], fields["seq"]
            if not SID.match(sid) or not re.fullmatch("0|[1-9][0-9]*", seq):
                raise ValueError("place")
        except (ValueError, KeyError, AttributeError):
            findings.add("FOREIGN")
            continue
        known = typ in TYPS and fields["v"] == "1" and (typ == "open") == (seq == "0")
        leaf = leaf_hash(body)
        stream(sid).add(int(seq), leaf, fields if known else {"typ": "", **{k: fields[k] for k in ("prev",) if k in fields}})
        source = sid, int(seq), leaf
        if typ == "hole":
            place = int(fields["hole_from"]), int(fields["hole_to"])
            stream(fields["hole_sid"]).holes.append({"range": place, "nodes": hashes(fields["nodes"]), "source": source})
        if typ == "recovered":
            end = {"size": int(fields["size"]), "root": bytes.fromhex(fields["root"]), "source": source}
            stream(fields["rec_sid"]).ends.append(end)
        if typ == "open" and known:
            for key in ("after", "found"):
                named.update((name, source) for name in fields.get(key, "").split(",") if name)
    for one in streams.values():
        one.prepare()
    proved = lambda source: streams[source[0]].proves(*source[1:])
    while True:
        # A record behind the last head may be proved by what a later start says of its stream, and then say something itself.
        before = [one.end for one in streams.values()]
        for one in streams.values():
            good = [end for end in one.ends if proved(end["source"]) and end["size"] > one.size]
            roots = [end["size"] for end in good if one.tree.root(end["size"]) == end["root"]]
            one.end = max(roots, default=0)
        if before == [one.end for one in streams.values()]:
            break
    for one in streams.values():
        one.ends = [end for end in one.ends if proved(end["source"])]
        one.holes = [hole for hole in one.holes if proved(hole["source"])]
    for name, source in named:
        if proved(source) and (name not in streams or not streams[name].records):
            findings.add("MISSING")
    for one in streams.values():
        one.judge()
        findings |= one.findings
    # No roots and no ledger: nothing is anchored.
    findings.add("UNANCHORED")
    verdict = max(findings, key=ORDER.index)
    records = sum(len(claims) for one in streams.values() for claims in one.records.values())
    return {"verdict": verdict, "records": records, "proved": sum(one.proved for one in streams.values())}


def main():
    for line in sys.stdin:
        case = json.loads(line)
        print(json.dumps({"name": case["name"], **verify(case["bodies"])}), flush=True)


if __name__ == "__main__":
    main()
