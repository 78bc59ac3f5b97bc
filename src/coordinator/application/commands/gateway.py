"""The one entry point for commands, from HTTP and AMQP: calls each noun's handler, and the bus."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import structlog

from coordinator.application.commands.bus import CommandBus
from coordinator.application.commands.handler import INTERNAL, Handler, Prepared
from coordinator.application.commands.handlers.names import Names
from coordinator.application.commands.parsing import check_sender
from coordinator.application.followers.presence import Presence
from coordinator.application.ports import Intent
from coordinator.application.quotas.quotas import Quotas
from coordinator.application.telemetry.spans import begin_commands, end_commands
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal, read_traceparent
from coordinator.telemetry import tracing
from coordinator.wire.answers import Accepted, Answer, Refused
from coordinator.wire.heartbeat import Heartbeat

log = structlog.get_logger("commands")

_OVER_QUOTA = (Code.QUEUE_FULL, Code.QUOTA_EXCEEDED)


class CommandGateway:
    """Implements `ports.Gateway`."""

    def __init__(
        self,
        bus: CommandBus,
        handlers: Sequence[Handler[Any]],
        presence: Presence,
        names: Names,
        quotas: Quotas | None = None,
    ) -> None:
        """`handlers`: one for each noun with commands. `quotas` limit the rate of each name's commands."""
        self._quotas = quotas
        self._bus = bus
        self._handlers = {handler.noun: handler for handler in handlers}
        self._presence = presence
        self._names = names

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        if self._quotas is not None and intents:
            allowed, refused = self._quotas.admitted(intents)
            if refused is not None:
                _log_over_quota(intents[allowed:], refused.code)
                admitted = await self._handle(intents[:allowed]) if allowed else []
                return [*admitted, *[refused] * (len(intents) - allowed)]
        return await self._handle(intents)

    async def _handle(self, intents: Sequence[Intent]) -> list[Answer]:
        tracer = tracing.tracer()
        if tracer is None:
            return await self._answers(intents)
        intents, spans = begin_commands(tracer, intents)
        answers = await self._answers(intents)
        end_commands(spans, answers)
        return answers

    async def _answers(self, intents: Sequence[Intent]) -> list[Answer]:
        try:
            prepared = await self._prepare(intents)
            decided = iter(await self._bus.submit([p for p in prepared if isinstance(p, Prepared)]))
            answers = [next(decided) if isinstance(p, Prepared) else p for p in prepared]
            await _settle(prepared, answers)
            debug = log.is_enabled_for(logging.DEBUG)
            over_quota: dict[Code, list[int]] = {}
            for place, ready in enumerate(prepared):
                answer, routine = answers[place], False
                if isinstance(ready, Prepared) and isinstance(answer, Accepted):
                    routine = isinstance(ready.intent.command, ready.handler.routine)
                    if routine and not debug:
                        continue  # the most frequent case must cost nothing
                if isinstance(answer, Refused) and answer.code in _OVER_QUOTA:
                    over_quota.setdefault(answer.code, []).append(place)
                    continue
                _log(intents[place], answer, routine=routine)
            for code, places in over_quota.items():
                _log_over_quota([intents[place] for place in places], code)
        except Exception:
            log.exception("commands could not be handled", count=len(intents))
            return [INTERNAL] * len(intents)
        return answers

    async def _prepare(self, intents: Sequence[Intent]) -> list[Prepared[Any] | Refused]:
        """Each command as prepared by its noun's handler, or its refusal; in the same order."""
        prepared: list[Prepared[Any] | Refused | None] = [None] * len(intents)
        places: dict[str, list[int]] = {}
        for place, intent in enumerate(intents):
            try:
                check_sender(intent.command, intent.principal)
            except Refusal as refusal:
                prepared[place] = Refused(refusal.code, refusal.detail, refusal.retry_after)
            else:
                places.setdefault(intent.command.noun, []).append(place)
        for noun, own in places.items():
            handler = self._handlers.get(noun)
            if handler is None:
                unknown = Refused(Code.UNKNOWN_COMMAND, f"commands about a {noun} can't be sent here")
                ready: Sequence[Prepared[Any] | Refused] = [unknown] * len(own)
            else:
                ready = await handler.prepare([intents[place] for place in own])
            for place, one in zip(own, ready, strict=True):
                prepared[place] = one
        return [one for one in prepared if one is not None]

    async def heartbeat(self, principal: Principal, beats: Sequence[Heartbeat]) -> list[Answer]:
        try:
            return await self._presence.note(principal, beats)
        except Exception:
            log.exception("heartbeats could not be handled", count=len(beats))
            return [INTERNAL] * len(beats)

    async def seen(self, sessions: Collection[tuple[str, str]]) -> None:
        """See `Presence.seen`."""
        await self._presence.seen(sessions)

    async def state(self, stream: UUID) -> Any:
        return await self._bus.state(stream)

    async def canonical(self, service: str) -> str:
        return await self._names.canonical(service)


async def _settle(prepared: Sequence[Prepared[Any] | Refused], answers: list[Answer]) -> None:
    """Tell the handlers of refusals, and have each complete its accepted answers together, in place."""
    extended: dict[Handler[Any], list[tuple[int, Prepared[Any], Accepted]]] = {}
    for place, ready in enumerate(prepared):
        if isinstance(ready, Refused):
            continue
        answer = answers[place]
        if isinstance(answer, Refused):
            ready.handler.refused(ready)
        elif isinstance(ready.intent.command, ready.handler.extended):
            extended.setdefault(ready.handler, []).append((place, ready, answer))
    for handler, accepted in extended.items():
        completed = await handler.extend_together([(ready, answer) for _, ready, answer in accepted])
        for (place, _, _), answer in zip(accepted, completed, strict=True):
            answers[place] = answer


def _log_over_quota(intents: Sequence[Intent], code: Code) -> None:
    """One line for all of them: a flood of commands must not become a flood of lines."""
    first = intents[0]
    log.info(
        "refused",
        command=first.command.topic,
        by=first.principal.name,
        code=code.value,
        commands=len(intents),
    )


def _log(intent: Intent, answer: Answer, *, routine: bool) -> None:
    """One line per command; the usual course of a job only at level debug."""
    command = intent.command
    facts: dict[str, Any] = {"command": command.topic, "by": intent.principal.name}
    for name in ("job_id", "attempt", "miner_id", "session_id", "key_id"):
        value = getattr(command, name, None)
        if value is not None:
            facts[name] = str(value) if isinstance(value, UUID) else value
    if traceparent := read_traceparent(command.traceparent) or intent.traceparent:
        facts["traceparent"] = traceparent
    if isinstance(answer, Refused):
        log.info("refused", **facts, code=answer.code.value, detail=answer.detail)
        return
    facts |= {name: answer.body[name] for name in ("job_id", "key_id") if name in answer.body}
    (log.debug if routine else log.info)("accepted", **facts, position=answer.position)
