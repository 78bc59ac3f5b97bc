"""Commands about content: the payloads and results of jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, NamedTuple, cast
from uuid import UUID

from coordinator.application.commands.handler import Handler, Prepared, StateOf, log_unavailable
from coordinator.application.payloads.service_versions import States
from coordinator.application.ports import Intent, LogUnavailable
from coordinator.domain.content import (
    ContentCommand,
    ContentErase,
    ContentState,
    ErasableJob,
    ErasureContext,
    answer,
    content_stream,
    decide,
)
from coordinator.domain.decision import Decision
from coordinator.domain.job import STATE_NAMES, is_final
from coordinator.domain.messages import Command, Millis
from coordinator.wire.answers import Accepted, Answer

ERASED_SECONDS = 5.0
"""The longest wait of an answer for the content to be gone."""


class Jobs(NamedTuple):
    """The jobs of an erasure that are known."""

    known: dict[UUID, ErasableJob]


class ContentCommands(Handler[Jobs]):
    """Looks up the jobs of an erasure. Its answers wait until the content is gone, and say whether it is."""

    noun = "content"
    extended: ClassVar[tuple[type[Command], ...]] = (ContentErase,)

    def __init__(self, states: States, reached: Callable[[int, float], Awaitable[bool]]) -> None:
        """`reached(position, timeout)`: wait until the eraser is at a position of the log."""
        self._states = states
        self._reached = reached

    async def prepare_one(self, intent: Intent) -> Prepared[Jobs]:
        command = cast("ContentCommand", intent.command)
        try:
            known = await self._look_up(command.job_ids)
        except LogUnavailable:
            raise log_unavailable() from None
        return Prepared(intent, self, content_stream(command.job_ids, command.kinds), Jobs(known))

    async def _look_up(self, job_ids: Sequence[UUID]) -> dict[UUID, ErasableJob]:
        known = _erasable(await self._states(list(dict.fromkeys(job_ids))))
        doubtful = [job_id for job_id in dict.fromkeys(job_ids) if not _is_final(known.get(job_id))]
        if doubtful:  # another process may have ended them
            known |= _erasable(await self._states(doubtful, fresh=True))
        return known

    def decide(self, prepared: Prepared[Jobs], state_of: StateOf, now: Millis) -> Decision:
        state: ContentState = state_of(prepared.stream)
        context = ErasureContext(now, prepared.intent.principal, prepared.details.known)
        return decide(state, cast("ContentCommand", prepared.intent.command), context)

    def answer(self, prepared: Prepared[Jobs], state: ContentState) -> dict[str, Any]:
        return answer(state, cast("ContentCommand", prepared.intent.command))

    async def extend_together(self, answered: Sequence[tuple[Prepared[Jobs], Accepted]]) -> list[Answer]:
        """One wait for all of them. An erasure that is not done by then is done later, in any case."""
        last = max(accepted.position for _, accepted in answered)
        done = await self._reached(last, ERASED_SECONDS)
        return [Accepted(accepted.position, {**accepted.body, "erased": done}) for _, accepted in answered]


def _erasable(states: dict[UUID, Any]) -> dict[UUID, ErasableJob]:
    """Of those that are jobs: an id may be that of another noun's stream."""
    return {
        job_id: ErasableJob(state.job.client, is_final(state))
        for job_id, state in states.items()
        if type(state) in STATE_NAMES
    }


def _is_final(job: ErasableJob | None) -> bool:
    return job is not None and job.is_final
