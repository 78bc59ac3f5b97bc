"""Connections to RabbitMQ that reconnect by themselves, and the package's publishing connection."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast

import aio_pika
import structlog
from aio_pika import RobustConnection, connect_robust
from aio_pika.abc import AbstractRobustChannel
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AMQPError,
    AuthenticationError,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)
from aiormq import Channel
from pamqp.commands import Basic
from yarl import URL

HEARTBEAT_SECONDS = 10
"""A dead peer is noticed after about three of these."""
CONNECT_TIMEOUT_SECONDS = 10.0
START_TIMEOUT_SECONDS = 30.0
"""How long a start waits for the broker."""
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 5.0
PUBLISH_TIMEOUT_SECONDS = 30.0
UNBLOCKED_SECONDS = 0.2
PROBE_SECONDS = 1.5
PROBE_KEY = "coordinator.probe"
"""No queue has this name, so the broker confirms and drops the message."""
_BLOCKED = "the broker blocks publishers: a resource alarm (memory or disk)"

_AUTHENTICATION = (AuthenticationError, ProbableAuthenticationError)

Outcome = Literal["confirmed", "unroutable", "unknown"]

log = structlog.get_logger(__name__)


class BrokerError(Exception):
    """RabbitMQ can't be used. The text is one line: the reason, without secrets."""


class BrokerUnreachable(BrokerError, ConnectionError):
    """No answer from AMQP_URL."""


class BrokerRefused(BrokerError):
    """RabbitMQ refused the connection. Trying again does not help."""


class BrokerBlocked(BrokerError, ConnectionError):
    """RabbitMQ takes no messages now (a resource alarm). It delivers, so consumers work on."""


class PublishFailed(BrokerError, ConnectionError):
    """Whether the broker has a message is unknown: publish it again."""


def retry_seconds(failures: int) -> float:
    """The pause after so many failures in a row."""
    return min(FIRST_RETRY_SECONDS * 2.0 ** min(failures, 16), LAST_RETRY_SECONDS)


def named_url(url: str, name: str) -> str:
    """`url` with the connection's name, and with our heartbeat unless it has one."""
    target = URL(url)
    return str(target.update_query({"heartbeat": str(HEARTBEAT_SECONDS), **target.query, "name": name}))


def without_password(url: str) -> str:
    """`url` without its password."""
    target = URL(url).with_query(None)
    return str(target.with_password("***") if target.password else target)


class BackingOffConnection(RobustConnection):
    """A robust connection with a growing pause between its attempts to reconnect."""

    _failures = 0

    @property
    def reconnect_interval(self) -> float:
        return retry_seconds(self._failures)

    @reconnect_interval.setter
    def reconnect_interval(self, _: Any) -> None:
        pass  # the base class sets a fixed pause

    async def _on_connection_close(self, closing: asyncio.Future[Any]) -> None:
        self._failures += 1
        await super()._on_connection_close(closing)

    async def _on_connected(self) -> None:
        await super()._on_connected()
        self._failures = 0


async def connect(url: str, name: str, start_timeout: float = START_TIMEOUT_SECONDS) -> RobustConnection:
    """A connection that reconnects by itself. Raises BrokerRefused, BrokerUnreachable."""
    deadline = asyncio.get_running_loop().time() + start_timeout
    failures = 0
    while True:
        try:
            return cast(
                RobustConnection,
                await connect_robust(
                    named_url(url, name),
                    connection_class=BackingOffConnection,
                    timeout=CONNECT_TIMEOUT_SECONDS,
                ),
            )
        except (TimeoutError, *CONNECTION_EXCEPTIONS) as error:
            explained = explain(url, error)
            pause = retry_seconds(failures)
            failures += 1
            # A wrong password stays wrong; a virtual host may be created later.
            if isinstance(error, _AUTHENTICATION) or asyncio.get_running_loop().time() + pause > deadline:
                raise explained from error
            log.warning("broker.unreachable", url=without_password(url), retry_seconds=pause)
            await asyncio.sleep(pause)


async def server_version(url: str, timeout_seconds: float) -> str:
    """The version of RabbitMQ at `url`, after opening a channel. Raises what `aio_pika.connect` does."""
    connection = await aio_pika.connect(url, timeout=timeout_seconds)
    try:
        under: Any = connection.transport.connection if connection.transport else None
        version = getattr(under, "server_properties", {}).get("version", "")
        await (await connection.channel()).close()
    finally:
        await connection.close()
    return str(version)


def explain(url: str, error: Exception) -> BrokerError:
    """A failure to connect as an error for the operator, who has set AMQP_URL."""
    place = f"RabbitMQ at {without_password(url)}"
    match error:
        case AuthenticationError() | ProbableAuthenticationError():
            return BrokerRefused(f"{place} refused the user name or password in AMQP_URL")
        case InvalidFrameError() if "Connection.OpenOk" in str(error):  # aiormq's error for that refusal
            return BrokerRefused(
                f"{place} refused the virtual host in AMQP_URL: it does not exist, or not for this user"
            )
    return BrokerUnreachable(f"no {place} (AMQP_URL): {error or type(error).__name__}")


class Broker:
    """The publishing connection: channels with and without confirms, and callbacks after a reconnect.

    Consumers have connections of their own: the broker throttles publishers by connection.
    """

    def __init__(self, url: str, name: str = "coordinator publisher") -> None:
        self.url = url
        self._name = name
        self._connection: RobustConnection | None = None
        self._confirming: AbstractRobustChannel | None = None
        self._unconfirmed: AbstractRobustChannel | None = None
        self._blocked = False
        self._on_reconnect: list[Callable[[], Awaitable[None] | None]] = []
        self._lost_at: float | None = None
        """When the connection was lost (monotonic seconds), while it is."""
        self.disconnections = 0
        self.publishes: Counter[Outcome] = Counter()
        """Publishes with a confirm since the start, by outcome."""

    @property
    def connected(self) -> bool:
        connection = self._connection
        return connection is not None and not connection.is_closed and connection.connected.is_set()

    @property
    def listening(self) -> bool:
        """Whether messages of others can reach the broker, as far as the last probe knows."""
        return self.connected and not self._blocked

    async def probe(self) -> None:
        """Publish to nobody. Raises BrokerUnreachable, BrokerBlocked, PublishFailed.

        The broker tells a connection of a resource alarm only once that publishes.
        """
        connection = self._connection
        transport = connection.transport if connection is not None else None
        if not self.connected or transport is None:
            raise BrokerUnreachable("the broker is out of reach")
        try:
            async with asyncio.timeout(UNBLOCKED_SECONDS):
                await transport.connection.ready()
        except TimeoutError:
            self._blocked = True
            raise BrokerBlocked(_BLOCKED) from None
        outcome = await self.publish(
            "", PROBE_KEY, b"", Basic.Properties(delivery_mode=1), timeout=PROBE_SECONDS
        )
        if outcome == "confirmed":
            self._blocked = False
            return
        if not self.connected:
            raise BrokerUnreachable("the broker is out of reach")
        # Without a confirm nobody knows whether heartbeats arrive, so silence must not count.
        self._blocked = True
        raise PublishFailed("the broker confirms no message")

    @property
    def state(self) -> Literal["stopped", "connected", "reconnecting"]:
        if self._connection is None:
            return "stopped"
        return "connected" if self.connected else "reconnecting"

    @property
    def connection(self) -> RobustConnection:
        if self._connection is None:
            raise BrokerUnreachable("not connected to RabbitMQ: call start() first")
        return self._connection

    def on_reconnect(self, callback: Callable[[], Awaitable[None] | None]) -> None:
        """Call back after each reconnect, in the order of registration."""
        self._on_reconnect.append(callback)

    async def start(self, timeout: float = START_TIMEOUT_SECONDS) -> None:
        """Connect. Raises BrokerRefused, BrokerUnreachable. A second start does nothing."""
        if self._connection is not None:
            return
        connection = await connect(self.url, self._name, timeout)
        try:
            self._confirming = await _channel(connection)
            self._unconfirmed = await _channel(connection, confirms=False)
        except BaseException:
            await connection.close()
            raise
        connection.reconnect_callbacks.add(self._reconnected)
        connection.close_callbacks.add(self._lost)
        self._connection = connection

    async def stop(self) -> None:
        """Close the connection. May be called twice, or without a start."""
        connection, self._connection = self._connection, None
        self._confirming = self._unconfirmed = None
        if connection is not None:
            await connection.close()

    async def channel(self) -> AbstractRobustChannel:
        """A further channel, with confirms."""
        return await _channel(self.connection)

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: Basic.Properties,
        *,
        mandatory: bool = False,
        timeout: float = PUBLISH_TIMEOUT_SECONDS,
    ) -> Outcome:
        """Publish and wait for the broker's confirm. Failures of the broker or the network raise nothing.

        Only mandatory messages can be "unroutable"; "unknown": the message may or may not have arrived.
        """
        outcome = await self._publish(exchange, routing_key, body, properties, mandatory, timeout)
        self.publishes[outcome] += 1
        return outcome

    async def _publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: Basic.Properties,
        mandatory: bool,
        timeout: float,
    ) -> Outcome:
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task else 0
        try:
            async with asyncio.timeout(timeout):
                channel = self._confirming
                if channel is None or channel.is_closed:
                    return "unknown"
                underlay = cast(Channel, await channel.get_underlay_channel())
                # Without waiting for the socket: many publishes then leave in one write.
                await underlay.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=properties,
                    mandatory=mandatory,
                    wait=False,
                )
            return "confirmed"
        except PublishError:
            return "unroutable"
        except (DeliveryError, TimeoutError, *CONNECTION_EXCEPTIONS):
            return "unknown"
        except asyncio.CancelledError:
            # A closing channel cancels the waiters for confirms, which our caller did not ask for.
            if task is not None and task.cancelling() > cancelled_before:
                raise
            return "unknown"

    async def publish_unconfirmed(
        self, exchange: str, routing_key: str, body: bytes, properties: Basic.Properties
    ) -> bool:
        """Publish without a confirm, for replies and hints. Failures of the broker raise nothing.

        False: the message was certainly not sent.
        """
        channel = self._unconfirmed
        if channel is None or channel.is_closed:
            return False
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
                underlay = cast(Channel, await channel.get_underlay_channel())
                await underlay.basic_publish(
                    body, exchange=exchange, routing_key=routing_key, properties=properties, wait=False
                )
        except (AMQPError, TimeoutError, ValueError, TypeError, *CONNECTION_EXCEPTIONS):
            return False  # ValueError and TypeError: a reply_to or correlation id that can't be written
        return True

    def _lost(self, _: object, reason: BaseException | None) -> None:
        if self._connection is None or self._lost_at is not None:
            return  # we have closed it, or this is one more try in vain
        self._lost_at = time.monotonic()
        self.disconnections += 1
        log.warning(
            "broker.lost",
            connection=self._name,
            url=without_password(self.url),
            reason=str(reason) or type(reason).__name__,
        )

    async def _reconnected(self, *_: object) -> None:
        lost_at, self._lost_at = self._lost_at, None
        seconds = None if lost_at is None else round(time.monotonic() - lost_at, 1)
        log.info("broker.reconnected", connection=self._name, after_seconds=seconds)
        for callback in self._on_reconnect:
            try:
                outcome = callback()
                if outcome is not None:
                    await outcome
            except Exception:
                log.exception("broker.reconnect_callback_failed")


async def _channel(connection: RobustConnection, *, confirms: bool = True) -> AbstractRobustChannel:
    channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
    await channel.initialize()
    return channel
