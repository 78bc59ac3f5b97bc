"""The request `add-checkpoint` (C2SP tlog-witness), between a log and its witnesses."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from coordinator.crypto.log.checkpoint import MAX_SIZE, SignedCheckpoint, read_checkpoint
from coordinator.crypto.log.note import MAX_NOTE_BYTES
from coordinator.crypto.merkle import HASH_BYTES

PATH: Final = "/add-checkpoint"
SIZE_TYPE: Final = "text/x.tlog.size"
"""The media type of a conflict's answer: the size that the witness has."""
MAX_PROOF_LINES: Final = 63
MAX_REQUEST_BYTES: Final = MAX_NOTE_BYTES + 4096
_OLD: Final = re.compile(r"old (0|[1-9][0-9]{0,18})")


class BadRequest(ValueError):
    """Not a request of this protocol; the text says why."""


class AddCheckpoint(NamedTuple):
    """A new checkpoint, with the proof that its tree begins with the one of `old_size`."""

    old_size: int
    proof: Sequence[bytes]
    signed: SignedCheckpoint

    def encode(self) -> bytes:
        """The body of the request."""
        lines = [f"old {self.old_size}", *(base64.b64encode(h).decode() for h in self.proof)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.signed.text.encode()

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """The request with this body. Raises BadRequest, and BadNote for its checkpoint."""
        if len(body) > MAX_REQUEST_BYTES:
            raise BadRequest(f"a request has at most {MAX_REQUEST_BYTES} bytes")
        head, separator, note = body.partition(b"\n\n")
        try:
            old, *proof = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise BadRequest("the lines before the checkpoint are ASCII") from None
        found = _OLD.fullmatch(old)
        if not separator or found is None or int(found[1]) > MAX_SIZE:
            raise BadRequest("a request is a line `old N`, lines of hashes, an empty line, and a checkpoint")
        if len(proof) > MAX_PROOF_LINES:
            raise BadRequest(f"a proof has at most {MAX_PROOF_LINES} hashes")
        return cls(int(found[1]), [_hash(line) for line in proof], read_checkpoint(note))


def read_size(answer: bytes) -> int | None:
    """The size in the answer to a conflict; None if there is none."""
    found = re.fullmatch(rb"(0|[1-9][0-9]{0,18})\n", answer)
    return int(found[1]) if found else None


def _hash(line: str) -> bytes:
    try:
        data = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != HASH_BYTES or base64.b64encode(data).decode() != line:
        raise BadRequest("a line of a proof is a hash of 32 bytes, in base64")
    return data
