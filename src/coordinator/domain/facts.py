"""What `decide` is told besides the state and the command: time, identity, and lookups.

A decision may read only the stream that it appends to; a version check guards no others. Everything else it
needs is looked up before and handed in here, and each field says what happens when it is stale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from coordinator.domain.errors import Refusal
from coordinator.domain.messages import SYSTEM, Millis, Principal

if TYPE_CHECKING:
    from coordinator.domain.matching import Wanted
    from coordinator.domain.miner import MinerState
    from coordinator.domain.name import NameState
    from coordinator.domain.service import ServiceState

_NO_STREAM = UUID(int=0)


class WorkDone(NamedTuple):
    """The content of a receipt, before it is signed."""

    job_id: str
    attempt: int
    service: str
    client: str
    miner_id: str
    payload_digest: str
    result_digest: str
    units: str
    unit_price: str
    price: str
    started_at: Millis
    completed_at: Millis
    statement: Mapping[str, Any]


class Facts(NamedTuple):
    """One decision's surroundings. A tuple, as one is made for every command."""

    now: Millis
    principal: Principal = SYSTEM
    stream: UUID = _NO_STREAM
    """The id of the stream that is decided: a new job's id."""

    service: ServiceState | None = None
    """job.submit: the registry entry. Stale: a job is accepted under the entry that was current a moment
    ago; the job records which version that was."""

    wanted: Wanted | None = None
    """job.submit: the job's class; computed from the command, never stale."""

    miner: MinerState | None = None
    """job.start, job.complete: the miner's own stream. Stale: a session that was lost a moment ago gets a
    lease that no heartbeat extends, so that the timers end it; nothing is paid twice, the attempt fences."""

    names: Mapping[str, NameState] = MappingProxyType({})
    """service.register, service.revise: the names that the entry is to have, and those it had. Not stale: the
    decision appends to the streams of those that it changes."""

    payload_digest: str = ""
    """job.submit: SHA-256 over salt and payload; computed from the command, never stale."""

    fingerprint: str = ""
    """job.submit: keyed digest of the request, to tell a repeat from another request with the same key;
    computed from the command, never stale."""

    key_salt: str = ""
    key_digest: str = ""
    """key.create, key.rotate: what an event holds of the new secret; made with the command, never stale."""

    fault: Refusal | None = None
    """What checking the command's content against the lookups found wrong (the payload against the
    service's schema, the signed statement against the miner's key)."""

    seal: Callable[[WorkDone], dict[str, Any]] | None = None
    """job.complete: signs a receipt. Deterministic: the same work gives the same bytes."""
