"""Commands about miners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, assert_never, cast

import structlog

from coordinator.application.commands.handler import Handler, Prepared, StateOf
from coordinator.application.ports import Intent, WorkQueues
from coordinator.application.quotas.quotas import Quotas
from coordinator.crypto.keys import EncodingError, check_key_id
from coordinator.domain.decision import Context, Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Command, Millis
from coordinator.domain.miner import (
    MinerCommand,
    MinerDrain,
    MinerLeave,
    MinerLose,
    MinerRegister,
    MinerRegistered,
    MinerState,
    answer,
    decide,
    miner_stream,
)
from coordinator.wire.answers import Accepted, Answer, Refused
from coordinator.wire.topology import control_queue_name, work_queue_name

log = structlog.get_logger("commands")


@dataclass(frozen=True, slots=True)
class MinerPeriods:
    """The heartbeat periods of registered miners, in seconds."""

    heartbeat_interval: float
    heartbeat_timeout: float


class MinerCommands(Handler[None]):
    """Creates a registered miner's queues, and names them in the answer."""

    noun = "miner"
    extended: ClassVar[tuple[type[Command], ...]] = (MinerRegister,)

    def __init__(self, queues: WorkQueues, periods: MinerPeriods, quotas: Quotas) -> None:
        self._quotas = quotas
        self._queues = queues
        self._periods = periods

    async def prepare_one(self, intent: Intent) -> Prepared[None]:
        command = cast("MinerCommand", intent.command)
        match command:
            case MinerRegister():
                _check_key(command.public_key)
            case MinerDrain() | MinerLeave() | MinerLose():
                pass
            case _:
                assert_never(command)
        return Prepared(intent, self, miner_stream(command.miner_id), None)

    def decide(self, prepared: Prepared[None], state_of: StateOf, now: Millis) -> Decision:
        state: MinerState = state_of(prepared.stream)
        command, principal = cast("MinerCommand", prepared.intent.command), prepared.intent.principal
        decision = decide(state, command, Context(now, principal))
        for _, event in decision:
            if isinstance(event, MinerRegistered):
                fault = self._quotas.reserve_miner(principal, event.miner_id, event.profile)
                if fault is not None:
                    raise fault
        return decision

    def refused(self, prepared: Prepared[None]) -> None:
        """A refused miner counts for nothing."""
        command = prepared.intent.command
        if isinstance(command, MinerRegister):
            self._quotas.catch_up()
            self._quotas.miner_decided(prepared.intent.principal.name, command.miner_id)

    def answer(self, prepared: Prepared[None], state: MinerState) -> dict[str, Any]:
        return answer(state, cast("MinerCommand", prepared.intent.command))

    async def extend(self, prepared: Prepared[None], answer: Accepted) -> Answer:
        profile, miner_id = answer.body["profile"], answer.body["miner_id"]
        try:
            await self._queues.ensure(profile)
        except ConnectionError as error:
            # The session is in the log. The miner registers again (a repeat) and gets its queues then.
            log.warning("a miner's queues could not be created", miner=miner_id, error=str(error))
            return Refused(
                Code.UNAVAILABLE, f"your work queue is not there; register again with this session ({error})"
            )
        body = {
            **answer.body,
            "queue": work_queue_name(profile),
            "control_queue": control_queue_name(miner_id),
            "heartbeat_interval_seconds": self._periods.heartbeat_interval,
            "heartbeat_timeout_seconds": self._periods.heartbeat_timeout,
        }
        return Accepted(answer.position, body)


def _check_key(key_id: str) -> None:
    """Raise Refusal for an unusable key, with which all results of the miner would be refused."""
    try:
        check_key_id(key_id)
    except EncodingError as error:
        raise Refusal(Code.INVALID_PAYLOAD, f"public_key: {error}") from None
