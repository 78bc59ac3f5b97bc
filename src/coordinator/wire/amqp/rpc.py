"""Commands and their answers over one AMQP connection that reconnects by itself.

    async with AmqpRpc(url, "name:secret") as rpc:
        answer = await rpc.call("job.submit", {…})

Not aio-pika's robust connection: it restores every consumer with its first arguments, and if a queue has
vanished meanwhile it fails and starts over for ever. Here each connection begins empty; a user that wants
consumers on it sets them up again (see `on_connected`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import aio_pika
import structlog
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq import spec
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelAccessRefused
from pydantic_core import from_json
from yarl import URL

from coordinator.crypto.mac import message_to_sign, sign_message
from coordinator.wire.amqp.batching import CommandSender, NotSent, OutgoingMessage, SenderClosed, encode
from coordinator.wire.amqp.requests import Requests
from coordinator.wire.answers import AnswerJson, read_answer
from coordinator.wire.backoff import Backoff, RetryClock
from coordinator.wire.signed_messages import CoordinatorTrust, Untrusted
from coordinator.wire.topology import COMMANDS_EXCHANGE, DIRECT_REPLY

CONTENT_TYPE = "application/json"
CONNECT_TIMEOUT_SECONDS = 15.0
CONFIRM_TIMEOUT_SECONDS = 30.0
"""A broker that does not confirm for so long counts as dead, even if its socket is open."""
TELL_SECONDS = 1.0
SLOW_SECONDS = 5.0
HEARTBEAT_SECONDS = 10
PERSISTENT, TRANSIENT = 2, 1

LINK_ERRORS: tuple[type[BaseException], ...] = (*CONNECTION_EXCEPTIONS, TimeoutError)
"""The errors that aio-pika raises when the broker or the network fails."""

T = TypeVar("T")


class LinkLost(ConnectionError):
    """The connection was lost during an operation."""


async def on_link(awaitable: Awaitable[T]) -> T:
    """Await an AMQP operation. Raises LinkLost if a dying connection cancels it."""
    try:
        return await awaitable
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise LinkLost("the connection was lost") from None


class AmqpRpc:
    """One connection, one reply queue, and the map from replies to the calls that wait for them.

    `key` is `name:secret`; only the name, and signatures made with the secret, are sent.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        name: str = "coordinator client",
        coordinator_keys: Iterable[str] = (),
        answer_timeout_seconds: float = 10.0,
        backoff: Backoff | None = None,
        clock: RetryClock | None = None,
    ) -> None:
        """`coordinator_keys`: see `CoordinatorTrust`. A `url` without a user logs in with the key.

        Raises ValueError for an invalid key of the coordinator.
        """
        self._url = URL(url)
        self._principal, _, self._secret = key.partition(":")
        if self._url.user is None:
            self._url = self._url.with_user(self._principal).with_password(self._secret)
        # The broker checks this property against the connection's user; a shared user's says nothing.
        self._user_id = self._principal if self._url.user == self._principal else None
        self.trust = CoordinatorTrust(coordinator_keys)
        """Which messages are the coordinator's."""
        if "heartbeat" not in self._url.query:
            # The default, a minute of silence, is too long while work waits.
            self._url = self._url.update_query(heartbeat=HEARTBEAT_SECONDS)
        self._name = name
        self._backoff = backoff or Backoff()
        self._clock = clock or RetryClock()
        self._sender = CommandSender(
            self._publish,
            answer_timeout_seconds=answer_timeout_seconds,
            backoff=self._backoff,
            clock=self._clock,
        )
        self._asked: dict[str, asyncio.Future[AnswerJson]] = {}
        self._requests = Requests(self._principal, self._secret, self.trust)
        self._listeners: list[Callable[[AbstractConnection], None]] = []
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._unconfirmed: AbstractChannel | None = None
        self._tell_again_at = 0.0
        self._refused = 0
        """How often in a row the broker refused access."""
        self._up = asyncio.Event()
        self._lost = asyncio.Event()
        self._connector: asyncio.Task[None] | None = None
        self._closed = False
        self._log = structlog.get_logger().bind()

    async def start(self) -> None:
        """Begin to connect and stay connected; does not wait for the broker. May be called twice.

        Does nothing after `close`.
        """
        if self._connector is None and not self._closed:
            self._connector = asyncio.get_running_loop().create_task(self._keep_connected())

    async def close(self) -> None:
        """Disconnect. Calls without an answer raise SenderClosed. May be called twice, and without start."""
        self._closed = True
        if self._connector is not None:
            self._connector.cancel()
            await asyncio.gather(self._connector, return_exceptions=True)
            self._connector = None
        await self._disconnect()  # the connector may have been half-way
        await self._sender.close()
        for future in self._asked.values():
            future.cancel()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def call(self, kind: str, command: Mapping[str, Any]) -> AnswerJson:
        """Send a command until it is answered, and return the answer, accepted or refused.

        Survives restarts of the broker and the coordinator; bound it with `asyncio.timeout`.
        Raises SenderClosed; ValueError or TypeError if the command is not JSON.
        """
        if kind == "job.submit" and command.get("idempotency_key") is None:
            # Without a key the message id identifies the job, and a later repeat has another message id.
            command = {**command, "idempotency_key": secrets.token_hex(16)}
        return await self._sender.call(kind, command)

    async def ask(
        self, kind: str, message: Mapping[str, Any], *, exchange: str, timeout_seconds: float
    ) -> AnswerJson | None:
        """Send a message once, to an exchange by its type; None if no answer came in time."""
        body = encode(message)
        ask_id = secrets.token_hex(16)
        future: asyncio.Future[AnswerJson] = asyncio.get_running_loop().create_future()
        self._asked[ask_id] = future
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._publish(OutgoingMessage(kind, ask_id, body), exchange=exchange)
                return await future
        except (NotSent, TimeoutError):
            return None
        finally:
            del self._asked[ask_id]
            self._requests.forget(ask_id)

    async def tell(self, kind: str, message: Mapping[str, Any], *, exchange: str, routing_key: str) -> bool:
        """Publish a message once, without a confirm or an answer.

        False if it certainly was not sent: there is no connection, or the broker is slow. After a slow one
        all others fail for a few seconds, so that none pile up.
        """
        channel, now = self._unconfirmed, self._clock.now()
        if channel is not None and channel.is_closed and now >= self._tell_again_at:
            channel = await self._open_unconfirmed(now)
        if channel is None or channel.is_closed or now < self._tell_again_at:
            return False
        body, message_id = encode(message), secrets.token_hex(8)
        signature = sign_message(self._secret, message_to_sign(kind, message_id, "", "", body))
        properties = spec.Basic.Properties(
            content_type=CONTENT_TYPE,
            headers={"principal": self._principal, "signature": signature},
            delivery_mode=TRANSIENT,
            message_id=message_id,
            message_type=kind,
            user_id=self._user_id,
        )
        try:
            # Waits until the socket accepts the message, which shows a slow broker.
            async with asyncio.timeout(TELL_SECONDS):
                await on_link(
                    channel.basic_publish(
                        body, exchange=exchange, routing_key=routing_key, properties=properties
                    )
                )
        except TimeoutError:
            self._tell_again_at = now + TELL_SECONDS + SLOW_SECONDS
            return False
        except LINK_ERRORS:
            return False
        return True

    async def connection(self) -> AbstractConnection:
        """The current connection; waits for one."""
        await self._up.wait()
        assert self._connection is not None
        return self._connection

    def on_connected(self, listener: Callable[[AbstractConnection], None]) -> None:
        """Call back with every new connection."""
        self._listeners.append(listener)

    # --- the connection ------------------------------------------------------------------------------------
    async def _keep_connected(self) -> None:
        tries = 0
        while True:
            self._lost.clear()
            try:
                await on_link(self._connect())
            except LINK_ERRORS as error:
                if tries == 0:
                    self._log.warning("broker_unreachable", reason=f"{type(error).__name__}: {error}")
                await self._disconnect()
                await self._clock.sleep(self._backoff.delay(tries))
                tries += 1
                continue
            tries = 0
            try:
                await self._lost.wait()
                if not self._refused:
                    self._log.warning("broker_lost")
            finally:
                self._up.clear()
                if not self._refused or self._closed:
                    await self._disconnect()
            # Do not hammer a broker that accepts connections and drops them at once.
            await self._clock.sleep(self._backoff.delay(self._refused))

    async def _connect(self) -> None:
        connection = self._connection
        if connection is None or connection.is_closed:
            self._refused = 0
            connection = self._connection = await aio_pika.connect(
                self._url,
                timeout=CONNECT_TIMEOUT_SECONDS,
                client_properties={"connection_name": self._name},
            )
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            self._channel = raw = await channel.get_underlay_channel()
            # Straight to this channel: nothing to declare, nothing that others could read or fill.
            await raw.basic_consume(DIRECT_REPLY, self._on_reply, no_ack=True)
            unconfirmed = await connection.channel(publisher_confirms=False)
            self._unconfirmed = await unconfirmed.get_underlay_channel()
        raw.closing.add_done_callback(self._on_closing)
        self._log.debug("broker_connected")
        self._up.set()
        self._sender.repeat_now()
        for listener in self._listeners:
            listener(connection)

    def _on_closing(self, closing: asyncio.Future[Any]) -> None:
        """The channel was closed. Where the broker refused access, the connection and its login stay.

        A refusal may pass: the process that answers the broker's questions about rights may be away.
        """
        reason = None if closing.cancelled() else closing.exception() or closing.result()
        connection = self._connection
        if isinstance(reason, ChannelAccessRefused) and connection is not None and not connection.is_closed:
            if self._refused == 0:
                self._log.warning("access_refused", reason=str(reason))
            self._refused += 1
        else:
            self._refused = 0
        self._lost.set()

    async def _open_unconfirmed(self, now: float) -> AbstractChannel | None:
        """The channel for `tell` again, after the broker refused a message on it and closed it."""
        self._tell_again_at = now + SLOW_SECONDS
        connection = self._connection
        if connection is None or connection.is_closed:
            return None
        try:
            async with asyncio.timeout(TELL_SECONDS):
                opened = await on_link(connection.channel(publisher_confirms=False).__aenter__())
                self._unconfirmed = channel = await opened.get_underlay_channel()
        except LINK_ERRORS:
            return None
        return channel

    async def _disconnect(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        self._unconfirmed = None
        if connection is not None:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                    await on_link(connection.close())
            except LINK_ERRORS:
                pass  # it is gone anyway

    async def _on_reply(self, message: DeliveredMessage) -> None:
        properties = message.header.properties
        correlation_id = properties.correlation_id or ""
        try:
            if not self._requests.check(correlation_id, properties.headers, message.body):
                return
        except Untrusted as error:
            self._log.error("forged_answer", reason=str(error))
            return
        asked = self._asked.get(correlation_id)
        if asked is None:
            self._sender.answered(correlation_id, message.body)
        elif not asked.done() and (answer := _answer(message.body)) is not None:
            asked.set_result(answer)

    async def _publish(self, message: OutgoingMessage, *, exchange: str = COMMANDS_EXCHANGE) -> None:
        await self._up.wait()
        channel = self._channel
        if channel is None:
            raise NotSent("not connected")
        self._requests.prune(lambda sent: sent in self._asked or self._sender.waits_for(sent))
        issued_at, signature = self._requests.sign(message)
        properties = spec.Basic.Properties(
            content_type=CONTENT_TYPE,
            headers={"principal": self._principal, "signature": signature, "issued_at": issued_at},
            delivery_mode=PERSISTENT if exchange == COMMANDS_EXCHANGE else TRANSIENT,
            message_id=message.id,
            correlation_id=message.id,
            reply_to=DIRECT_REPLY,
            message_type=message.kind,
            user_id=self._user_id,
        )
        try:
            await on_link(
                channel.basic_publish(
                    message.body,
                    exchange=exchange,
                    routing_key=message.kind,
                    properties=properties,
                    mandatory=True,
                    timeout=CONFIRM_TIMEOUT_SECONDS,
                )
            )
            self._refused = 0
        except TimeoutError:
            if self._channel is channel:
                self._lost.set()
            raise NotSent("the broker does not confirm") from None
        except LINK_ERRORS as error:
            raise NotSent(f"{type(error).__name__}: {error}") from None


def _answer(body: bytes) -> AnswerJson | None:
    try:
        return read_answer(from_json(body))
    except ValueError:
        return None


__all__ = ["LINK_ERRORS", "AmqpRpc", "SenderClosed", "on_link"]
