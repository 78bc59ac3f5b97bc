"""The server's connections: how many are open, and whether their peers take what was sent to them.

One pass over all connections every few seconds finds stuck ones, so a request costs nothing here.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Any, Final, Protocol

from coordinator.domain.errors import Code
from coordinator.edge.http.problems import Problem
from coordinator.edge.state.networks import network_of
from coordinator.edge.state.open_connections import ConnectionLimits, Refusals

WRITE_SECONDS: Final = 60.0
"""A connection whose peer takes no data for so long is cut. The kernel reports progress in steps of some
64 KiB (`runtime.process.ports.UNSENT_BYTES`), so a reader must take about 1 KiB a second."""
SWEEP_SECONDS: Final = 2.0
MANY_LOST: Final = 32
"""Connections lost with a request or messages under way, after which their memory is given back."""
MAX_LINGERING: Final = 64
"""Refused connections that may still be reading their refusal; further ones are cut without a text."""


class ConnectionProtocol(Protocol):
    """A protocol of an open connection."""

    @property
    def reading_paused(self) -> bool:
        """Whether nothing is read from the peer at the moment."""


class _Connection:
    """An open connection. `took` is the time at which its peer was last seen to take data."""

    __slots__ = ("network", "took", "transport", "unsent")

    def __init__(self, transport: asyncio.Transport, network: str) -> None:
        self.transport = transport
        self.network = network
        self.unsent = 0
        self.took = 0.0


class Connections:
    """All connections of a server. Used on the event loop."""

    write_seconds = WRITE_SECONDS
    sweep_seconds = SWEEP_SECONDS

    def __init__(
        self, limits: ConnectionLimits | None = None, on_many_lost: Callable[[], None] = lambda: None
    ) -> None:
        """`on_many_lost` is called soon after MANY_LOST connections were lost with work under way."""
        self._limits = limits or ConnectionLimits()
        self._open: dict[ConnectionProtocol, _Connection] = {}
        self._networks: dict[str, int] = {}
        self._refusals = Refusals()
        self._lingering = 0
        self._on_many_lost = on_many_lost
        self._lost = 0
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, protocol: ConnectionProtocol, transport: asyncio.Transport) -> Problem | None:
        """Count a new connection; or the refusal, and it is not counted."""
        peer = transport.get_extra_info("peername")
        network = network_of(peer[0]) if isinstance(peer, tuple) else ""
        limits = self._limits
        if limits.total and len(self._open) >= limits.total:
            self._refusals.note("MAX_CONNECTIONS", address=network)
            return Problem(Code.UNAVAILABLE, "too many connections are open; try again later")
        count = self._networks.get(network, 0)
        if limits.per_address and count >= limits.per_address:
            self._refusals.note("MAX_CONNECTIONS_PER_ADDRESS", address=network)
            return Problem(Code.RATE_LIMITED, "too many connections from this address; close some of them")
        self._networks[network] = count + 1
        self._open[protocol] = _Connection(transport, network)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self.sweep_seconds, self._look)
        return None

    def release(self, protocol: ConnectionProtocol, *, under_way: bool) -> None:
        """The connection is closed; was work of it under way? Does nothing for one that was refused."""
        connection = self._open.pop(protocol, None)
        if connection is None:
            return
        left = self._networks[connection.network] - 1
        if left:
            self._networks[connection.network] = left
        else:
            del self._networks[connection.network]
        self._lost += under_way

    def hand_over(self, old: ConnectionProtocol, new: ConnectionProtocol) -> None:
        """The connection goes on with another protocol."""
        connection = self._open.pop(old, None)
        if connection is not None:
            self._open[new] = connection

    def took_data(self, protocol: ConnectionProtocol) -> None:
        """The peer has taken so much that more may be written."""
        connection = self._open.get(protocol)
        if connection is not None:
            connection.unsent = 0

    def begin_lingering(self) -> bool:
        """Whether a refused connection may stay open for a moment, until its peer has read the refusal."""
        if self._lingering >= MAX_LINGERING:
            return False
        self._lingering += 1
        return True

    def end_lingering(self) -> None:
        self._lingering -= 1

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = None
        if self._lost >= MANY_LOST:
            self._lost = 0
            self._on_many_lost()
        if self._open or self._lost:
            self._sweep = loop.call_later(self.sweep_seconds, self._look)
        now = loop.time()
        unheard = []
        for protocol, connection in list(self._open.items()):
            unsent = _unsent(connection.transport)
            if not unsent:
                connection.unsent = 0
                if protocol.reading_paused and not connection.transport.is_closing():
                    unheard.append(connection.transport)
                continue
            if not connection.unsent or unsent < connection.unsent:
                connection.took = now
            elif now - connection.took >= self.write_seconds:
                self._refusals.note("reads nothing", address=connection.network)
                connection.transport.abort()
            connection.unsent = unsent
        for transport in _gone(unheard):
            transport.abort()


def _gone(transports: list[asyncio.Transport]) -> list[asyncio.Transport]:
    """Those whose peer has closed the connection: while nothing is read, the event loop does not notice."""
    if not transports or not hasattr(select, "POLLRDHUP"):  # Linux has it
        return []
    by_descriptor = {each.get_extra_info("socket").fileno(): each for each in transports}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLRDHUP)
    return [by_descriptor[descriptor] for descriptor, _ in poll.poll(0)]


def connections_of(config: Any) -> Connections:
    """The connections of the server with this configuration, made at the first use."""
    found: Connections | None = getattr(config, "connections", None)
    if found is None:
        found = config.connections = Connections()
    return found


def _unsent(transport: asyncio.Transport) -> int:
    try:
        return transport.get_write_buffer_size()
    except RuntimeError:  # uvloop's, once it is closed
        return 0
