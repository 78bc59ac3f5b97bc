"""The details of a prepared command about a job, beside the states of its decision."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from coordinator.domain.errors import Refusal
from coordinator.domain.job import KnownJob
from coordinator.domain.matching.needs import Wanted
from coordinator.domain.matching.units import ShownBy
from coordinator.domain.miner import MinerState


class PreparedSubmit(NamedTuple):
    """The details of a submit that don't depend on states."""

    wanted: Wanted
    """The job's class, by the version in `checked`."""
    payload_digest: str
    fingerprint: str
    refs: frozenset[str]
    """The blobs that the payload refers to."""
    checked: int | None
    """The version of the service whose schema the payload fits; None for a repeat, which is not checked."""
    reference_fault: Refusal | None = None
    """The fault of these references, if any. Raised in the decision, because a repeat is answered anyway."""
    size: int = 0
    """The length of the payload's canonical JSON."""
    unmatched: Refusal | None = None
    """See `SubmitContext`. As the reference's fault, it is raised in the decision."""
    callback: str | None = None
    """The sealed `callback_url`."""
    by: str | None = None
    """See `SubmitContext`."""


class Counted(NamedTuple):
    """A result whose units are to be counted, and how it shows them."""

    unit: str
    shown: tuple[ShownBy, ...]
    result: dict[str, Any]

    @property
    def weighs_blobs(self) -> bool:
        return any(term.blob_bytes for term in self.shown)


class PreparedResult(NamedTuple):
    """The details of a result that don't depend on states."""

    refs: frozenset[str] = frozenset()
    proven: bool = False
    """Whether the statement proves the result. Not looked at for a repeat, and for a breach of the schema."""
    breach: Refusal | None = None
    """The breach of the output schema, if any."""
    reference_fault: Refusal | None = None
    size: int = 0
    """The length of the result's canonical JSON."""
    offered_to: str | None = None
    """The profile that the command's token was found to fit; None if it was not looked at."""
    counted: Counted | None = None
    """Until its units are counted."""
    shown: int | None = None
    """See `CompletionContext`."""


Details = PreparedSubmit | PreparedResult | None


class Place(NamedTuple):
    """The place of a result in its job, by the states before its batch."""

    kind: Literal["due", "repeat", "ended"]
    """See `check_result`."""
    state: KnownJob
    miner: MinerState
    offered_to: str | None = None
    """See `PreparedResult`."""


Lease = Place | Refusal | None
"""The place of a result, or its refusal; None for other commands."""
