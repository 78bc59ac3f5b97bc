"""The one entry point for commands, from HTTP and AMQP: calls each noun's handler, and the bus."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import structlog

from coordinator.application.commands.bus import CommandBus
from coordinator.application.commands.handler import Handler, Prepared
from coordinator.application.commands.names import Names
from coordinator.application.commands.parsing import check_sender
from coordinator.application.followers.presence import Presence
from coordinator.application.ports import Intent
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal, read_traceparent
from coordinator.wire.answers import Accepted, Answer, Refused
from coordinator.wire.heartbeat import Heartbeat

log = structlog.get_logger("commands")

_INTERNAL = Refused(Code.INTERNAL, "internal error: this is our fault; send it again later")


class CommandGateway:
    """Implements `ports.Gateway`."""

    def __init__(
        self, bus: CommandBus, handlers: Sequence[Handler[Any]], presence: Presence, names: Names
    ) -> None:
        """`handlers`: one for each noun with commands."""
        self._bus = bus
        self._handlers = {handler.noun: handler for handler in handlers}
        self._presence = presence
        self._names = names

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        try:
            prepared = await self._prepare(intents)
            decided = iter(await self._bus.submit([p for p in prepared if isinstance(p, Prepared)]))
            answers = [next(decided) if isinstance(p, Prepared) else p for p in prepared]
            debug = log.is_enabled_for(logging.DEBUG)
            for place, ready in enumerate(prepared):
                answer, routine = answers[place], False
                if isinstance(ready, Prepared) and isinstance(answer, Accepted):
                    handler, command = ready.handler, ready.intent.command
                    routine = isinstance(command, handler.routine)
                    if isinstance(command, handler.extended):
                        answer = answers[place] = await _extended(ready, answer)
                    if routine and not debug:
                        continue  # the most frequent case must cost nothing
                _log(intents[place], answer, routine=routine)
        except Exception:
            log.exception("commands could not be handled", count=len(intents))
            return [_INTERNAL] * len(intents)
        return answers

    async def _prepare(self, intents: Sequence[Intent]) -> list[Prepared[Any] | Refused]:
        """Each command as prepared by its noun's handler, or its refusal; in the same order."""
        prepared: list[Prepared[Any] | Refused | None] = [None] * len(intents)
        places: dict[str, list[int]] = {}
        for place, intent in enumerate(intents):
            try:
                check_sender(intent.command, intent.principal)
            except Refusal as refusal:
                prepared[place] = Refused(refusal.code, refusal.detail)
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
            return [_INTERNAL] * len(beats)

    async def state(self, stream: UUID) -> Any:
        return await self._bus.state(stream)

    async def canonical(self, service: str) -> str:
        return await self._names.canonical(service)


async def _extended(prepared: Prepared[Any], answer: Accepted) -> Answer:
    """The completed answer. The command's effect is in the log, so an error fails this element alone."""
    try:
        return await prepared.handler.extend(prepared, answer)
    except Exception:
        log.exception("an answer could not be completed", command=prepared.intent.command.topic)
        return _INTERNAL


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
