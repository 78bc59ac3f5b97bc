"""The miner's AMQP transport: one work queue, one queue of hints, commands in arrays.

Consumers have a channel of their own, apart from commands: to consume from a vanished queue closes it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq.abc import AbstractChannel, DeliveredMessage
from pydantic_core import from_json

from coordinator.miner.offer_buffer import BufferedOffer, Bundle, OfferBuffer
from coordinator.miner.transport import NOT_LIVE, MinerInbox
from coordinator.telemetry import tracing
from coordinator.wire.amqp.rpc import LINK_ERRORS, AmqpRpc, on_link
from coordinator.wire.answers import AnswerJson
from coordinator.wire.backoff import Backoff, RetryClock
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.offers import BadOffer, Offer, read_offer
from coordinator.wire.signed_messages import Untrusted, hint_for, offer_for
from coordinator.wire.spans import sending
from coordinator.wire.topology import (
    HEARTBEAT_TYPE,
    HEARTBEATS_EXCHANGE,
    PROGRESS_EXCHANGE,
    PROGRESS_TYPE,
    progress_key,
)

# Commands whose answer may free a slot (see `OfferBuffer.unanswered`).
_JOB_COMMANDS = "job."


class _QueueVanished(Exception):
    """The work queue is gone: nobody used it for a while, or the broker lost it."""


class AmqpTransport:
    """A miner's connection to RabbitMQ (a `Transport`). `key` is `name:secret`.

    Offers and hints that the coordinator did not sign are dropped.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        coordinator_keys: Iterable[str] = (),
        answer_timeout_seconds: float = 10.0,
        backoff: Backoff | None = None,
        clock: RetryClock | None = None,
    ) -> None:
        self._backoff = backoff or Backoff()
        self._clock = clock or RetryClock()
        self._rpc = AmqpRpc(
            url,
            key,
            name=f"miner {key.partition(':')[0]}",
            coordinator_keys=coordinator_keys,
            answer_timeout_seconds=answer_timeout_seconds,
            backoff=self._backoff,
            clock=self._clock,
        )
        self._changed = asyncio.Event()
        self._buffer = OfferBuffer(self._changed.set)
        self._inbox: MinerInbox | None = None
        self._slots = 1
        self._registration: Mapping[str, Any] | None = None
        self._queues = ("", "")
        self._profile = ""
        self._consumer: asyncio.Task[None] | None = None
        self._log = structlog.get_logger().bind()

    async def start(self, inbox: MinerInbox, slots: int) -> None:
        self._inbox, self._slots = inbox, slots
        await self._rpc.start()

    async def close(self) -> None:
        if self._consumer is not None:
            self._consumer.cancel()
            await asyncio.gather(self._consumer, return_exceptions=True)
            self._consumer = None
        await self._rpc.close()

    async def register(self, command: Mapping[str, Any]) -> AnswerJson:
        answer = await self._rpc.call("miner.register", command)
        if answer.get("status") == "accepted":
            self._registration = command
            self._use(answer)
            self._buffer.resume()
            if self._consumer is None:
                self._consumer = asyncio.get_running_loop().create_task(self._keep_consuming())
        return answer

    def _use(self, answer: AnswerJson) -> None:
        self._queues = (str(answer["queue"]), str(answer["control_queue"]))
        self._profile = str(answer["profile"])

    async def call(self, kind: str, command: Mapping[str, Any]) -> AnswerJson:
        if not kind.startswith(_JOB_COMMANDS):
            return await self._rpc.call(kind, command)
        self._buffer.unanswered += 1
        try:
            if tracing.tracer() is None:
                return await self._rpc.call(kind, command)
            async with sending(kind, command) as sent:
                answer = sent.answer = await self._rpc.call(kind, sent.fields)
                return answer
        finally:
            self._buffer.unanswered -= 1

    async def heartbeat(self, beat: Heartbeat, timeout_seconds: float) -> AnswerJson | None:
        return await self._rpc.ask(
            HEARTBEAT_TYPE,
            beat.model_dump(mode="json"),
            exchange=HEARTBEATS_EXCHANGE,
            timeout_seconds=timeout_seconds,
        )

    async def report(self, offer: Offer, report: Mapping[str, Any]) -> bool:
        if offer.client is None:
            return True  # an older coordinator, which ignores progress
        return await self._rpc.tell(
            PROGRESS_TYPE,
            report,
            exchange=PROGRESS_EXCHANGE,
            routing_key=progress_key(offer.client, offer.job_id),
        )

    async def take(self) -> BufferedOffer | None:
        return await self._buffer.take()

    def suspend(self) -> None:
        self._buffer.suspend()

    def stop_taking(self) -> None:
        self._buffer.end()

    # --- consuming -----------------------------------------------------------------------------------------
    async def _keep_consuming(self) -> None:
        tries = 0
        while True:
            connection = await self._rpc.connection()
            try:
                await on_link(self._consume(connection))
                tries = 0
            except (_QueueVanished, ChannelNotFoundEntity):
                await self._register_again()
            except LINK_ERRORS as error:
                if tries == 0:
                    self._log.debug("consumer_lost", reason=f"{type(error).__name__}: {error}")
                await self._clock.sleep(self._backoff.delay(tries))
                tries += 1

    async def _consume(self, connection: AbstractConnection) -> None:
        """Consume while offers are wanted. Returns when the queues have changed, raises when they fail."""
        queues = work, control = self._queues
        vanished = False

        def on_canceled(_frame: object) -> None:
            nonlocal vanished
            vanished = True
            self._changed.set()

        raw = await (await connection.channel(publisher_confirms=False)).get_underlay_channel()
        raw.on_consumer_cancel_callbacks.add(on_canceled)
        raw.closing.add_done_callback(lambda _: self._changed.set())
        deliveries = _Deliveries(raw)

        async def on_offers(message: DeliveredMessage) -> None:
            self._on_offers(deliveries, message)

        try:
            await raw.basic_qos(prefetch_count=self._slots)
            await raw.basic_consume(control, self._on_hint, no_ack=True)
            tag: str | None = None
            while queues == self._queues:
                if raw.is_closed:
                    raise ConnectionError("the consumers' channel was closed")
                if vanished:
                    raise _QueueVanished
                self._changed.clear()
                if self._buffer.wanted and tag is None:
                    tag = (await raw.basic_consume(work, on_offers)).consumer_tag
                elif tag is not None and not self._buffer.wanted:
                    await raw.basic_cancel(tag)
                    tag = None
                    if not self._buffer.wanted:  # no slot became free meanwhile
                        self._buffer.give_back()
                else:
                    await self._changed.wait()
        finally:
            self._buffer.forget()
            await _close(raw)

    async def _register_again(self) -> None:
        """Register the same session again: after the answer the queues exist."""
        command = self._registration
        assert command is not None
        self._log.info("work_queue_vanished")
        answer = await self._rpc.call("miner.register", command)
        if command is not self._registration:
            return  # the program has begun another session meanwhile
        if answer.get("status") == "accepted":
            self._use(answer)
            return
        if answer.get("code") in NOT_LIVE and self._inbox is not None:
            self._buffer.suspend()
            self._inbox.on_session_lost(str(command["session_id"]))
        await self._clock.sleep(self._backoff.delay(3))

    def _on_offers(self, deliveries: _Deliveries, message: DeliveredMessage) -> None:
        tag = message.delivery_tag
        assert tag is not None
        deliveries.opened(tag)
        try:
            self._rpc.trust.check(offer_for(self._profile), message.header.properties.headers, message.body)
            value = from_json(message.body)
            offers = [read_offer(item) for item in (value if isinstance(value, list) else [value])]
        except Untrusted as error:
            self._log.error("forged_offer", reason=str(error))
            offers = []
        except ValueError as error:
            # Take it off the queue: it would come back for ever, and a lost offer is made again.
            self._log.warning("bad_offer", reason=str(error) if isinstance(error, BadOffer) else "not JSON")
            offers = []
        bundle = Bundle(offers, lambda done: deliveries.settle(tag, done))
        if offers:
            self._buffer.put(bundle)
        else:
            bundle.one_done()

    async def _on_hint(self, message: DeliveredMessage) -> None:
        command = self._registration
        try:
            miner_id = "" if command is None else str(command["miner_id"])
            self._rpc.trust.check(hint_for(miner_id), message.header.properties.headers, message.body)
            hint = from_json(message.body)
        except Untrusted as error:
            self._log.error("forged_hint", reason=str(error))
            return
        except ValueError:
            return
        if isinstance(hint, dict) and self._inbox is not None:
            self._inbox.on_hint(hint)


class _Deliveries:
    """Settles the deliveries of one channel; one frame acknowledges all that are settled at once."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel
        self._order: deque[int] = deque()
        self._open: dict[int, bool | None] = {}
        self._flusher: asyncio.Task[None] | None = None

    def opened(self, tag: int) -> None:
        self._order.append(tag)
        self._open[tag] = None

    def settle(self, tag: int, done: bool) -> None:
        """Take the delivery off the queue (`done`), or put it back."""
        self._open[tag] = done
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        try:
            while frames := self._frames():
                for tag, done, multiple in frames:
                    if done:
                        await self._channel.basic_ack(tag, multiple=multiple, wait=False)
                    else:
                        await self._channel.basic_reject(tag, requeue=True, wait=False)
        except LINK_ERRORS:
            pass  # the channel is gone: the broker has put unacknowledged messages back
        finally:
            self._flusher = None

    def _frames(self) -> list[tuple[int, bool, bool]]:
        """(tag, done, multiple) for all settled deliveries."""
        frames: list[tuple[int, bool, bool]] = []
        first = 0
        while self._order and self._open[self._order[0]] is True:
            first = self._order.popleft()
            del self._open[first]
        if first:
            frames.append((first, True, True))
        settled = [tag for tag in self._order if self._open[tag] is not None]
        if settled:
            frames += [(tag, bool(self._open.pop(tag)), False) for tag in settled]
            self._order = deque(tag for tag in self._order if tag in self._open)
        return frames


async def _close(channel: AbstractChannel) -> None:
    if not channel.is_closed:
        try:
            async with asyncio.timeout(5):
                await on_link(channel.close())
        except LINK_ERRORS:
            pass  # already gone


__all__ = ["AmqpTransport"]
