"""A second verifier of Testimony's evidence, written from the rules alone: it shares no code with the first.

It holds everything in memory and looks at a stream from its end: a genuine record says what the one before it was. Input: JSON lines
{"name": ..., "bodies": [...]}, each a whole export, and beside them where they are given "roots" and "ledger", "max_lag_ns" and "to_ns". Output: for each a JSON
line with the verdict, all findings, the records and how many are proved. Standard library, `cryptography` for Ed25519, `rfc8785` for the canonical form.
"""

import base64
import json
import re
import sys

import ledger_oracle
from evidence import HASH, SID, Note, Tree, cover, hashes, leaf_hash, parse, sha

ORDER = ["OK", "PRUNED", "ERASED", "PENDING", "PARTIAL", "GAP", "UNCLOSED", "UNANCHORED", "PROJECTION", "UNKNOWN", "MISSING", "FOREIGN",
         "TAMPERED", "FORK"]
TYPS = {"open", "certified", "recovered", "policy", "clock", "stage", "exchange", "burst", "gap", "hole", "checkpoint", "close"}


def none_named(fields):
    """G3: the sum of `none_by`; of a list that was cut, what `none` says."""
    if any(part.startswith("none_by=") for part in fields.get("trunc", "").split(",")):
        return int(fields.get("none", "0"))
    counts = [re.fullmatch(r".*=([0-9]+)", entry, re.DOTALL) for entry in fields.get("none_by", "").split(",") if entry]
    if not all(counts):
        raise ValueError("none_by")
    return sum(int(count[1]) for count in counts)


def understood(fields):
    """Whether the counts of a record are such."""
    try:
        return fields["typ"] not in ("checkpoint", "close") or none_named(fields) >= 0
    except ValueError:
        return False


class Stream:
    def __init__(self, sid):
        self.sid, self.records, self.heads, self.holes, self.ends = sid, {}, [], [], []
        self.findings, self.proved, self.claimed, self.first_key = set(), 0, 0, None
        self.ledger, self.said, self.lag = None, None, 0
        # When what the ledger knew must have come to the backend; None: all that it knew.
        self.due = None
        # Places of what was removed by order at which something stands that nothing proves.
        self.strays = set()
        # Whether a head was proved under a later key that the ledger names; and one that it knows under a key that it does not.
        self.named, self.strange = False, False

    def add(self, seq, leaf, fields):
        self.records.setdefault(seq, {})[leaf] = fields

    def choose(self):
        """What stood at each place, from the end to the start: (leaf, fields or None)."""
        truth = {}
        above = None
        for seq in range(max(self.records, default=-1), -1, -1):
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
        if not self.records and not self.heads:
            return
        self.truth = self.choose()
        self.strays = {seq for hole in self.holes if hole["source"] is None for seq in self.strays_in(hole)}
        self.truth = {seq: stands for seq, stands in self.truth.items() if seq not in self.strays}
        for seq, (leaf, _) in self.truth.items():
            self.tree.put(seq, 1, leaf)
        for hole in self.holes:
            for (start, size), value in zip(cover(*hole["range"]), hole["nodes"], strict=True):
                self.tree.known.setdefault((start, size), value)
        self.size, self.forked = self.check_heads(self.truth, self.tree)

    def strays_in(self, hole):
        """What is left of records that were removed by order must lead to the record behind them, or fill a subtree of the order."""
        begin, end = hole["range"]
        there = lambda seq: self.truth.get(seq, (None, None))[1] is not None
        subtrees = {start + size: (start, size, value) for (start, size), value in zip(cover(begin, end), hole["nodes"], strict=True)}
        # Where something stands at each place, one that is not what the next names was changed; else somebody put it there.
        removed = any(not self.records.get(seq) for seq in range(begin, end))
        strays, good = set(), there(end)
        for seq in reversed(range(begin, end)):
            if not good and seq + 1 in subtrees:
                start, size, value = subtrees[seq + 1]
                tree = Tree()
                for leaf in filter(there, range(start, seq + 1)):
                    tree.put(leaf, 1, self.truth[leaf][0])
                good = tree.node(start, size, seq + 1) == value
            good = good and there(seq)
            if not good and (there(seq) or (removed and self.records.get(seq))):
                strays.add(seq)
        return strays

    def proves(self, seq, leaf):
        """Whether this record is proved: what it says of others counts only then."""
        return seq < max(self.size, self.end) and self.truth.get(seq, (None, None))[0] == leaf

    def times(self):
        """The earliest and the latest time in a record."""
        times = [int(f["t0"]) for claims in self.records.values() for f in claims.values() if f.get("t0", "").isdigit()]
        return min(times, default=0), max(times, default=0)

    def nothing(self):
        """A later start says that nothing of it was ever kept."""
        return any(end["size"] == 0 and end.get("head", 0) == 0 and end["heard"] for end in self.ends)

    def judge(self):
        if any(end.get("head", 0) > end["size"] for end in self.ends):
            # D3: a head is signed over what is durable; recovery must find at least that.
            self.findings.add("TAMPERED")
        if not self.records and (self.said is None or not self.heads):
            statements = [end for end in self.ends if not end["ledger"]]
            self.findings.add("MISSING" if (statements and not self.nothing()) or self.heads else "OK")
            if self.said is not None:
                self.absent()
            return
        self.end = self.check_ends(self.truth, self.tree, self.size)
        self.check_records(self.truth, max(self.size, self.end), self.size)
        self.check_life(self.truth, self.size, self.end)
        if self.forked:
            self.findings.add("FORK")

    def absent(self):
        """Nothing of it is there, and the ledger knows it."""
        pruned = {seq for seq in range(self.said["size"]) if self.ordered(seq)}
        if self.ledger.abandoned.get(self.sid):
            self.findings.add("GAP")
        if self.said["size"] == 0 and self.said["life"] == "lost":
            self.findings.add("UNCLOSED")
        elif not all(seq in pruned or self.ledger.gone(self.sid, seq) for seq in range(max(self.said["size"], 1))):
            certified = self.said["certified"]
            late = self.due is not None and certified is not None and certified > self.due
            self.findings.add("PENDING" if late else "MISSING")
        elif pruned:
            self.findings |= {self.ordered(seq) for seq in pruned}

    def ordered(self, seq):
        """By which kind of order this record is not there, if by any."""
        kinds = {hole["typ"].upper() for hole in self.holes if hole["source"] is None and seq in range(*hole["range"])}
        return "PRUNED" if "PRUNED" in kinds else max(kinds, default=None)

    def check_heads(self, truth, tree):
        key, keys = None, []
        for seq in sorted(truth):
            fields = truth[seq][1]
            if fields and fields.get("typ") == "open":
                keys.append((0, bytes.fromhex(fields["key"])))
            elif fields and "next_key" in fields:
                keys.append((seq + 2, bytes.fromhex(fields["next_key"])))
        named, told = keys[1:], {}
        if self.said is not None:
            told = {size + 1: key for size, key in self.said["later"].items()}
            first = {0: self.said["key"]} if self.said["key"] else {}
            keys = sorted((first | told | dict(keys)).items())
        size, seen, forked = 0, {}, False
        for head in sorted(self.heads, key=lambda head: head["note"].size):
            note = head["note"]
            begin, key = next(((begin, key) for begin, key in reversed(keys) if begin <= note.size), (0, None))
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
                if begin == 0:
                    self.first_key = self.first_key or key
                elif told.get(begin) == key:
                    self.named = True
                elif self.said is not None and note.size <= self.said["size"]:
                    self.strange = True
            else:
                absent = [seq for seq in range(note.size) if seq not in truth]
                gone = lambda seq: self.ordered(seq) or (self.ledger is not None and self.ledger.gone(self.sid, seq))
                if not absent or not all(gone(seq) for seq in absent):
                    self.findings.add("MISSING" if absent else "TAMPERED")
        for begin, _ in named:
            if size >= begin and begin - 1 not in seen:
                self.findings.add("MISSING")
        return size, forked

    def check_ends(self, truth, tree, size):
        end, self.ended = 0, None
        for stated in self.ends:
            if stated["size"] < size or stated["size"] == 0:
                continue
            root = tree.root(stated["size"])
            if root == stated["root"]:
                if stated["size"] > end and stated["heard"]:
                    end, self.ended = stated["size"], stated["life"]
            elif root is None and stated["ledger"]:
                absent = [seq for seq in range(size, stated["size"]) if truth.get(seq, (None, None))[1] is None]
                gone = [seq for seq in absent if self.ledger.gone(self.sid, seq)]
                self.findings |= {"GAP"} if gone else set()
                # What the ledger had of late may be on its way.
                due = stated["size"] if self.due is None else max(self.ledger.had_by(self.sid, self.due), size, self.claimed)
                rest = [seq for seq in absent if seq not in gone]
                self.findings |= {"PENDING"} if any(seq >= due for seq in rest) else set()
                self.findings |= {"MISSING"} if any(seq < due for seq in rest) or not absent else set()
            else:
                self.findings.add("MISSING" if root is None else "TAMPERED")
        return end

    def check_records(self, truth, covered, size):
        holes = [range(*hole["range"]) for hole in self.holes]
        close = self.closed(truth)
        for seq in range(max(covered, max(self.records, default=-1) + 1)):
            here = self.records.get(seq, {})
            genuine = truth.get(seq, (None, None))[1]
            if seq < max(covered, self.claimed):
                self.proved += genuine is not None and seq < covered
                if genuine is None and here:
                    self.findings.add("FOREIGN" if seq in self.strays else "TAMPERED")
                elif genuine is None:
                    order = self.ordered(seq)
                    gone = self.ledger is not None and self.ledger.gone(self.sid, seq)
                    declared = gone or any(seq in hole for hole in holes)
                    self.findings.add(order if order else "GAP" if declared else "MISSING")
            if len(here) > 1 or (close is not None and seq > close):
                self.findings.add("FOREIGN" if here else "MISSING")
            if genuine and genuine["typ"] == "":
                self.findings.add("UNKNOWN")
            if genuine and genuine["typ"] == "gap":
                self.findings.add("GAP")
        self.check_totals(truth, covered)

    def closed(self, truth):
        return min((seq for seq, (_, fields) in truth.items() if fields and fields.get("typ") == "close"), default=None)

    def check_totals(self, truth, covered):
        """G3: what is signed adds up, and is what is there since the checkpoint before; what is not there counts nothing."""
        base, counted = {}, {}
        for seq in range(covered):
            fields = truth.get(seq, (None, None))[1]
            if fields is None or fields["typ"] == "":
                counted = None
                continue
            typ = fields["typ"]
            kind, count = {"exchange": ("exchanges", 1), "burst": ("bursts", fields.get("count")),
                           "gap": ("gaps", fields.get("count"))}.get(typ, (None, 0))
            if kind and counted is not None:
                counted[kind] = counted.get(kind, 0) + int(count)
            if typ in ("checkpoint", "close"):
                total = {key: int(fields.get(key, "0")) for key in ("begun", "exchanges", "bursts", "gaps", "none", "open")}
                self.compare(total["begun"], sum(total.values()) - total["begun"])
                self.compare(total["none"], none_named(fields))
                adds_up = total["begun"] == sum(total.values()) - total["begun"]
                for key in ("exchanges", "bursts", "gaps") if counted is not None and adds_up else ():
                    if base.get(key, 0) + counted.get(key, 0) != total[key]:
                        self.findings.add("TAMPERED")
                base, counted = total, {}

    def compare(self, signed, accounted):
        if signed != accounted:
            self.findings.add("MISSING" if signed > accounted else "TAMPERED")

    def check_life(self, truth, size, end):
        close = self.closed(truth)
        if size == 0 and not end and not self.heads and (0 not in truth or truth[0][1] is None):
            self.findings.add("FOREIGN")
        elif (close is None or size <= close) and not (end and self.ended in ("closed", "recovered")):
            there = 1 + max((seq for seq in truth if truth[seq][1] is not None), default=-1)
            rest = there > max(size, end, self.claimed)
            life = None if self.said is None else self.said["life"]
            gone = self.ledger is not None and there < self.said_size() and all(
                self.ledger.gone(self.sid, seq) for seq in range(there, self.said_size()))
            if (life in ("open", "closed") and not rest and (life == "open" or gone)):
                return
            self.findings.add("PENDING" if life == "open" and self.was_alive(truth, size) else "UNCLOSED")

    def was_alive(self, truth, size):
        """Whether it lived when the ledger ended that knows a head of it: by what is proved of it, or when it began."""
        times = lambda records: [int(fields["t0"]) for fields in records if fields and fields.get("t0", "").isdigit()]
        proved = times(truth[seq][1] for seq in truth if seq < size)
        there = times(fields for claims in self.records.values() for fields in claims.values())
        lived = max(proved) if proved else min(there, default=0)
        return (self.said_size() > 0 and self.ledger.last - lived <= ledger_oracle.SILENT + self.lag
                and max(there, default=0) - self.ledger.last <= ledger_oracle.BEHIND + self.lag)

    def said_size(self):
        return 0 if self.said is None else self.said["size"]

    def anchor(self):
        """Whose key it is, and whether the ledger knows it."""
        if not self.records and not self.heads:
            return
        key = None if self.said is None else self.said["key"]
        # The ledger's own head vouches for what is there.
        by_ledger = any(end["ledger"] and self.tree.root(end["size"]) == end["root"] for end in self.ends)
        if key is not None and self.first_key is not None:
            self.findings |= {"TAMPERED", "UNANCHORED"} if key != self.first_key else set()
        elif not self.named and not by_ledger:
            self.findings.add("UNANCHORED")
            if key is not None and self.strange and not self.said.get("rebased") and not self.ledger.missing:
                self.findings.add("TAMPERED")
        if self.said is None and not self.ledger.excuses(self.sid, self.times()[0]):
            self.findings.add("FOREIGN")


    def behind(self, lag, until):
        """What is later than the ledger: when its witness cosigned last; and whether its own clock went on for too long."""
        proved = [head["cosigned"] for head in self.heads if head["cosigned"] and head["note"].size <= self.size
                  and self.tree.root(head["note"].size) == head["note"].root]
        told = any(not end["ledger"] and end["size"] >= self.size and self.tree.root(end["size"]) == end["root"] for end in self.ends)
        if self.said is not None and self.size > self.said["size"] and not told:
            late = [int(fields["t0"]) for seq, (_, fields) in self.truth.items()
                    if fields and fields["typ"] in ("checkpoint", "close") and seq >= self.said["size"]]
            late = [time for time in late if time <= until]
            if late and max(late) - min(late) > ledger_oracle.BEHIND + lag:
                self.findings.add("UNANCHORED")
        return max((self.ledger.cosigned(note) for note in proved), default=0)


def pod_of(sid):
    """Cluster, namespace and uid."""
    return sid.rsplit("/", 1)[0]


def cosigned_note(text, note):
    """The note with cosignatures, if it is that of this head."""
    try:
        cosigned = Note(base64.b64decode(text, validate=True).decode())
    except (ValueError, AttributeError):
        return None
    return cosigned if cosigned.text == note.text else None


def verify(bodies, roots="", ledger=None, lag=0, until=1 << 64):
    streams, findings = {}, set()
    told = None
    if ledger is not None:
        told, findings = ledger_oracle.read(roots, ledger)
    stream = lambda sid: streams.setdefault(sid, Stream(sid))
    named = set()
    for body in sorted(set(bodies)):
        try:
            fields = parse(body)
            typ = fields["typ"]
            if typ == "head":
                note = Note(base64.b64decode(fields["note"], validate=True).decode())
                frontier = hashes(fields["frontier"]) if "frontier" in fields else None
                if note.size < 1 or (frontier is not None and len(list(cover(0, note.size - 1))) != len(frontier)):
                    raise ValueError("frontier")
                cosigned = cosigned_note(fields["cosig"], note) if "cosig" in fields else None
                if "cosig" in fields and cosigned is None:
                    findings.add("FOREIGN")
                stream(note.origin).heads.append({"note": note, "frontier": frontier, "cosigned": cosigned})
                continue
            sid, seq = fields["sid"], fields["seq"]
            if not SID.match(sid) or not re.fullmatch("0|[1-9][0-9]*", seq):
                raise ValueError("place")
        except (ValueError, KeyError, AttributeError):
            findings.add("FOREIGN")
            continue
        known = typ in TYPS and fields["v"] == "1" and (typ == "open") == (seq == "0") and understood(fields)
        leaf = leaf_hash(body)
        stream(sid).add(int(seq), leaf, fields if known else {"typ": "", **{k: fields[k] for k in ("prev",) if k in fields}})
        source = sid, int(seq), leaf
        about = [fields[key] for key, of in (("hole_sid", "hole"), ("rec_sid", "recovered")) if typ == of]
        about += [name for key in ("after", "found") for name in fields.get(key, "").split(",") if name] if typ == "open" else []
        if known and any(pod_of(name) != pod_of(sid) for name in about):
            # No pod vouches for another one's streams: that does not count, whether or not it is signed.
            findings.add("FOREIGN")
        if typ in ("hole", "recovered") and pod_of(about[0]) != pod_of(sid):
            continue
        if typ == "hole":
            place = int(fields["hole_from"]), int(fields["hole_to"])
            stream(fields["hole_sid"]).holes.append({"range": place, "nodes": hashes(fields["nodes"]), "source": source})
        if typ == "recovered":
            size = int(fields.get("size", "0"))
            end = {"size": size, "root": bytes.fromhex(fields["root"]) if size else sha(), "source": source, "life": "recovered",
                   "head": int(fields.get("head_size", "0")), "ledger": False}
            stream(fields["rec_sid"]).ends.append(end)
        if typ == "open" and known:
            named.update((name, source) for name in about if pod_of(name) == pod_of(sid))
    if told is not None:
        take_up(told, stream)
    for one in streams.values():
        one.ledger, one.said, one.lag = told, None if told is None else told.streams.get(one.sid), lag
        one.due = None if told is None or until < 1 << 64 else told.last - lag
        one.prepare()
    proved = lambda source: source is None or streams[source[0]].proves(*source[1:])
    anchored = {sid for sid, one in streams.items() if one.said is not None}

    def heard(one, source, known=frozenset()):
        """Whether this record may excuse what is absent of that stream: anyone can sign a stream of their own that nobody vouches for."""
        if ledger is None or source is None or source[0] in anchored or source[0] == one.sid:
            return True
        is_strange = one.said is None and one.sid not in anchored and one.sid not in known
        return told is not None and (is_strange or told.was_unkept(*streams[source[0]].times(), lag, until))

    while True:
        # A record behind the last head may be proved by what a later start says of its stream, and then say something itself.
        before = [one.end for one in streams.values()], len(anchored)
        for one in streams.values():
            fits = [end for end in one.ends if proved(end["source"]) and one.tree.root(end["size"]) == end["root"]]
            one.end = max((end["size"] for end in fits if end["size"] > one.size and heard(one, end["source"])), default=0)
            if any(end["source"] and end["source"][0] in anchored and end["size"] >= max(one.size, 1) for end in fits):
                anchored.add(one.sid)
        if before == ([one.end for one in streams.values()], len(anchored)):
            break
    # One that is vouched for names it, and nothing of it is there.
    known = {name for name, source in named if proved(source) and (source is None or source[0] in anchored)}
    for one in streams.values():
        of_absent = frozenset() if one.records else known
        one.ends = [{**end, "heard": heard(one, end["source"], of_absent)} for end in one.ends if proved(end["source"])]
        one.holes = [hole for hole in one.holes if proved(hole["source"]) and heard(one, hole["source"])]
    for name, source in named:
        there = name in streams and (streams[name].records or streams[name].nothing())
        # Where holes alone give the root that a later start says, they say what that is worth.
        declared = name in streams and streams[name].end > 0
        if proved(source) and not declared and not there:
            findings.add("MISSING")
    for one in streams.values():
        one.judge()
        findings |= one.findings
    if told is None:
        # No roots and no ledger: nothing is anchored.
        findings.add("UNANCHORED")
    else:
        findings |= expected(told, streams, lag, until)
    findings.add("OK")
    verdict = max(findings, key=ORDER.index)
    records = sum(len(claims) for one in streams.values() for claims in one.records.values())
    return {"verdict": verdict, "findings": sorted(findings), "records": records, "proved": sum(one.proved for one in streams.values())}


def take_up(known, stream):
    """What the ledger says of streams, beside what they say themselves; nobody has to prove it once more."""
    for sid, said in known.streams.items():
        one = stream(sid)
        for size, root in said["heads"]:
            last = size == said["size"]
            one.ends.append({"size": size, "root": root, "source": None, "life": said["life"] if last else "open", "ledger": True})
    for typ, sid, place, nodes in known.pruned:
        stream(sid).holes.append({"typ": typ, "range": place, "nodes": nodes, "source": None})


def expected(known, streams, lag, until):
    findings = {"GAP"} if any(int(since) <= until for _, since in known.uncovered) else set()
    findings |= {"MISSING"} if any(before <= until for before, _ in known.missing) else set()
    findings |= {"FORK"} if known.forks else set()
    there = {sid.split("/")[2] for sid, one in streams.items() if one.records or one.heads or one.said is not None}
    for since in (since for uid, since in known.pods.items() if uid not in there):
        findings.add("MISSING" if since < known.last - ledger_oracle.SILENT else "PENDING")
    cosigned = max((one.behind(lag, until) for one in streams.values()), default=0)
    if min(cosigned, until) - known.last > ledger_oracle.BEHIND + lag:
        findings.add("UNANCHORED")
    for one in streams.values():
        one.anchor()
        findings |= one.findings
    return findings


def main():
    for line in sys.stdin:
        case = json.loads(line)
        scope = case.get("max_lag_ns", 0), case.get("to_ns") or 1 << 64
        print(json.dumps({"name": case["name"], **verify(case["bodies"], case.get("roots", ""), case.get("ledger"), *scope)}), flush=True)


if __name__ == "__main__":
    main()
