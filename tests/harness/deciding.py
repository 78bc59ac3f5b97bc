"""`given(events).when(command).then(events or refusal)`: how the tests of the deciders read.

    given(submitted(), started()).when(cancel, by=ALICE).then(canceled())
    given(submitted()).when(cancel, by=BOB).then(Code.JOB_NOT_FOUND)

The builders below make one of each, equal to the next one made with the same arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from coordinator.domain import content, job, key, miner, service, standing
from coordinator.domain.decision import Context, fold
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.matching.needs import (
    Capabilities,
    Constraints,
    Gpu,
    normalise_capabilities,
    profile_of,
    wanted,
)
from coordinator.domain.messages import SYSTEM, Command, Event, Principal, Role, principal_of
from coordinator.domain.name import Held

JOB_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
ALICE = Principal("alice", Role.CLIENT)
BOB = Principal("bob", Role.CLIENT)
ADMIN = Principal("root", Role.ADMIN)
RIG = Principal("rig", Role.MINER)
OTHER_RIG = Principal("other-rig", Role.MINER)

T0 = 1_700_000_000_000  # when the examples' jobs are submitted, milliseconds
SECOND = 1000
EXPIRES = T0 + 900 * SECOND
SESSION = "session-1"
KEY = "k" * 43
SALT = "ab" * 16
PAYLOAD_DIGEST, RESULT_DIGEST = "a" * 64, "b" * 64
SIGNATURE = {"alg": "Ed25519", "key_id": "A" * 43, "sig": "B" * 86}
"""Of a statement; that signatures are checked has tests of its own."""
FINGERPRINT = "fingerprint-1"


# --- given, when, then -------------------------------------------------------------------------------------
def given(*events: Event) -> Given:
    """The history of one stream."""
    return Given(events, fold(events))


@dataclass(frozen=True)
class Given:
    history: tuple[Event, ...]
    state: Any

    def when(
        self, command: Command, *, by: Principal | None = None, now: int | None = None, **facts: Any
    ) -> Decided:
        """Decide; `by`: the usual sender of this command, `now`: one second after the last event, `facts`:
        what of the context is not as usual."""
        now = now if now is not None else (self.history[-1].at + SECOND if self.history else T0)
        context = context_of(command, now, by or usual_sender(command), **facts)
        try:
            events = decide(self.state, command, context)
        except Refusal as refusal:
            return Decided(self, command, [], refusal)
        return Decided(self, command, events, None)


@dataclass(frozen=True)
class Decided:
    given: Given
    command: Command
    events: list[Event]
    refusal: Refusal | None

    def then(self, *expected: Event | Code) -> Decided:
        """These events and no others (none for a repeat), or a refusal with this code."""
        if expected and isinstance(expected[0], Code):
            actual = self.refusal.code if self.refusal else self.events
            assert expected[0] == actual
        else:
            assert self.refusal is None, f"refused: {self.refusal}"
            assert list(expected) == self.events
        return self

    @property
    def detail(self) -> str:
        assert self.refusal is not None
        return self.refusal.detail

    @property
    def state(self) -> Any:
        own = [event for event in self.events if event.noun == self.command.noun]
        return fold(own, self.given.state)

    @property
    def answer(self) -> dict[str, Any]:
        """What the sender is told."""
        assert self.refusal is None, f"refused: {self.refusal}"
        return answer(self.state, self.command)

    def again(self, command: Command | None = None, **facts: Any) -> Decided:
        """The same command once more (or another), after these events."""
        return given(*self.given.history, *self.events).when(command or self.command, **facts)


MODULES: dict[str, Any] = {
    "content": content,
    "job": job,
    "miner": miner,
    "service": service,
    "key": key,
    "standing": standing,
}
CONTEXTS: dict[type[Command], Any] = {
    content.ContentErase: content.ErasureContext,
    job.JobSubmit: job.SubmitContext,
    job.JobComplete: job.CompletionContext,
    job.JobStart: job.AttemptContext,
    job.JobFail: job.AttemptContext,
    service.ServiceRegister: service.EntryContext,
    service.ServiceRevise: service.EntryContext,
    key.KeyCreate: key.SecretContext,
    key.KeyRotate: key.SecretContext,
}
"""The others need the moment and the sender alone."""


def decide(state: Any, command: Command, context: Any) -> list[Event]:
    """The events of a decision, in order, without the streams that they belong to. Raises Refusal."""
    return [event for _, event in MODULES[command.noun].decide(state, command, context)]


def answer(state: Any, command: Command) -> dict[str, Any]:
    body: dict[str, Any] = MODULES[command.noun].answer(state, command)
    return body


def context_of(command: Command, now: int, by: Principal, **facts: Any) -> Any:
    """The usual context of a command, but for these facts; those that it has no use for are left out."""
    kind = CONTEXTS.get(type(command), Context)
    known = {name: value for name, value in {**usual_facts(command), **facts}.items() if name in kind._fields}
    return kind(now=now, principal=by, **known)


def usual_sender(command: Command) -> Principal:
    if isinstance(command, job.JobSubmit | job.JobCancel | content.ContentErase):
        return ALICE
    if Role.MINER in command.senders:
        return RIG
    return ADMIN if Role.ADMIN in command.senders else SYSTEM


def usual_facts(command: Command) -> dict[str, Any]:
    if isinstance(command, job.JobSubmit):
        return {
            "job_id": JOB_ID,
            "service": service.RegisteredService(a_spec(), version=1),
            "wanted": wanted(command.service, command.constraints),
            "payload_digest": PAYLOAD_DIGEST,
            "fingerprint": FINGERPRINT,
        }
    if isinstance(command, service.ServiceRegister | service.ServiceRevise):
        # Its names are its own already; what happens to names has tests of its own.
        return {"names": {n: Held(n, command.spec.id) for n in service.names_of(command.spec)}}
    if isinstance(command, content.ContentErase):
        return {"jobs": {JOB_ID: content.ErasableJob("alice", is_final=True)}}
    if isinstance(command, job.AttemptCommand):
        return {"miner": online(), "offered": True}
    return {}


# --- services and miners -----------------------------------------------------------------------------------
def a_spec(**changes: Any) -> service.ServiceSpec:
    fields: dict[str, Any] = {
        "id": "whisper",
        "name": "Whisper",
        "category": "ai_ml",
        "description": "Speech to text",
        "input_schema": {"type": "object"},
        "output_schema": {"type": "object"},
        "pricing": {"unit": "second", "amount": "0.002"},
        **changes,
    }
    return service.ServiceSpec.model_validate(fields)


def capabilities(**changes: Any) -> Capabilities:
    fields: dict[str, Any] = {
        "services": ("whisper",),
        "gpus": (Gpu(name="NVIDIA GeForce RTX 4090", memory_mb=24_564),),
        "cuda": "12.4",
        **changes,
    }
    return Capabilities(**fields)


def register(session: str = SESSION, miner_id: str = "rig", **changes: Any) -> miner.MinerRegister:
    fields: dict[str, Any] = {"capabilities": capabilities(), "public_key": KEY, **changes}
    return miner.MinerRegister(miner_id=miner_id, session_id=session, **fields)


def registered(
    session: str = SESSION, miner_id: str = "rig", at: int = T0, **changes: Any
) -> miner.MinerRegistered:
    able = changes.pop("capabilities", capabilities())
    fields: dict[str, Any] = {
        "profile": profile_of(able, principal_of(miner_id)),
        "concurrency": 1,
        "public_key": KEY,
        **changes,
    }
    return miner.MinerRegistered(
        at=at,
        by=miner_id.rpartition("@")[2],
        miner_id=miner_id,
        session_id=session,
        capabilities=normalise_capabilities(able),
        **fields,
    )


def online(session: str = SESSION, miner_id: str = "rig", **able: Any) -> miner.Online:
    """A miner that lives, as `decide` is told of it."""
    return miner.Online(registered(session, miner_id, capabilities=capabilities(**able)))


# --- job commands ------------------------------------------------------------------------------------------
def submit(**changes: Any) -> job.JobSubmit:
    return job.JobSubmit.model_validate({"service": "whisper", "payload": {"audio": "a.wav"}, **changes})


def _attempt(attempt: int, session: str, miner_id: str) -> dict[str, Any]:
    return {"attempt": attempt, "miner_id": miner_id, "session_id": session}


def start(attempt: int = 1, session: str = SESSION, miner_id: str = "rig") -> job.JobStart:
    return job.JobStart(job_id=JOB_ID, **_attempt(attempt, session, miner_id))


def complete(
    attempt: int = 1,
    session: str = SESSION,
    miner_id: str = "rig",
    *,
    begun: int = T0 + SECOND,
    ended: int = T0 + 2 * SECOND,
    **changes: Any,
) -> job.JobComplete:
    statement = {
        "started_at_ms": begun,
        "completed_at_ms": ended,
        "result_digest": RESULT_DIGEST,
        "signature": SIGNATURE,
    }
    fields: dict[str, Any] = {
        "result": {"text": "hi"},
        "result_salt": SALT,
        "statement": statement,
        **changes,
    }
    return job.JobComplete(job_id=JOB_ID, **_attempt(attempt, session, miner_id), **fields)


def fail(attempt: int = 1, session: str = SESSION, miner_id: str = "rig", **changes: Any) -> job.JobFail:
    fields: dict[str, Any] = {"error_code": "OUT_OF_MEMORY", **changes}
    return job.JobFail(job_id=JOB_ID, **_attempt(attempt, session, miner_id), **fields)


def release(attempt: int = 1, session: str = SESSION, miner_id: str = "rig") -> job.JobRelease:
    return job.JobRelease(job_id=JOB_ID, **_attempt(attempt, session, miner_id))


def lose(attempt: int = 1) -> job.JobLose:
    return job.JobLose(job_id=JOB_ID, attempt=attempt, reason="no heartbeat")


def cancel(reason: str = "") -> job.JobCancel:
    return job.JobCancel(job_id=JOB_ID, reason=reason)


def expire() -> job.JobExpire:
    return job.JobExpire(job_id=JOB_ID)


# --- job events --------------------------------------------------------------------------------------------
def _common(at: int, by: Principal) -> dict[str, Any]:
    return {"at": at, "by": by.name, "job_id": JOB_ID, "client": "alice"}


def submitted(**changes: Any) -> job.JobSubmitted:
    fields: dict[str, Any] = {
        **_common(T0, ALICE),
        "service": "whisper",
        "service_version": 1,
        "constraints": Constraints(),
        "job_class": job_class(),
        "priority": 0,
        "max_attempts": 3,
        "payload_digest": PAYLOAD_DIGEST,
        "fingerprint": FINGERPRINT,
        "timeout_seconds": 3600,
        "list_price": "0.002",
        "max_units": "3600.000",
        "expires_at": EXPIRES,
        **changes,
    }
    return job.JobSubmitted(**fields)


def job_class(**constraints: Any) -> str:
    return wanted("whisper", Constraints(**constraints)).job_class


def started(
    attempt: int = 1, session: str = SESSION, miner_id: str = "rig", *, at: int = T0 + SECOND, **changes: Any
) -> job.JobStarted:
    fields: dict[str, Any] = {
        **_common(at, Principal(miner_id.rpartition("@")[2], Role.MINER)),
        **_attempt(attempt, session, miner_id),
        "miner_key": KEY,
        "unit_price": "0.002",
        **changes,
    }
    return job.JobStarted(**fields)


def attempt_ended(
    outcome: str,
    attempt: int = 1,
    session: str = SESSION,
    miner_id: str = "rig",
    *,
    at: int = T0 + 2 * SECOND,
    **changes: Any,
) -> job.JobAttemptEnded:
    code, message, by = {
        "failed": ("OUT_OF_MEMORY", "", RIG),
        "released": ("RELEASED", "handed back by the miner", RIG),
        "lost": ("LEASE_LOST", "no heartbeat", SYSTEM),
    }[outcome]
    fields: dict[str, Any] = {
        **_common(at, by),
        **_attempt(attempt, session, miner_id),
        "outcome": outcome,
        "error_code": code,
        "error_message": message,
        "metrics": {},
        **changes,
    }
    return job.JobAttemptEnded(**fields)


def requeued(attempt: int = 2, *, at: int = T0 + 2 * SECOND, by: Principal = RIG) -> job.JobRequeued:
    return job.JobRequeued(**_common(at, by), attempt=attempt)


def failed(
    attempt: int = 1,
    code: str = "OUT_OF_MEMORY",
    message: str = "",
    *,
    at: int = T0 + 2 * SECOND,
    by: Principal = RIG,
) -> job.JobFailed:
    return job.JobFailed(**_common(at, by), attempt=attempt, error_code=code, error_message=message)


def canceled(
    attempt: int = 1, reason: str = "", *, at: int = T0 + SECOND, by: Principal = ALICE
) -> job.JobCanceled:
    return job.JobCanceled(**_common(at, by), attempt=attempt, reason=reason)


def expired(attempt: int = 1, *, at: int = EXPIRES) -> job.JobExpired:
    return job.JobExpired(**_common(at, SYSTEM), attempt=attempt)


def completed(
    attempt: int = 1,
    session: str = SESSION,
    miner_id: str = "rig",
    *,
    at: int = T0 + 2 * SECOND,
    metrics: Mapping[str, int | str] | None = None,
    stated: tuple[int, int] = (T0 + SECOND, T0 + 2 * SECOND),
    **work: Any,
) -> job.JobCompleted:
    """One second at the list price, except for what `work` says; `stated` are the times of the statement."""
    begun, ended = stated
    fields: dict[str, Any] = {
        "units": "1.000",
        "price": "0.002000",
        "started_at": T0 + SECOND,
        "completed_at": T0 + 2 * SECOND,
        **work,
    }
    return job.JobCompleted(
        **_common(at, Principal(miner_id.rpartition("@")[2], Role.MINER)),
        **_attempt(attempt, session, miner_id),
        result_digest=RESULT_DIGEST,
        metrics=dict(metrics or {}),
        statement={"started_at_ms": begun, "completed_at_ms": ended, "signature": SIGNATURE},
        **fields,
    )
