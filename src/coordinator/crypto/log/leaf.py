r"""The leaf of an event: the bytes that the Merkle tree hashes (docs/auditing.md has it for other languages).

    coordinator leaf 1\n<position>\n<stream>\n<version>\n<topic>\n<metadata>\n<state>\n

Numbers are decimal, the stream is a UUID in lower case with hyphens. Metadata and state are the stored bytes,
JSON on one line. The state of a large event stands there as `sha256 <64 hex digits> <bytes>`: an entry of a
bundle (C2SP tlog-tiles) has at most 65,535 bytes, and stored states begin with a brace.
"""

import hashlib
import re
from typing import Final, NamedTuple

from coordinator.crypto.merkle import leaf_hash

HEADER: Final = b"coordinator leaf 1"
MAX_STATE_BYTES: Final = 60_000
"""A longer state stands in the leaf by its digest."""
MAX_LEAF_BYTES: Final = 65_535
_LINES: Final = 7
_NUMBER: Final = re.compile(rb"0|[1-9][0-9]{0,18}")
_STREAM: Final = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TOPIC: Final = re.compile(rb"[a-z_]+\.[a-z_]+\.v[0-9]+")
_DIGEST: Final = re.compile(rb"sha256 ([0-9a-f]{64}) ([1-9][0-9]{0,18})")


class BadLeaf(ValueError):
    """Not the leaf of an event; the text says what is wrong with it."""


class StateDigest(NamedTuple):
    """A large state: its SHA-256 and its length in bytes."""

    sha256: str
    size: int

    def fits(self, state: bytes) -> bool:
        """Whether this is that state."""
        return len(state) == self.size and hashlib.sha256(state).hexdigest() == self.sha256


class Leaf(NamedTuple):
    """A leaf, read."""

    position: int
    stream: str
    version: int
    topic: str
    metadata: bytes
    state: bytes | StateDigest


def leaf(position: int, stream: str, version: int, topic: str, metadata: bytes, state: bytes) -> bytes:
    """The leaf of one event. `metadata` and `state` are the stored bytes. Raises BadLeaf."""
    if len(state) > MAX_STATE_BYTES:
        state = b"sha256 %b %d" % (hashlib.sha256(state).hexdigest().encode(), len(state))
    elif state[:1] != b"{":
        raise BadLeaf("a stored state begins with a brace")
    found = b"%b\n%d\n%b\n%d\n%b\n%b\n%b\n" % (
        HEADER,
        position,
        stream.encode(),
        version,
        topic.encode(),
        metadata,
        state,
    )
    # One count for all: a line feed in any part would make two readings of one leaf possible.
    if found.count(b"\n") != _LINES:
        raise BadLeaf("stored metadata and states are JSON on one line")
    if len(found) > MAX_LEAF_BYTES:
        raise BadLeaf(f"a leaf has at most {MAX_LEAF_BYTES} bytes; this event's metadata are too long")
    return found


def hash_of(position: int, stream: str, version: int, topic: str, metadata: bytes, state: bytes) -> bytes:
    """The Merkle tree's hash of an event's leaf. Raises BadLeaf."""
    return leaf_hash(leaf(position, stream, version, topic, metadata, state))


def read_leaf(content: bytes) -> Leaf:
    """The parts of a leaf. Raises BadLeaf."""
    if len(content) > MAX_LEAF_BYTES:
        raise BadLeaf(f"a leaf has at most {MAX_LEAF_BYTES} bytes")
    *lines, end = content.split(b"\n")
    if len(lines) != _LINES or end:
        raise BadLeaf(f"a leaf has {_LINES} lines")
    header, position, stream, version, topic, metadata, state = lines
    if header != HEADER:
        raise BadLeaf(f"a leaf begins with the line {HEADER.decode()!r}")
    for name, form, line in (
        ("position", _NUMBER, position),
        ("stream", _STREAM, stream),
        ("version", _NUMBER, version),
        ("topic", _TOPIC, topic),
    ):
        if not form.fullmatch(line):
            raise BadLeaf(f"invalid {name}")
    digest = _DIGEST.fullmatch(state)
    if digest is None and state[:1] != b"{":
        raise BadLeaf("a state is JSON, or the digest of JSON")
    return Leaf(
        int(position),
        stream.decode(),
        int(version),
        topic.decode(),
        metadata,
        state if digest is None else StateDigest(digest[1].decode(), int(digest[2])),
    )
