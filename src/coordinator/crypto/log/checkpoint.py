"""Checkpoints (C2SP tlog-checkpoint): the signed size and root of a log."""

import base64
import re
from collections.abc import Collection
from typing import Final, NamedTuple, Self

from coordinator.crypto.keys import SigningKey
from coordinator.crypto.log.note import (
    Algorithm,
    BadNote,
    Note,
    NoteSignature,
    VerifierKey,
    read_note,
    sign_note,
)
from coordinator.crypto.merkle import HASH_BYTES

MAX_SIZE: Final = 2**63 - 1
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_ORIGIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}")


class Checkpoint(NamedTuple):
    """A log's state: the root of the Merkle tree over its first `size` leaves."""

    origin: str
    """The log's name; nobody else signs checkpoints under it."""
    size: int
    root: bytes
    """32 bytes."""
    extensions: str = ""
    """Further lines, each with its newline; ours have none."""

    @property
    def text(self) -> str:
        """The signed text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n{self.extensions}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The checkpoint with this text. Raises BadNote."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
            raise BadNote("a checkpoint has at least three lines, none of them empty")
        origin, size, root, *more = lines[:-1]
        if not _SIZE.fullmatch(size) or int(size) > MAX_SIZE:
            raise BadNote("a checkpoint's second line is the size of the tree")
        try:
            hashed = base64.b64decode(root, validate=True)
        except ValueError:
            hashed = b""
        found = cls(origin, int(size), hashed, "".join(f"{line}\n" for line in more))
        if len(hashed) != HASH_BYTES or found.text != text:
            raise BadNote("a checkpoint's third line is a root of 32 bytes, in base64")
        return found


class SignedCheckpoint(NamedTuple):
    """A checkpoint, and the note that it came in."""

    checkpoint: Checkpoint
    note: Note

    @property
    def text(self) -> str:
        """The whole note."""
        return str(self.note)


def check_origin(origin: str) -> str:
    """The same origin. Raises BadNote unless a log of ours may have it.

    Nothing else that the coordinator's key signs begins with such a line.
    """
    if not _ORIGIN.fullmatch(origin) or origin == "cosignature/v1":
        raise BadNote(
            "a log's origin is up to 255 letters, digits and . _ : / -, such as example.com/coordinator"
        )
    return origin


def log_key(key: SigningKey, origin: str) -> VerifierKey:
    """The verifier key of a log whose checkpoints this key signs."""
    return VerifierKey.of(key, origin, Algorithm.NOTE)


def sign_checkpoint(key: SigningKey, checkpoint: Checkpoint) -> SignedCheckpoint:
    """The checkpoint, signed under its origin. Raises BadNote for an origin that a log can't have."""
    check_origin(checkpoint.origin)
    signature = sign_note(key, checkpoint.origin, checkpoint.text)
    return SignedCheckpoint(checkpoint, Note(checkpoint.text, (signature,)))


def read_checkpoint(data: bytes) -> SignedCheckpoint:
    """A checkpoint in its note; its signatures are not verified. Raises BadNote."""
    note = read_note(data)
    return SignedCheckpoint(Checkpoint.parse(note.text), note)


class VerifiedCheckpoint(NamedTuple):
    """A checkpoint with a right signature of its log."""

    checkpoint: Checkpoint
    log_key: VerifierKey
    cosignatures: list[tuple[VerifierKey, NoteSignature]]


def verify_checkpoint(
    signed: SignedCheckpoint, log_keys: Collection[VerifierKey], witnesses: Collection[VerifierKey] = ()
) -> VerifiedCheckpoint:
    """Check the signature of the log, and the cosignatures of these witnesses as far as there are any.

    Raises BadNote without a signature of a key of `log_keys` that is named like the origin, and for a wrong
    signature of any of these keys.
    """
    origin = signed.checkpoint.origin
    own = [k for k in log_keys if k.algorithm is Algorithm.NOTE and k.name == origin]
    found = signed.note.signed_by(own)
    if not found:
        raise BadNote(f"no signature of a trusted key of the log {origin}")
    cosigners = [k for k in witnesses if k.algorithm is Algorithm.COSIGNATURE]
    return VerifiedCheckpoint(signed.checkpoint, found[0][0], signed.note.signed_by(cosigners))


def is_split_view(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether one log can't have signed both honestly: the same origin and size, and different roots."""
    return (one.origin, one.size) == (other.origin, other.size) and one.root != other.root
