"""Progress over RabbitMQ: from miners to the processes with watchers, and between processes.

Each process has its own queue, bound to the topics that are watched there; the broker drops unwatched
progress. The queue is bounded and drops its oldest messages: late progress is worth nothing.

Three types of messages come in, each signed: `job.progress` from miners, with their keys; and between
processes `progress.relay` (a miner's report over HTTP to one of them) and `progress.ask` (a request for a
job's text so far). Processes sign with a shared secret, which follows from the key that signs receipts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from collections import OrderedDict, deque
from collections.abc import Coroutine, Sequence
from typing import Any, Final, cast
from uuid import UUID

import aio_pika
import structlog
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from coordinator.application.background import Background, BackgroundTask
from coordinator.application.commands.parsing import parse_json
from coordinator.application.keys.keyring import Keyring
from coordinator.application.live.lease_holders import LeaseHolders
from coordinator.application.live.progress import Progress, ProgressReport
from coordinator.application.live.progress_hub import ProgressHub
from coordinator.application.live.progress_stream import Topic
from coordinator.application.ports import Hints, LogError
from coordinator.broker.connection import Broker, named_url, retry_seconds
from coordinator.broker.envelope import ReceivedMessage, authenticate
from coordinator.broker.pamqp_patch import read_tolerantly
from coordinator.crypto.mac import message_to_sign, sign_message
from coordinator.domain.errors import Refusal
from coordinator.domain.messages import Name, Principal
from coordinator.wire.limits import MAX_ARRAY_LENGTH
from coordinator.wire.topology import PROGRESS_EXCHANGE, PROGRESS_TYPE, progress_key

RELAY: Final = "progress.relay"
ASK: Final = "progress.ask"
ASK_KEY: Final = "coordinator.ask"
"""With the job's id it has three words, so no binding for progress, which has two, matches it."""
QUEUE_ARGUMENTS: Final[dict[str, Any]] = {
    "x-max-length": 20_000,
    "x-max-length-bytes": 32 * 2**20,
    "x-overflow": "drop-head",
    "x-message-ttl": 10_000,
}
CONNECT_SECONDS: Final = 10.0
BIND_SECONDS: Final = 1.0
"""How long a watcher waits for its binding; then it goes on, and may miss the beginning."""
SEND_SECONDS: Final = 1.0
MAX_SENDING: Final = 64
"""Messages under way to the broker; further ones are dropped."""
MAX_CHECKING: Final = 1000
"""Jobs whose lease holder is being looked up."""
MAX_WAITING: Final = 100
"""Reports of one such job that wait for the lookup."""
MAX_RELAYED: Final = 20_000
_LOST: Final = (TimeoutError, *CONNECTION_EXCEPTIONS)

log = structlog.get_logger(__name__)


class _RelayedProgress(BaseModel):
    model_config = ConfigDict(frozen=True)
    sender: str
    client: Name
    items: tuple[Progress, ...] = Field(max_length=MAX_ARRAY_LENGTH)
    whole: bool = False


class _TextRequest(BaseModel):
    model_config = ConfigDict(frozen=True)
    sender: str
    job_id: UUID


def binding_key(topic: Topic) -> str:
    """A topic's binding key; the routing keys are `<client>.<job>`."""
    client, job_id = topic
    return progress_key(client or "*", job_id or "*")


class RabbitProgress:
    """`ProgressWire` over RabbitMQ. Failures of the broker raise nothing, and delay callers only briefly."""

    def __init__(
        self,
        broker: Broker,
        keyring: Keyring,
        lease_holders: LeaseHolders,
        hints: Hints,
        shared_secret: str,
        *,
        by_user: bool = False,
    ) -> None:
        """`broker` publishes; consuming has a connection of its own. `by_user`: see `authenticate`."""
        read_tolerantly()
        self._broker = broker
        self._keyring = keyring
        self._by_user = by_user
        self._lease_holders = lease_holders
        self._hints = hints
        self._secret = shared_secret
        self._name = secrets.token_hex(8)
        self._hub: ProgressHub | None = None
        self._wanted: set[Topic] = set()
        self._bound: set[Topic] = set()
        self._changed = asyncio.Event()
        self._binding = asyncio.Event()
        """Set, and replaced, after each new binding."""
        self._connected = False
        self._channel: AbstractChannel | None = None
        self._consumer = BackgroundTask("progress")
        self._relayed: OrderedDict[UUID, None] = OrderedDict()
        """Jobs whose miners report to this process."""
        self._waiting: dict[UUID, deque[tuple[Principal, ProgressReport]]] = {}
        self._sending = Background("progress-sending")
        self._checking = Background("progress-checking")

    async def start(self, hub: ProgressHub) -> None:
        """Begin to consume for this hub; does not wait for the broker. A second start does nothing."""
        if not self._consumer.running:
            self._hub = hub
            self._consumer.start(self._keep_consuming)

    async def stop(self) -> None:
        """May be called twice, or without a start."""
        await self._consumer.stop()
        await self._sending.stop()
        await self._checking.stop()

    def renew(self) -> None:
        """Consume anew: the exchange was lost, and all bindings with it."""
        if self._channel is not None:
            self._spawn(self._channel.close())

    # --- the port ------------------------------------------------------------------------------------------
    async def bind(self, topic: Topic) -> None:
        self._wanted.add(topic)
        self._changed.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BIND_SECONDS):
                while topic not in self._bound and topic in self._wanted:
                    await self._binding.wait()

    async def unbind(self, topic: Topic) -> None:
        self._wanted.discard(topic)
        self._changed.set()

    async def ask(self, job_id: UUID) -> bool:
        if job_id in self._relayed:
            return False  # this process has the text already
        try:
            holder = await self._lease_holders.holder(job_id)
        except LogError:
            return False
        if holder is None or not holder.running:
            return False
        hint = {"hint": "progress", "job_id": str(job_id), "attempt": holder.attempt}
        # A miner on AMQP sends the text itself; for one on HTTP, the process that it reports to sends it.
        self._spawn(self._hints.send(holder.miner_id, hint))
        self._send(f"{ASK_KEY}.{job_id}", ASK, to_json({"sender": self._name, "job_id": str(job_id)}))
        return True

    def relay(self, client: str, items: Sequence[Progress]) -> None:
        for item in items:
            self._relayed[item.job_id] = None
            self._relayed.move_to_end(item.job_id)
            self._publish(client, item, whole=False)
        while len(self._relayed) > MAX_RELAYED:
            self._relayed.popitem(last=False)

    def _publish(self, client: str, item: Progress, *, whole: bool) -> None:
        members = {name: getattr(item, name) for name in Progress.model_fields}
        body = {"sender": self._name, "client": client, "items": [members], "whole": whole}
        self._send(progress_key(client, item.job_id), RELAY, to_json(body))

    def _send(self, routing_key: str, kind: str, body: bytes) -> None:
        message_id = secrets.token_hex(8)
        signature = sign_message(self._secret, message_to_sign(kind, message_id, "", "", body))
        properties = Basic.Properties(
            content_type="application/json",
            message_type=kind,
            message_id=message_id,
            delivery_mode=1,
            headers={"signature": signature},
        )
        self._spawn(self._broker.publish_unconfirmed(PROGRESS_EXCHANGE, routing_key, body, properties))

    def _spawn(self, sending: Coroutine[Any, Any, object]) -> None:
        if len(self._sending) >= MAX_SENDING:
            sending.close()
            return

        async def send() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SEND_SECONDS):
                    await sending

        self._sending.spawn(send())

    # --- consuming -----------------------------------------------------------------------------------------
    async def _keep_consuming(self) -> None:
        failures = 0
        while True:
            try:
                await self._consume()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # A closing connection cancels its waiters.
            except _LOST as error:
                if failures == 0:
                    log.warning("progress.interrupted", reason=f"{type(error).__name__}: {error}")
            except Exception:
                log.exception("progress.failed")
            failures = 0 if self._connected else failures + 1
            self._connected = False
            self._bound.clear()
            await asyncio.sleep(retry_seconds(failures))

    async def _consume(self) -> None:
        """Consume until the channel closes."""
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await aio_pika.connect(named_url(self._broker.url, "coordinator progress"))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                channel = await (await connection.channel(publisher_confirms=False)).get_underlay_channel()
                # The broker names the queue: a dead connection would keep a name of ours locked.
                declared = await channel.queue_declare(exclusive=True, arguments=QUEUE_ARGUMENTS)
                queue = cast(str, declared.queue)
                await channel.queue_bind(queue, PROGRESS_EXCHANGE, f"{ASK_KEY}.*")
                await channel.basic_consume(queue, self._on_message, no_ack=True)
            channel.closing.add_done_callback(lambda _: self._changed.set())
            self._channel = channel
            self._connected = True
            watched = [job_id for _, job_id in self._wanted if job_id is not None]
            while not channel.is_closed:
                self._changed.clear()
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._rebind(channel, queue)
                # Text that was sent during the interruption is asked for.
                for job_id in watched:
                    await self.ask(job_id)
                watched.clear()
                await self._changed.wait()
        finally:
            with contextlib.suppress(*_LOST):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await connection.close()

    async def _rebind(self, channel: AbstractChannel, queue: str) -> None:
        more, less = self._wanted - self._bound, self._bound - self._wanted
        for topic in less:
            await channel.queue_unbind(queue, PROGRESS_EXCHANGE, binding_key(topic))
        # Only the last bind is waited for: a channel carries out its methods in order.
        keys = [binding_key(topic) for topic in more]
        for key in keys[:-1]:
            await channel.queue_bind(queue, PROGRESS_EXCHANGE, key, nowait=True)
        for key in keys[-1:]:
            await channel.queue_bind(queue, PROGRESS_EXCHANGE, key)
        self._bound |= more
        self._bound -= less
        if more:
            bound, self._binding = self._binding, asyncio.Event()
            bound.set()

    async def _on_message(self, message: DeliveredMessage) -> None:
        envelope = ReceivedMessage.of(aio_pika.IncomingMessage(message, no_ack=True))
        try:
            self._take(envelope)
        except (Refusal, ValidationError) as error:
            reason = error.code.value if isinstance(error, Refusal) else "INVALID_PAYLOAD"
            log.debug("progress.refused", kind=envelope.kind[:100], reason=reason)
        except Exception:
            log.exception("progress.unreadable")

    def _take(self, envelope: ReceivedMessage) -> None:
        if envelope.kind in (RELAY, ASK):
            self._take_own(envelope)
            return
        if envelope.kind != PROGRESS_TYPE:
            return
        principal = authenticate(envelope, self._keyring, by_user=self._by_user)
        value = parse_json(envelope.body)
        values = value if isinstance(value, list) else [value]
        job = envelope.routing_key.rpartition(".")[2]
        for element in values[:MAX_ARRAY_LENGTH]:
            report = ProgressReport.model_validate(element)
            if str(report.job_id) == job:
                self._check(principal, report)

    def _take_own(self, envelope: ReceivedMessage) -> None:
        assert self._hub is not None
        signed = message_to_sign(envelope.kind, envelope.message_id, "", "", envelope.body)
        if not hmac.compare_digest(sign_message(self._secret, signed).encode(), envelope.signature.encode()):
            log.debug("progress.refused", kind=envelope.kind, reason="signed with another key")
            return
        if envelope.kind == ASK:
            ask = _TextRequest.model_validate_json(envelope.body)
            tail = self._hub.whole(ask.job_id) if ask.job_id in self._relayed else None
            if tail is not None and ask.sender != self._name:
                client, item = tail
                self._publish(client, item, whole=True)
            return
        relay = _RelayedProgress.model_validate_json(envelope.body)
        if relay.sender != self._name:
            self._hub.publish(relay.client, *relay.items, whole=relay.whole)

    # --- authorization -------------------------------------------------------------------------------------
    def _check(self, principal: Principal, report: ProgressReport) -> None:
        """Pass the report on if its sender holds the attempt. Reports of the same job wait, in order."""
        waiting = self._waiting.get(report.job_id)
        if waiting is None:
            if len(self._checking) >= MAX_CHECKING:
                return
            waiting = self._waiting[report.job_id] = deque(maxlen=MAX_WAITING)
            self._checking.spawn(self._pass_on(report.job_id, waiting))
        waiting.append((principal, report))

    async def _pass_on(self, job_id: UUID, waiting: deque[tuple[Principal, ProgressReport]]) -> None:
        assert self._hub is not None
        try:
            while waiting:
                principal, report = waiting.popleft()
                try:
                    client = await self._lease_holders.check(principal, report)
                except (Refusal, LogError) as error:
                    log.debug("progress.refused", job=str(job_id), by=principal.name, reason=str(error))
                else:
                    self._hub.publish(client, report)
        finally:
            del self._waiting[job_id]
