"""The operator's ledger, read a second time: what its signed entries say of streams and pods.

Written from the rules, docs/witness.md and docs/verify.md alone. Certificates are not looked at: the ledger names the keys of streams.
"""

import base64
import copy
import re

from evidence import SID, Note, Tree, cover, hashes, leaf_hash, parse

KEYS = {
    "open": "key witness", "resumed": "from", "expected": "pod ns name injection from", "gone": "pod",
    "uncovered": "pod ns name reason from to?", "certified": "stream key until cert", "head": "heads",
    "epoch": "stream size root next_key", "closed": "stream size root", "lost": "stream size root",
    "rebased": "stream size root old_size old_root key", "fork": "stream note", "abandoned": "stream from to reason sink?",
    "unwrap": "stream pod", "witnessed": "note", "pruned": "stream from to reason by nodes",
    "erased": "stream from to reason by nodes", "state": "key? witness? frontier? last? streams? pods? uncovered? abandoned? pruned? erased?",
}
NUMBER = re.compile("0|[1-9][0-9]*")
SECOND = 10 ** 9
# A sign of life each 300 s; 40 s between two blocks at most; 300 s more.
BEHIND = (300 + 40 + 300) * SECOND
# A stream is never silent for longer, nor a pod without one.
SILENT = 300 * SECOND


class Bad(Exception):
    """The ledger is not what was signed, or not whole."""


class NoBeginning(Exception):
    """Entries that follow each other, but none that reading can begin with: an export over a time may hold no more."""


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


def new_stream():
    return {"key": None, "later": {}, "size": 0, "root": None, "life": "open", "heads": [], "shown": [], "certified": None}


class Ledger:
    def __init__(self):
        self.clusters, self.streams, self.numbers = set(), {}, {}
        self.pods, self.uncovered, self.outages, self.last = {}, {}, [], 0
        self.abandoned, self.pruned, self.heads, self.forks = {}, [], [], set()
        # Stretches of entries that are not there: times of what is before and behind.
        self.witnesses, self.missing = set(), []
        # Names of streams that are known; and, from where reading begins until the end of that restatement, what was said of others.
        self.names, self.partial = set(), None
        # Names that were certified once more, after the first stream of that name: what is said of them then is not of it.
        self.again = {}

    def begin(self, seq):
        self.numbers, self.names, self.partial = {}, set(), {} if seq else None

    def ahead(self, stream, size, ended=False):
        """Whether this is said of a stream that is still to be restated: its row must hold it."""
        if stream in self.names or stream in self.numbers:
            return False
        if self.partial is None:
            raise ValueError("a stream without a certificate")
        before = self.partial.get(stream, (0, False))
        self.partial[stream] = (max(before[0], size), before[1] or ended)
        return True

    def stream(self, sid):
        return self.again[sid] if sid in self.again else self.streams.setdefault(sid, new_stream())

    def say(self, fields, typ, seq):
        number = lambda key: int(fields[key])
        if "witness" in fields:
            cluster, namespace, *_ = fields["sid"].split("/")
            self.witnesses.add((f"{cluster}/{namespace}/witness", bytes.fromhex(fields["witness"])))
        if typ == "resumed":
            self.outages.append((number("from"), number("t0")))
        elif typ == "expected":
            self.pods[fields["pod"]] = int(fields["from"])
        elif typ == "uncovered":
            self.uncovered[fields["pod"], fields["from"]] = fields["ns"]
        elif typ == "certified":
            sid = fields["stream"]
            if sid in self.names and self.stream(sid)["life"] == "open":
                raise ValueError("it has a certificate")
            if sid in self.streams:
                self.again[sid] = new_stream()
                self.numbers = {at: named for at, named in self.numbers.items() if named != sid}
            self.stream(sid)["key"], self.stream(sid)["certified"] = bytes.fromhex(fields["key"]), number("t0")
            self.numbers[str(seq)] = sid
            self.names.add(sid)
        elif typ == "head":
            for row in filter(None, fields["heads"].split(",")):
                stream, size, root = row.split(":")
                if not self.ahead(stream, int(size)):
                    self.advance(self.numbers[stream], int(size), root, number("t0"))
        elif typ in ("epoch", "closed"):
            self.ahead(fields["stream"], number("size"), typ == "closed")
            self.advance(fields["stream"], number("size"), fields["root"], number("t0"))
            if typ == "epoch":
                self.stream(fields["stream"])["later"][number("size")] = bytes.fromhex(fields["next_key"])
            else:
                self.stream(fields["stream"])["life"] = "closed"
        elif typ == "lost":
            self.ahead(fields["stream"], 0, True)
            if self.stream(fields["stream"])["life"] != "closed":
                self.stream(fields["stream"])["life"] = "lost"
        elif typ == "rebased":
            self.ahead(fields["stream"], number("size"))
            self.advance(fields["stream"], number("old_size"), fields["old_root"], number("t0"))
            self.advance(fields["stream"], number("size"), fields["root"], number("t0"))
            stream = self.stream(fields["stream"])
            stream["later"][number("size")], stream["rebased"] = bytes.fromhex(fields["key"]), True
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
        if "frontier" in fields and self.partial is not None:
            # Begun anew.
            self.partial = {}
        for row in filter(None, fields.get("streams", "").split(",")):
            at, sid, life, size, root, key, key_from, _, _, heard, *_ = row.split(":")
            stream = self.stream(sid)
            said = [(stream["size"], stream["life"] != "open")] if sid in self.names else []
            if self.partial is not None:
                said += [self.partial.pop(at, (0, False)), self.partial.pop(sid, (0, False))]
            if any(int(size) < before or (ended and life == "open") for before, ended in said):
                raise ValueError("it goes back")
            self.numbers[at] = sid
            self.names.add(sid)
            stream["life"], stream["size"], stream["root"] = life, int(size), bytes.fromhex(root)
            stream["shown"].append((int(heard), int(size)))
            if int(key_from):
                stream["later"][int(key_from)] = bytes.fromhex(key)
            else:
                # Its first epoch has not ended.
                stream["key"] = stream["key"] or bytes.fromhex(key)
        for row in filter(None, fields.get("pods", "").split(",")):
            uid, _, _, _, since = row.split(":")
            self.pods.setdefault(uid, int(since))
        for row in filter(None, fields.get("uncovered", "").split(",")):
            uid, namespace, _, _, since = row.split(":")
            self.uncovered.setdefault((uid, since), namespace)
        for row in filter(None, fields.get("abandoned", "").split(",")):
            sid, start, end, *_ = row.split(":")
            self.abandoned.setdefault(sid, []).append(range(int(start), int(end)))
        for typ in ("pruned", "erased"):
            for row in filter(None, fields.get(typ, "").split(",")):
                sid, start, end, _, _, nodes = row.split(":")
                self.remove(typ, sid, int(start), int(end), [bytes.fromhex(node) for node in nodes.split("+")])
        if "last" in fields:
            # What has ended may be forgotten; heads of it are known by number only.
            names = [self.partial[stream] for stream in self.partial or {} if "/" in stream]
            if len(self.partial or {}) > 2 * len(names) or not all(ended for _, ended in names):
                raise ValueError("a stream is left out")
            self.partial = None

    def advance(self, sid, size, root, time):
        stream = self.stream(sid)
        stream["shown"].append((time, size))
        stream["heads"].append((size, bytes.fromhex(root)))
        stream["size"], stream["root"] = size, bytes.fromhex(root)

    def excuses(self, sid, first):
        cluster, _, pod, _ = sid.split("/")
        kept = first < self.last and not any(start <= first <= end for start, end in self.outages)
        return cluster in self.clusters and (pod in self.pods or not kept)

    def was_unkept(self, first, last, lag, until):
        """Whether nobody kept it in some of this time, as far as it tells."""
        is_old = until - self.last > BEHIND + lag and last > self.last
        return is_old or any(first <= end and last >= start for start, end in self.outages)

    def had_by(self, sid, time):
        """How far this stream had come by then, as its heads say."""
        return max((size for at, size in self.streams[sid]["shown"] if at <= time), default=0)

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


def begins(seq, body):
    typ, fields = fields_of(body)
    return seq == 0 or (typ == "state" and "frontier" in fields)


def no_beginning(key, places, notes):
    """What can be told without a root: entries follow each other, heads and cosigned heads are the ledger's own."""
    signed = {}
    for note in notes:
        if note.signed_by(key) and signed.setdefault(note.size, note.root) != note.root:
            raise Bad("two heads of one size")
    due, prev = min(places), None
    for seq in sorted(places):
        typ, fields = fields_of(places[seq][0])
        if seq != due or (prev or fields.get("prev")) != fields.get("prev") or typ == "open":
            raise Bad(f"entry {seq} does not follow")
        if typ == "witnessed" and not Note(base64.b64decode(fields["note"], validate=True).decode()).signed_by(key):
            raise Bad(f"entry {seq}: a cosigned head of nobody's")
        due, prev = seq + 1, leaf_hash(places[seq][0]).hex()
    if max(signed) <= min(places):
        raise Bad("no signed head")
    raise NoBeginning(max(places) >= max(signed))


def follow(places, seq, leaf):
    """Back from the body with this hash, each names the one before; and where another one stands instead, if so."""
    chain = []
    while seq >= 0:
        body = next((body for body in places.get(seq, []) if leaf_hash(body) == leaf), None)
        if body is None:
            return chain[::-1], {seq} if seq in places else set()
        chain.append((seq, body))
        prev = parse(body).get("prev")
        if not re.fullmatch("[0-9a-f]{64}", prev or ""):
            break
        seq, leaf = seq - 1, bytes.fromhex(prev)
    return chain[::-1], set()


def begin(seq, body):
    """The tree of what came before an entry with which reading can begin; else None."""
    try:
        typ, fields = fields_of(body)
        if not begins(seq, body) or (typ == "open") != (seq == 0):
            return None
        tree = Tree()
        for (start, size), value in zip(cover(0, seq), hashes(fields.get("frontier", "")), strict=True):
            tree.put(start, size, value)
        return tree
    except (ValueError, KeyError, AttributeError):
        return None


def gives(chain, signed):
    """From where a chain can be read: what is read must give each signed root."""
    for at, (seq, body) in enumerate(chain):
        tree = begin(seq, body)
        if tree is None:
            continue
        for seq, body in chain[at:]:
            tree.put(seq, 1, leaf_hash(body))
            if seq + 1 in signed and tree.root(seq + 1) != signed[seq + 1]:
                return None
        return at
    return None


def pick(places, signed):
    """The entries under the last signed head, by their places, and what the other bodies are."""
    entries, genuine, changed = {}, set(), set()
    first = max(signed)
    for size in sorted(signed, reverse=True):
        for body in places.get(size - 1, []) if size <= first else []:
            chain, wrong = follow(places, size - 1, leaf_hash(body))
            at = gives(chain, signed)
            if at is not None:
                entries.update(chain[at:])
                genuine.update(chain)
                changed |= wrong
                first = chain[at][0]
                break
        if not entries:
            raise Bad("no entries give its last signed root")
    kinds = set()
    for seq, bodies in places.items():
        if seq >= max(signed) or any((seq, body) not in genuine for body in bodies):
            kinds.add("TAMPERED" if seq in changed else "FOREIGN")
    return entries, kinds


def can_begin(places):
    """Whether there is a whole restatement, or the first entry."""
    begun = False
    for seq in sorted(places):
        begun = begun or begins(seq, places[seq][0])
        if seq == 0 or (begun and "last" in fields_of(places[seq][0])[1]):
            return True
    return False


def unread(key, places, notes, problem):
    """What it means that a ledger cannot be read: perhaps only that it is a part."""
    if all(len(bodies) == 1 for bodies in places.values()):
        try:
            if not can_begin(places):
                no_beginning(key, places, notes)
        except (ValueError, KeyError, AttributeError):
            pass
    raise Bad(problem)


def read_one(sid, key, places, notes, ledger):
    """Takes up what is under the last signed head; what the other bodies are."""
    signed = {}
    for note in notes:
        if note.signed_by(key) and signed.setdefault(note.size, note.root) != note.root:
            raise Bad("two heads of one size")
    if not signed:
        raise Bad("no signed head")
    if max(signed) > max(places) + 1:
        raise Bad("cut")
    try:
        entries, kinds = pick(places, signed)
    except Bad as problem:
        unread(key, places, notes, str(problem))
    due, before = None, 0
    for seq, body in sorted(entries.items()):
        try:
            typ, fields = fields_of(body)
            if due is None or seq != due:
                # Reading begins, or goes on after what is not there, where all that is known is restated.
                ledger.begin(seq)
                if due is not None:
                    ledger.missing.append((before, int(fields["t0"])))
            ledger.say(fields, typ, seq)
        except (ValueError, KeyError, AttributeError) as problem:
            raise Bad(f"entry {seq}: {problem}") from problem
        due, before = seq + 1, int(fields["t0"])
        ledger.last = max(ledger.last, before)
    if ledger.partial is not None:
        unread(key, places, notes, "its restatement is not whole")
    ledger.clusters.add(sid.split("/")[0])
    return kinds


def read(roots, bodies):
    """The ledger, or None; and what was found of it."""
    keys, findings, ledger = root_keys(roots), set(), None
    entries, notes = entries_of(bodies)
    for sid, places in entries.items():
        if sid not in keys:
            findings.add("FOREIGN" if keys else "UNANCHORED")
            continue
        said = copy.deepcopy(ledger) or Ledger()
        try:
            findings |= read_one(sid, keys[sid], places, notes.get(sid, []), said)
            ledger = said
        except NoBeginning as part:
            # Its heads cannot be checked, so nothing of it is used.
            findings |= {"UNANCHORED", "FOREIGN"} if part.args[0] else {"UNANCHORED"}
        except Bad:
            findings.add("TAMPERED")
    if any(name not in entries for name in keys):
        findings.add("UNANCHORED")
    return ledger, findings
