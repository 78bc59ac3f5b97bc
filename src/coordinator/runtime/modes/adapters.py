"""Each mode is a set of adapters. Everything above the ports is the same code."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from coordinator.application.health import Health, Probe
from coordinator.application.keys.keyring import Keyring
from coordinator.application.live.lease_holders import LeaseHolders
from coordinator.application.live.progress_hub import ProgressWire
from coordinator.application.metrics import BrokerMetrics
from coordinator.application.ports import (
    Database,
    DeadLetters,
    EventLog,
    EventSink,
    Gateway,
    Hints,
    Leadership,
    WorkQueues,
)


class AmqpEdge(Protocol):
    """An edge that is a component of its own: the AMQP inbox."""

    @property
    def listening(self) -> bool:
        """Whether heartbeats are consumed."""

    async def probe_commands(self) -> None:
        """Raises unless commands are consumed."""

    async def probe_heartbeats(self) -> None:
        """Raises unless heartbeats are consumed."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters of one mode, as one service. They are open, but nothing runs before `start`."""

    log: EventLog
    database: Database
    """For the followers and heartbeats."""
    reads: Database
    """The same tables for the HTTP edge, with connections of its own: slow reads delay no follower."""
    leadership: Leadership
    queues: WorkQueues
    hints: Hints
    sink: EventSink
    start: Callable[[], Coroutine[Any, Any, None]]
    """Make the connections that take long."""
    stop: Callable[[], Coroutine[Any, Any, None]]
    dead_letters: Callable[[Gateway, Keyring], DeadLetters | None]
    """None in a mode without a broker."""
    inbox: Callable[[Gateway, Keyring], AmqpEdge | None]
    """The AMQP edge, if the mode has one."""
    progress: Callable[[LeaseHolders, Keyring, str], ProgressWire]
    """The way of progress to the processes that watch it; they share the secret."""
    broker_metrics: Callable[[], BrokerMetrics | None]
    """None in a mode without a broker."""
    connected: Callable[[], bool]
    listening: Callable[[], bool]
    """Whether messages of others can reach the broker now: not while it blocks publishers."""
    probes: Callable[[Health], Sequence[Probe]]
    """The probes of these adapters."""
    on_reconnect: Callable[[Callable[[], None]], None]
    """Registers a callback for each reconnection to the broker."""
