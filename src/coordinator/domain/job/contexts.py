"""The facts for the decisions about jobs: tuples, because every command makes one."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from coordinator.domain.account import AccountState
from coordinator.domain.decision import Context
from coordinator.domain.errors import Refusal
from coordinator.domain.matching.needs import Wanted
from coordinator.domain.messages import Millis, Principal
from coordinator.domain.miner import MinerState
from coordinator.domain.service import ServiceState


class SubmitContext(NamedTuple):
    """The facts for a submit."""

    now: Millis
    principal: Principal
    job_id: UUID
    """The id of the new job, and so of its stream."""
    service: ServiceState
    """The registry entry. May be stale: the job is then accepted under the entry of a moment ago, whose
    version it records."""
    wanted: Wanted
    """The job's class; computed from the command, never stale."""
    payload_digest: str
    """SHA-256 over salt and payload; computed from the command, never stale."""
    fingerprint: str
    """Keyed digest of the request, which tells a repeat from another request with the same idempotency key;
    computed from the command, never stale."""
    fault: Refusal | None = None
    """The fault of the payload, if any: it breaks the service's schema, or refers to the wrong blobs."""
    unmatched: Refusal | None = None
    """The refusal of a client that does not want to wait, if no live miner could run the job. May be stale:
    such a miner left a moment ago, and the job waits as any other does; or it came a moment ago, and the
    client sends the job again. Nothing is recorded of a refused job."""
    payload_bytes: int = 0
    """The length of the payload's canonical JSON; computed from the command, never stale."""
    callback: str | None = None
    """The command's `callback_url`, sealed; computed from the command, never stale."""
    accounts: bool = False
    """Whether the coordinator keeps accounts, so that the job's worst case is set aside."""
    account: AccountState = None
    """The client's account. Not stale: the decision appends to it."""
    by: str | None = None
    """The name of the sender, where it is not the job's client: an operator that submits a job again."""


class AttemptContext(NamedTuple):
    """The facts for a claim, a failure or a release."""

    now: Millis
    principal: Principal
    miner: MinerState
    """The state of the miner. May be stale: a session that was lost a moment ago gets a lease that no
    heartbeat extends, so that the timers end it. Nothing is paid twice: the attempt is the fence."""
    offered: bool
    """Whether the command has the token of the attempt's offer to the miner's profile; computed from the
    command and the miner's state."""


class CompletionContext(NamedTuple):
    """The facts for a result."""

    now: Millis
    principal: Principal
    miner: MinerState
    """As in `AttemptContext`."""
    offered: bool
    """As in `AttemptContext`."""
    fault: Refusal | None = None
    """The fault of the statement or of the blobs that the result refers to, if any."""
    result_bytes: int = 0
    """The length of the result's canonical JSON; computed from the command, never stale."""
    breach: Refusal | None = None
    """The breach of the output schema, if any; it ends the attempt. Computed from the result and from the
    version of the service that the job was submitted under, never stale."""
    shown: int | None = None
    """The counted units that the result shows, in nano-units; None where nothing says how. Computed from the
    result and its blobs, and from the same version of the service, never stale."""


JobContext = SubmitContext | AttemptContext | CompletionContext | Context
