"""Canonical bodies, the tree of RFC 6962 and signed notes, from the rules alone."""

import base64
import hashlib
import json
import re

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

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


    def cosigned_at(self, name, key):
        """When this witness cosigned it, in seconds: the first time."""
        hint, times = sha(name.encode(), b"\n\x04", key)[:4], []
        for signer, identity, signature in self.signatures:
            if signer == name and identity == hint and len(signature) == 72:
                seconds = int.from_bytes(signature[:8], "big")
                text = f"cosignature/v1\ntime {seconds}\n{self.text}"
                try:
                    Ed25519PublicKey.from_public_bytes(key).verify(signature[8:], text.encode())
                    times.append(seconds)
                except (InvalidSignature, ValueError):
                    pass
        return min(times, default=None)


def hashes(text):
    return [bytes.fromhex(part) for part in text.split(",") if part]
