"""The passport of a job: the form of the file that proves it offline (docs/passport.md has it byte by byte).

A passport says nothing twice: the events say who asked for what, who held the job and what came out. Whoever
reads one verifies it first (`coordinator.audit.passport`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from coordinator.crypto.shared_signature import Digest
from coordinator.crypto.signature import StrictModel

FORMAT: Final = "coordinator passport 1"
MAX_PASSPORT_BYTES: Final = 64 * 1024 * 1024
MAX_PATH: Final = 63
"""Hashes in the path of an event: a log has less than 2**63."""

Number = Annotated[int, Field(ge=0, lt=2**63)]
Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Salt = Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$", max_length=256)]


class ProvenEvent(StrictModel):
    """The parts of an event's leaf, and the proof that the checkpoint's tree has this leaf."""

    position: Number
    stream: Uuid
    version: Number
    topic: str
    metadata: str
    """The stored text: JSON."""
    state: str
    """The stored text: JSON, also where the leaf has only its digest."""
    index: Number
    path: Annotated[list[Digest], Field(max_length=MAX_PATH)]
    """Hashes from the bottom up (RFC 6962, section 2.1.1)."""


class Salts(StrictModel):
    """The salts of the digests, in hex. Whoever has the payload or the result can compare its digest then."""

    payload: Salt | None = None
    result: Salt | None = None


class Passport(StrictModel):
    """Everything that proves one job. The keys in it are claims: trust comes from outside."""

    format: Literal["coordinator passport 1"] = FORMAT
    job_id: Uuid
    events: Annotated[list[ProvenEvent], Field(min_length=1)]
    """All events of the job, in their order."""
    relied_on: list[ProvenEvent]
    """What they rely on, in the order of the log: the coordinator's signing keys, the service's version, and
    the registration of each miner's session that held the job."""
    receipt: dict[str, Any] | None
    """With attestations and the miner's statement; null unless the job was completed."""
    checkpoint: str
    """The signed note, with the cosignatures of witnesses."""
    log_key: str
    """The verifier key of the checkpoint, `origin+hash+base64`, by the word of the coordinator."""
    salts: Salts | None = None
