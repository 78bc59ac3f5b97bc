"""Messages on live connections, over WebSocket and as server-sent events: one per event, and more.

A newer coordinator may add members and types; readers skip unknown ones.
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
    """A message on a live connection."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)
    type: str

    def to_json(self) -> str:
        """The message as JSON, in one line."""
        return self.model_dump_json(exclude_none=True)


class LiveError(BaseModel):
    """Why a job or an attempt has no result."""

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
    """The job has a new state. For COMPLETED the type is `result.ready`: the result can be fetched."""

    type: Literal["state.changed", "result.ready"] = "state.changed"
    state: JobStateName
    service: str | None = None
    """Only in the message of the job's first event."""
    miner_id: str | None = None
    error: LiveError | None = None


class AttemptEndedMessage(JobMessage):
    """An attempt ended without a result; the next message of the job says what follows."""

    type: Literal["attempt.ended"] = "attempt.ended"
    outcome: Literal["failed", "lost", "released"]
    miner_id: str
    error: LiveError


class ProgressMade(LiveMessage):
    """The attempt's progress. Not in the log: it may be lost, and only the newest is sent."""

    type: Literal["progress"] = "progress"
    job_id: UUID
    attempt: int
    seq: int
    fraction: float | None = None
    note: str | None = None


class Tokens(LiveMessage):
    """New text of the job's output, after `offset` characters (code points). A higher `offset` than the text
    received so far means a gap; a higher `attempt` begins a new text. The result has the whole text."""

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
    """All requested past events were sent, up to `position`; later ones follow live."""

    type: Literal["subscribed"] = "subscribed"
    id: str | None = None
    """The request's id."""
    jobs: tuple[UUID, ...] | Literal["all"]
    refused: tuple[JobRefused, ...] | None = None
    position: int


class Unsubscribed(LiveMessage):
    """No further messages about these jobs."""

    type: Literal["unsubscribed"] = "unsubscribed"
    id: str | None = None
    jobs: tuple[UUID, ...] | Literal["all"]


class Pong(LiveMessage):
    """The answer to the request `ping`."""

    type: Literal["pong"] = "pong"
    id: str | None = None
    position: int


class RefusedMessage(LiveMessage):
    """The request had no effect; the reason follows."""

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
    """Any message of `/ws/client` and of the streams of server-sent events."""


def of_event(recorded: Recorded) -> StateChanged | AttemptEndedMessage | None:
    """The message about this event; None if it is not an event of a job."""
    event = recorded.event
    if not is_job_event(event):
        return None
    common: dict[str, Any] = {
        "position": recorded.position,
        "job_id": event.job_id,
        "client": event.client,
        "at": moment(event.at),
    }
    match event:
        case JobAttemptEnded():
            error = LiveError(code=event.error_code, message=event.error_message)
            own: dict[str, Any] = {"outcome": event.outcome, "miner_id": event.miner_id, "error": error}
            return AttemptEndedMessage.model_construct(**common, attempt=event.attempt, **own)
        case JobSubmitted():
            own = {"attempt": 1, "service": event.service}
        case JobRequeued():
            own = {"attempt": event.attempt}
        case JobStarted():
            own = {"attempt": event.attempt, "miner_id": event.miner_id}
        case JobCompleted():
            own = {"type": "result.ready", "attempt": event.attempt, "miner_id": event.miner_id}
        case JobFailed() | JobCanceled() | JobExpired():
            own = {"attempt": event.attempt, "error": LiveError(**error_of(event)._asdict())}
        case _:
            assert_never(event)
    state = state_after(event)
    assert state is not None
    return StateChanged.model_construct(**common, state=state, **own)


def of_progress(item: Progress) -> Iterator[ProgressMade | Tokens]:
    """The messages about this progress."""
    common: dict[str, Any] = {"job_id": item.job_id, "attempt": item.attempt, "seq": item.seq}
    if item.fraction is not None or item.note is not None:
        yield ProgressMade.model_construct(**common, fraction=item.fraction, note=item.note)
    if item.text:
        yield Tokens.model_construct(**common, text=item.text, offset=item.offset or 0)
