"""The AMQP edge: consumes commands and heartbeats, and sends their answers.

Every message takes the same steps. Many are under way at once (up to the prefetch), so that the gateway can
commit them as one group:

1. read the properties, 2. authenticate, 3. read the body, 4. ask the gateway, 5. reply, 6. acknowledge.

A message that can't be handled is refused with a code, copied to `coordinator.dead` and acknowledged: it
neither blocks the queue nor ends the consumer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog
from aio_pika import RobustConnection
from aio_pika.exceptions import AMQPError
from faststream.middlewares import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from faststream.rabbit.message import RabbitMessage

from coordinator.application.health import ProbeFailed
from coordinator.application.keys.keyring import Keyring
from coordinator.application.ports import Gateway, Intent
from coordinator.broker.acknowledgements import Acknowledgements
from coordinator.broker.connection import (
    START_TIMEOUT_SECONDS,
    Broker,
    BrokerUnreachable,
    explain,
    named_url,
)
from coordinator.broker.envelope import (
    read_commands,
    read_heartbeats,
)
from coordinator.broker.inbox_queue import InboxParts, InboxQueue
from coordinator.broker.on_demand_queues import OnDemandQueues
from coordinator.broker.pamqp_patch import read_tolerantly
from coordinator.broker.topology import TopologyMismatch, WorkQueueType, control_queue
from coordinator.domain.errors import Code
from coordinator.domain.messages import Principal
from coordinator.domain.miner import MinerRegister
from coordinator.wire.answers import Accepted, Answer, Refused
from coordinator.wire.signed_messages import MessageSigner
from coordinator.wire.topology import COMMANDS_QUEUE, HEARTBEATS_QUEUE

PREFETCH = 64
"""Messages in flight per queue: times 1 MiB it bounds memory, times the elements in each the group commit."""
GRACEFUL_TIMEOUT_SECONDS = 15.0
HANDLE_TIMEOUT_SECONDS = 60.0
"""Without an answer by then, the log is taken to be out of reach."""
RECONNECT_SECONDS = 1.0
CHANNEL_SECONDS = 1.0
RENEW_SECONDS = 6.0
"""A queue that is not consumed for so long, while the broker works, gets a new connection."""
STOP_TIMEOUT_SECONDS = 5.0
"""How long the broker may take to agree to a stop, beyond the graceful timeout."""

log = structlog.get_logger(__name__)


class CommandInbox:
    """Consumes commands and heartbeats for a gateway. Start it after the topology is declared."""

    def __init__(
        self,
        broker: Broker,
        gateway: Gateway,
        keyring: Keyring,
        signer: MessageSigner,
        *,
        by_user: bool = False,
        queue_type: WorkQueueType = "classic",
        prefetch: int = PREFETCH,
        graceful_timeout: float = GRACEFUL_TIMEOUT_SECONDS,
        handle_timeout: float = HANDLE_TIMEOUT_SECONDS,
    ) -> None:
        """`broker` publishes the replies and dead letters; the inbox consumes on a connection of its own.

        `signer` signs the replies. `by_user`: API keys are users of the broker; see `authenticate`.
        """
        read_tolerantly()
        self._broker = broker
        self._stopping = asyncio.Event()
        self._up = False
        self._graceful_timeout = graceful_timeout
        self._connection: RobustConnection | None = None
        self._control_queues = OnDemandQueues(broker)
        ask = _handling(gateway, self._control_queues, queue_type)
        shared = InboxParts(
            broker, keyring, signer, by_user, Acknowledgements(), self._stopping, handle_timeout
        )
        commands = InboxQueue("commands", shared, read_commands, ask)
        beats = InboxQueue("heartbeats", shared, read_heartbeats, gateway.heartbeat)
        self._consumer = RabbitBroker(
            named_url(broker.url, "coordinator inbox"),
            # On the default channel: FastStream may ignore a subscriber's own channel.
            default_channel=Channel(prefetch_count=prefetch),
            ack_policy=AckPolicy.MANUAL,
            # Not decoded: with MANUAL, a body that FastStream can't decode is never acknowledged.
            decoder=_undecoded,
            apply_types=False,
            graceful_timeout=graceful_timeout,
            reconnect_interval=RECONNECT_SECONDS,
            on_close=[self._closed],
            on_reconnected=[self._reopened],
            logger=None,
        )
        self._subscribers = {
            queue: self._consumer.subscriber(RabbitQueue(queue, declare=False), no_reply=True)
            for queue in (COMMANDS_QUEUE, HEARTBEATS_QUEUE)
        }
        self._inbox_queues = (commands, beats)
        self._subscribers[COMMANDS_QUEUE](commands.receive)
        self._subscribers[HEARTBEATS_QUEUE](beats.receive)
        self._consumed: dict[str, bool] = {}
        self._unconsumed_since: float | None = None

    @property
    def connected(self) -> bool:
        return self._up

    @property
    def listening(self) -> bool:
        """Whether heartbeats are consumed, as far as the last probe knows."""
        return self._up and self._consumed.get(HEARTBEATS_QUEUE, True)

    @property
    def dead_letters(self) -> Mapping[str, int]:
        """Messages that could not be handled since the start, by code."""
        return sum((queue.dead_letters for queue in self._inbox_queues), Counter())

    async def bind_control_queues(self) -> None:
        """The control exchange was lost: bind the miners' queues again."""
        await self._control_queues.declare_again()

    async def probe_commands(self) -> None:
        """Raises ProbeFailed unless commands are consumed."""
        await self._probe(COMMANDS_QUEUE, "commands are not consumed")

    async def probe_heartbeats(self) -> None:
        """Raises ProbeFailed unless heartbeats are consumed."""
        await self._probe(HEARTBEATS_QUEUE, "heartbeats are not consumed")

    async def _probe(self, queue: str, problem: str) -> None:
        consumed = self._consumed[queue] = self._up and await self._consumes(queue)
        if consumed:
            if all(self._consumed.values()):
                self._unconsumed_since = None
            return
        now = asyncio.get_running_loop().time()
        self._unconsumed_since = self._unconsumed_since or now
        # A queue that was deleted is consumed again once it exists, by the library. Where that fails, a new
        # connection helps.
        if self._broker.listening and now - self._unconsumed_since > RENEW_SECONDS:
            self._unconsumed_since = now
            await self._renew()
        raise ProbeFailed(problem)

    async def _consumes(self, queue: str) -> bool:
        # FastStream tells neither its queue object nor its tag.
        subscriber: Any = self._subscribers[queue]
        consumed, tag = subscriber._queue_obj, subscriber._consumer_tag
        if consumed is None or consumed.channel.is_closed:
            return False
        try:
            async with asyncio.timeout(CHANNEL_SECONDS):
                channel = await consumed.channel.get_underlay_channel()
        except (TimeoutError, AMQPError, ConnectionError):
            return False
        return not channel.is_closed and tag in channel.consumers

    async def _renew(self) -> None:
        """Close the connection beneath the library, which then makes a new one and consumes anew."""
        transport = None if self._connection is None else self._connection.transport
        if transport is not None:
            log.warning("inbox.renewed", unconsumed=[q for q, ok in self._consumed.items() if not ok])
            try:
                async with asyncio.timeout(CHANNEL_SECONDS):
                    await transport.connection.close()
            except (TimeoutError, AMQPError, ConnectionError):
                pass

    async def start(self) -> None:
        """Begin to consume. Raises BrokerRefused, BrokerUnreachable."""
        if self._up:
            return
        self._stopping.clear()
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                self._connection = await self._consumer.connect()
                await self._consumer.start()
        except Exception as error:
            await self.stop()
            raise explain(self._broker.url, error) from error
        self._up = True

    async def stop(self) -> None:
        """Finish the messages under way, within the graceful timeout; the others go back."""
        self._stopping.set()
        self._up = False
        try:
            async with asyncio.timeout(self._graceful_timeout + STOP_TIMEOUT_SECONDS):
                await self._consumer.stop()
        except TimeoutError:
            # Stop without the broker's answer: it is frozen, or a queue has no leader.
            log.warning("inbox.stop_unanswered")
            if self._connection is not None:
                await self._connection.close()
        self._connection = None

    def _closed(self, *_: object) -> None:
        self._up = False

    def _reopened(self, *_: object) -> None:
        self._up = not self._stopping.is_set()


async def _undecoded(message: RabbitMessage) -> RabbitMessage:
    return message


def _handling(
    gateway: Gateway, on_demand: OnDemandQueues, queue_type: WorkQueueType
) -> Callable[[Principal, Sequence[Intent]], Awaitable[list[Answer]]]:
    async def ask(_: Principal, intents: Sequence[Intent]) -> list[Answer]:
        answers = await gateway.handle(intents)
        for place, (intent, answer) in enumerate(zip(intents, answers, strict=False)):
            if isinstance(intent.command, MinerRegister) and isinstance(answer, Accepted):
                # Only miners on AMQP can consume hints, so the inbox declares their queues.
                try:
                    await on_demand.declare(control_queue(intent.command.miner_id, queue_type))
                except (BrokerUnreachable, TopologyMismatch) as error:
                    answers[place] = Refused(
                        Code.UNAVAILABLE, f"your control queue could not be declared; send it again ({error})"
                    )
        return answers

    return ask
