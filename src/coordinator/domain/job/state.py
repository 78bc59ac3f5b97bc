"""The states of a job, and how they follow from its events.

    QUEUED --start--> RUNNING --complete--> COMPLETED
      ^                  |
      +-- lost, failed, released (the next attempt)
    QUEUED or RUNNING --> FAILED, CANCELED, EXPIRED

The attempt (1, 2, 3 …) is the fence: every lease, result and receipt carries it, and a stale one
changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never
from uuid import UUID

from coordinator.domain.decision import evolves
from coordinator.domain.job.commands import (
    JobCancel,
    JobCommand,
    JobComplete,
    JobExpire,
    JobFail,
    JobLose,
    JobRelease,
    JobStart,
    JobSubmit,
    JobSubmitAgain,
)
from coordinator.domain.job.events import (
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobEvent,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobStateName,
    JobSubmitted,
)
from coordinator.domain.messages import CannotFollow, Millis, stream_id

MAX_FREE_RELEASES = 10
"""Further releases count as attempts, so that no miner keeps a job forever by claiming and releasing it."""
MAX_ENDED = 16
"""The newest ended attempts, which a job remembers."""


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An ended attempt, kept so that a repeated report of it gets the first answer."""

    attempt: int
    miner_id: str
    session_id: str
    outcome: str
    final: bool = False
    """Whether the miner said that no other attempt could succeed."""


@dataclass(frozen=True, slots=True)
class Queued:
    job: JobSubmitted
    attempt: int
    queued_at: Millis
    charged: int = 0
    """Attempts that count against `max_attempts`."""
    ended: tuple[EndedAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Running:
    job: JobSubmitted
    started: JobStarted
    queued_at: Millis
    charged: int
    ended: tuple[EndedAttempt, ...]

    @property
    def attempt(self) -> int:
        return self.started.attempt


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """Between an attempt's end and the next event; never seen outside a decision."""

    job: JobSubmitted
    attempt: int
    charged: int
    ended: tuple[EndedAttempt, ...]


@dataclass(frozen=True, slots=True)
class Completed:
    job: JobSubmitted
    completed: JobCompleted
    ended: tuple[EndedAttempt, ...]
    claimed_at: Millis
    """When its last attempt was claimed; the paid time begins later."""


@dataclass(frozen=True, slots=True)
class Failed:
    job: JobSubmitted
    failed: JobFailed
    ended: tuple[EndedAttempt, ...]


@dataclass(frozen=True, slots=True)
class Canceled:
    job: JobSubmitted
    ended: tuple[EndedAttempt, ...]
    started: JobStarted | None = None
    """The attempt that was at work."""
    canceled_at: Millis = 0


@dataclass(frozen=True, slots=True)
class Expired:
    job: JobSubmitted
    ended: tuple[EndedAttempt, ...]


KnownJob = Queued | Running | AttemptEnded | Completed | Failed | Canceled | Expired
JobState = KnownJob | None
STATE_NAMES: dict[type, JobStateName] = {
    Queued: "QUEUED",
    Running: "RUNNING",
    Completed: "COMPLETED",
    Failed: "FAILED",
    Canceled: "CANCELED",
    Expired: "EXPIRED",
}
"""The names of all states that readers see."""

_FINAL = (Completed, Failed, Canceled, Expired)

initial: JobState = None


def is_final(state: object) -> bool:
    """Whether this is a final state of a job."""
    return isinstance(state, _FINAL)


def job_stream(client: str, key: str) -> UUID:
    """The id of the job that `client` submitted under this idempotency key; a repeat has the same one."""
    return stream_id("job", client, key)


@evolves("job")
def evolve(state: JobState, event: JobEvent) -> JobState:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    match event:
        case JobSubmitted():
            if state is None:
                return Queued(event, attempt=1, queued_at=event.at)
        case JobStarted():
            if isinstance(state, Queued):
                return Running(state.job, event, state.queued_at, state.charged + 1, state.ended)
        case JobCompleted():
            if isinstance(state, Running):
                return Completed(state.job, event, state.ended, state.started.at)
        case JobAttemptEnded():
            if isinstance(state, Running):
                free = event.outcome == "released" and _releases(state) < MAX_FREE_RELEASES
                over = EndedAttempt(
                    event.attempt, event.miner_id, event.session_id, event.outcome, not event.retryable
                )
                ended = (*state.ended, over)[-MAX_ENDED:]
                return AttemptEnded(state.job, event.attempt, state.charged - free, ended)
        case JobRequeued():
            if isinstance(state, AttemptEnded):
                return Queued(state.job, event.attempt, event.at, state.charged, state.ended)
        case JobFailed():
            if isinstance(state, AttemptEnded):
                return Failed(state.job, event, state.ended)
        case JobCanceled():
            if isinstance(state, Queued | Running):
                started = state.started if isinstance(state, Running) else None
                return Canceled(state.job, state.ended, started, event.at)
        case JobExpired():
            if isinstance(state, Queued | Running):
                return Expired(state.job, state.ended)
        case _:
            assert_never(event)
    raise CannotFollow(state, event)


def _releases(state: Running) -> int:
    return sum(ended.outcome == "released" for ended in state.ended)


def answer(state: JobState, command: JobCommand) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    assert state is not None
    body: dict[str, Any] = {"job_id": str(state.job.job_id), "state": STATE_NAMES[type(state)]}
    match command:
        case JobSubmit() | JobSubmitAgain():
            body["expires_at"] = state.job.expires_at
        case JobComplete():
            if isinstance(state, Completed):
                body["attempt"] = state.completed.attempt
        case JobStart() | JobFail() | JobRelease():
            body["attempt"] = command.attempt
        case JobCancel() | JobLose() | JobExpire():
            pass
        case _:
            assert_never(command)
    return body
