"""What a live connection is told, over WebSocket and as server-sent events: one message per event and more.

Members that are absent say nothing. A newer coordinator may add members and types; readers skip what they do
not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, assert_never
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel

from coordinator.application.live.progress import Progress
from coordinator.application.ports import Recorded
from coordinator.domain.errors import Code
from coordinator.domain.job import (
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobStateName,
    JobSubmitted,
    error_of,
    is_job_event,
    state_after,
)
from coordinator.edge.models.base import Moment, moment


class LiveMessage(BaseModel):
    """Something that a live connection is told."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)
    type: str

    def to_json(self) -> str:
        """One line."""
        return self.model_dump_json(exclude_none=True)


class LiveError(BaseModel):
    """Why it did not go well."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)
    code: str
    message: str = ""


class JobMessage(LiveMessage):
    """An event of a job. `position` is its place in the log: resume from there."""

    position: int
    job_id: UUID
    client: str
    at: Moment
    attempt: int | None = None


class StateChanged(JobMessage):
    """The job is in another state. `result.ready` is the same for COMPLETED: the result can be fetched."""

    type: Literal["state.changed", "result.ready"] = "state.changed"
    state: JobStateName
    service: str | None = None
    """Said once, of the job's first event."""
    miner_id: str | None = None
    error: LiveError | None = None


class AttemptEndedMessage(JobMessage):
    """An attempt ended without a result; the next message of the job says what follows."""

    type: Literal["attempt.ended"] = "attempt.ended"
    outcome: Literal["failed", "lost", "released"]
    miner_id: str
    error: LiveError


class ProgressMade(LiveMessage):
    """How far the attempt is. Not in the log: it may be lost, and only the newest is told."""

    type: Literal["progress"] = "progress"
    job_id: UUID
    attempt: int
    seq: int
    fraction: float | None = None
    note: str | None = None


class Tokens(LiveMessage):
    """What the job's text output grew by. `offset` characters (code points) came before: more than you have
    had means a gap; a higher `attempt` begins a text anew. The result has it all."""

    type: Literal["tokens"] = "tokens"
    job_id: UUID
    attempt: int
    seq: int
    text: str
    offset: int


class Welcome(LiveMessage):
    """The key was accepted."""

    type: Literal["welcome"] = "welcome"
    name: str
    role: str
    position: int


class JobRefused(BaseModel):
    """A job that can't be followed."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)
    job_id: UUID
    code: Code


class Subscribed(LiveMessage):
    """The past that was asked for is told, up to `position`; from here on it is live."""

    type: Literal["subscribed"] = "subscribed"
    id: str | None = None
    """As in what is answered."""
    jobs: tuple[UUID, ...] | Literal["all"]
    refused: tuple[JobRefused, ...] | None = None
    position: int


class Unsubscribed(LiveMessage):
    """No more of these."""

    type: Literal["unsubscribed"] = "unsubscribed"
    id: str | None = None
    jobs: tuple[UUID, ...] | Literal["all"]


class Pong(LiveMessage):
    """The answer to a ping of the application's own."""

    type: Literal["pong"] = "pong"
    id: str | None = None
    position: int


class RefusedMessage(LiveMessage):
    """What was sent did nothing, and this is why."""

    type: Literal["refused"] = "refused"
    id: str | None = None
    code: Code
    detail: str


ClientMessage = Annotated[
    StateChanged
    | AttemptEndedMessage
    | ProgressMade
    | Tokens
    | Welcome
    | Subscribed
    | Unsubscribed
    | Pong
    | RefusedMessage,
    Field(discriminator="type"),
]


class AnyClientMessage(RootModel[ClientMessage]):
    """All that `/ws/client` and the streams of server-sent events say."""


def of_event(recorded: Recorded) -> StateChanged | AttemptEndedMessage | None:
    """The one message that tells of this event; None where it is no job's."""
    event = recorded.event
    if not is_job_event(event):
        return None
    head: dict[str, Any] = {
        "position": recorded.position,
        "job_id": event.job_id,
        "client": event.client,
        "at": moment(event.at),
    }
    match event:
        case JobAttemptEnded():
            error = LiveError(code=event.error_code, message=event.error_message)
            said: dict[str, Any] = {"outcome": event.outcome, "miner_id": event.miner_id, "error": error}
            return AttemptEndedMessage.model_construct(**head, attempt=event.attempt, **said)
        case JobSubmitted():
            said = {"attempt": 1, "service": event.service}
        case JobRequeued():
            said = {"attempt": event.attempt}
        case JobStarted():
            said = {"attempt": event.attempt, "miner_id": event.miner_id}
        case JobCompleted():
            said = {"type": "result.ready", "attempt": event.attempt, "miner_id": event.miner_id}
        case JobFailed() | JobCanceled() | JobExpired():
            said = {"attempt": event.attempt, "error": LiveError(**error_of(event)._asdict())}
        case _:
            assert_never(event)
    state = state_after(event)
    assert state is not None
    return StateChanged.model_construct(**head, state=state, **said)


def of_progress(item: Progress) -> Iterator[ProgressMade | Tokens]:
    """The messages that tell of this."""
    head: dict[str, Any] = {"job_id": item.job_id, "attempt": item.attempt, "seq": item.seq}
    if item.fraction is not None or item.note is not None:
        yield ProgressMade.model_construct(**head, fraction=item.fraction, note=item.note)
    if item.text:
        yield Tokens.model_construct(**head, text=item.text, offset=item.offset or 0)
