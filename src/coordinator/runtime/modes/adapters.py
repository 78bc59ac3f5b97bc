"""What differs between the modes: a set of adapters each. Everything above the ports is the same code."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from coordinator.application.keys.keyring import Keyring
from coordinator.application.live.lease_holders import LeaseHolders
from coordinator.application.live.progress_hub import ProgressWire
from coordinator.application.ports import (
    Database,
    EventLog,
    EventSink,
    Gateway,
    Hints,
    Leadership,
    WorkQueues,
)


class AmqpEdge(Protocol):
    """A way in that has a life of its own (the AMQP inbox)."""

    @property
    def connected(self) -> bool: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters of one mode: a service. Opened, but nothing runs before `start`."""

    log: EventLog
    database: Database
    """For the followers and heartbeats."""
    reads: Database
    """The same tables for the HTTP edge, with connections of its own: many slow reads hold up no follower."""
    leadership: Leadership
    queues: WorkQueues
    hints: Hints
    sink: EventSink
    start: Callable[[], Coroutine[Any, Any, None]]
    """Connect to what takes long."""
    stop: Callable[[], Coroutine[Any, Any, None]]
    inbox: Callable[[Gateway, Keyring], AmqpEdge | None]
    """The AMQP way in, where there is one."""
    progress: Callable[[LeaseHolders, Keyring, str], ProgressWire]
    """How progress gets to the processes where it is watched; they have the secret in common."""
    connected: Callable[[], bool]
    on_reconnect: Callable[[Callable[[], None]], None]
    """Call back when the broker is there again after it was away."""

    def problems(self) -> list[str]:
        """What keeps the adapters from their work."""
        return [] if self.connected() else ["the broker is out of reach"]
