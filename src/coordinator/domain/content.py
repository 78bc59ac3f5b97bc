"""Content: the payloads and results of jobs, which are stored beside the log and may be erased for good.

    nothing --erase--> ERASED

One stream for each erasure, named by its jobs and kinds: whoever asks for the same erasure again gets the
first answer. The event says what was erased, for whom and why, never what it said. The digests in the job's
own events stay: they prove that something was there and, to whoever kept it, what.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeGuard, assert_never
from uuid import UUID

from pydantic import Field, StringConstraints

from coordinator.domain.decision import Decision, evolves, on
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import (
    SYSTEM,
    CannotFollow,
    Command,
    Event,
    Millis,
    Name,
    Principal,
    Role,
    Text,
    stream_id,
)

ContentKind = Literal["payload", "result"]
CONTENT_KINDS: Final[tuple[ContentKind, ...]] = ("payload", "result")
MAX_JOBS: Final = 200
"""Jobs of one erasure."""

Reason = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"\S")]
"""Stays in the log for good: it must say nothing of what it erases."""
JobIds = Annotated[tuple[UUID, ...], Field(min_length=1, max_length=MAX_JOBS)]
Kinds = Annotated[tuple[ContentKind, ...], Field(min_length=1, max_length=len(CONTENT_KINDS))]


# --- commands ----------------------------------------------------------------------------------------------
class ContentErase(Command, topic="content.erase", senders={Role.CLIENT, Role.ADMIN, Role.SYSTEM}):
    """Erase payloads and results of final jobs, all of these jobs or none; a client only its own jobs'."""

    job_ids: JobIds
    kinds: Kinds = CONTENT_KINDS
    reason: Reason
    """For readers of the log, where it stays: it must say nothing of what it erases."""


ContentCommand = ContentErase
"""Every command about content."""


# --- events ------------------------------------------------------------------------------------------------
class ContentErased(Event, topic="content.erased.v1"):
    jobs: tuple[UUID, ...]
    """Sorted, each one once."""
    kinds: tuple[ContentKind, ...]
    """Of all these jobs; a job without a result has none to erase."""
    client: Name | None
    """The client of these jobs; None if they are of several clients."""
    reason: Text


ContentEvent = ContentErased
"""Every event of content."""


def is_content_event(event: Event) -> TypeGuard[ContentEvent]:
    """Whether this is an event of content."""
    return isinstance(event, ContentErased)


def sentence(event: ContentErased) -> str:
    """One line about this event, without its time and its jobs. The reason comes from strangers."""
    return f"{event.by} erased the {' and the '.join(event.kinds)}: {' '.join(event.reason.split())}"


def is_by_age(event: ContentErased) -> bool:
    """Whether the coordinator's own retention led to it, and nobody's request."""
    return event.by == SYSTEM.name


# --- state -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Erased:
    """The content is gone, or is about to be."""

    erased: ContentErased


ContentState = Erased | None
initial: ContentState = None


def content_stream(job_ids: Collection[UUID], kinds: Collection[str]) -> UUID:
    """The id of the stream of this erasure: the same jobs and kinds, in any order, are the same erasure."""
    return stream_id("content", ",".join(sorted(set(kinds))), *sorted({str(job_id) for job_id in job_ids}))


@evolves("content")
def evolve(state: ContentState, event: ContentEvent) -> ContentState:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    if state is not None:
        raise CannotFollow(state, event)
    return Erased(event)


class ErasableJob(NamedTuple):
    """The facts about a job that an erasure depends on."""

    client: str
    is_final: bool


class ErasureContext(NamedTuple):
    """The facts for an erasure."""

    now: Millis
    principal: Principal
    jobs: Mapping[UUID, ErasableJob]
    """The known ones. A job never changes its client and never leaves a final state, so that a stale fact can
    only refuse a job that became final a moment ago."""


def decide(state: ContentState, command: ContentCommand, context: ErasureContext) -> Decision:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`."""
    match command:
        case ContentErase():
            jobs = sorted(set(command.job_ids), key=str)
            for job_id in jobs:
                _check(job_id, context, alone=len(jobs) == 1)
            if state is not None:
                return []
            clients = {context.jobs[job_id].client for job_id in jobs}
            event = ContentErased(
                at=context.now,
                by=context.principal.name,
                jobs=tuple(jobs),
                kinds=tuple(kind for kind in CONTENT_KINDS if kind in command.kinds),
                client=clients.pop() if len(clients) == 1 else None,
                reason=command.reason,
            )
            return on(content_stream(command.job_ids, command.kinds), [event])
        case _:
            assert_never(command)


def _check(job_id: UUID, context: ErasureContext, *, alone: bool) -> None:
    """`alone`: there is no other job that the refusal could be about."""
    found, principal = context.jobs.get(job_id), context.principal
    if found is None or (principal.role is Role.CLIENT and found.client != principal.name):
        which = "" if alone else f" as {job_id}; nothing was erased"
        raise Refusal(Code.JOB_NOT_FOUND, f"no such job{which}")
    if not found.is_final:
        which = "the job" if alone else f"job {job_id}"
        raise Refusal(
            Code.CONFLICT_STATE, f"{which} is not final; cancel it first, then erase; nothing was erased"
        )


def answer(state: ContentState, command: ContentCommand) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    assert state is not None
    return {"jobs": len(state.erased.jobs), "kinds": list(state.erased.kinds)}
