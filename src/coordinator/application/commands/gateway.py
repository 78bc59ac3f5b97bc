"""The one way in for both edges: prepares, decides, and makes a registered miner's queues."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from coordinator.application.commands.bus import CommandBus
from coordinator.application.commands.names import Names
from coordinator.application.commands.parsing import Accepted, Answer, Intent, Refused
from coordinator.application.commands.preparing import Preparation, Prepared
from coordinator.application.followers.presence import Presence
from coordinator.application.ports import Heartbeat, WorkQueues
from coordinator.crypto.api_keys import KeySecrets
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import AttemptCommand, JobSubmit
from coordinator.domain.key import Active, KeyCreate, KeyRevoke, KeyRotate
from coordinator.domain.messages import Principal
from coordinator.domain.miner import MinerRegister
from coordinator.domain.service import ServiceRegister

KEYRING_SECONDS = 5.0  # how long an answer about a key may wait for this process's own keyring

log = structlog.get_logger("commands")


@dataclass(frozen=True, slots=True)
class MinerPeriods:
    """What a registered miner is told besides."""

    heartbeat_interval: float
    heartbeat_timeout: float


@dataclass(frozen=True, slots=True)
class KeyIssuing:
    """What answers about API keys need."""

    secrets: KeySecrets
    reached: Callable[[int, float], Awaitable[bool]]
    """Wait until the keyring of this process is as the log was at a position."""


class CommandGateway:
    """Implements `ports.Gateway`."""

    def __init__(
        self,
        bus: CommandBus,
        preparation: Preparation,
        presence: Presence,
        queues: WorkQueues,
        names: Names,
        welcome: MinerPeriods,
        key_desk: KeyIssuing | None = None,
    ) -> None:
        self._bus = bus
        self._preparation = preparation
        self._presence = presence
        self._queues = queues
        self._names = names
        self._welcome = welcome
        self._key_desk = key_desk

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        try:
            prepared = await self._preparation.prepare(intents)
            answers = iter(await self._bus.submit([p for p in prepared if isinstance(p, Prepared)]))
            told = [next(answers) if isinstance(p, Prepared) else Refused(p.code, p.detail) for p in prepared]
            everything = log.is_enabled_for(logging.DEBUG)
            for place, (intent, answer) in enumerate(zip(intents, told, strict=True)):
                if isinstance(intent.command, MinerRegister) and isinstance(answer, Accepted):
                    told[place] = await self._welcomed(answer)
                elif isinstance(intent.command, KeyCreate | KeyRotate | KeyRevoke):
                    told[place] = await self._about_key(prepared[place], answer)
                if everything or not _is_usual(intent, answer):  # most are, and must cost nothing
                    _log(intent, answer)
        except Exception:
            log.exception("commands could not be handled", count=len(intents))
            return [Refused(Code.INTERNAL, "this is our fault; send it again later")] * len(intents)
        return told

    async def heartbeat(self, principal: Principal, beats: Sequence[Heartbeat]) -> list[Answer]:
        try:
            return await self._presence.note(principal, beats)
        except Exception:
            log.exception("heartbeats could not be handled", count=len(beats))
            return [Refused(Code.INTERNAL, "this is our fault; send it again later")] * len(beats)

    async def state(self, stream: UUID) -> Any:
        return await self._bus.state(stream)

    async def _about_key(self, prepared: Prepared | Refusal, answer: Answer) -> Answer:
        """The answer once it holds in this process, with the secret if this very command made it."""
        desk = self._key_desk
        if desk is None or not isinstance(prepared, Prepared) or not isinstance(answer, Accepted):
            return answer
        await desk.reached(answer.position, KEYRING_SECONDS)
        if not prepared.key_salt:
            return answer
        state = await self._bus.state(prepared.stream)
        if not isinstance(state, Active) or all(s.salt != prepared.key_salt for s in state.secrets):
            return answer  # a repeat: a secret is told once
        secret = desk.secrets.secret(prepared.stream, prepared.key_salt)
        body = {**answer.body, "key": f"{state.created.name}:{secret}"}
        if state.created.signed:
            body["hmac_secret"] = desk.secrets.hmac_secret(prepared.stream, prepared.key_salt)
        return Accepted(answer.position, body)

    async def canonical(self, service: str) -> str:
        return await self._names.canonical(service)

    async def _welcomed(self, answer: Accepted) -> Answer:
        profile, miner_id = answer.body["profile"], answer.body["miner_id"]
        try:
            await self._queues.ensure(profile)
        except ConnectionError as error:
            # The session is in the log; the miner asks again, which is a repeat, and gets its queue then.
            log.warning("a miner's queues could not be made", miner=miner_id, error=str(error))
            return Refused(Code.UNAVAILABLE, "the broker is out of reach; register again with this session")
        body = {
            **answer.body,
            "queue": f"work.{profile}",
            "control_queue": f"miner.{miner_id}",
            "heartbeat_interval_seconds": self._welcome.heartbeat_interval,
            "heartbeat_timeout_seconds": self._welcome.heartbeat_timeout,
        }
        return Accepted(answer.position, body)


_USUAL = (AttemptCommand, JobSubmit, ServiceRegister)


def _is_usual(intent: Intent, answer: Answer) -> bool:
    return isinstance(answer, Accepted) and isinstance(intent.command, _USUAL)


def _log(intent: Intent, answer: Answer) -> None:
    """One line per fact that an operator needs; the usual course of a job only at level debug."""
    command = intent.command
    facts: dict[str, Any] = {"command": command.topic, "by": intent.principal.name}
    for name in ("job_id", "attempt", "miner_id", "session_id", "key_id"):
        value = getattr(command, name, None)
        if value is not None:
            facts[name] = str(value) if isinstance(value, UUID) else value
    if intent.trace:
        facts["trace"] = intent.trace
    if isinstance(answer, Refused):
        log.info("refused", **facts, code=answer.code.value, detail=answer.detail)
        return
    facts |= {name: answer.body[name] for name in ("job_id", "key_id") if name in answer.body}
    (log.debug if _is_usual(intent, answer) else log.info)("accepted", **facts, position=answer.position)
