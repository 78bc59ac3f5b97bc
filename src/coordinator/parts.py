"""What differs between the modes: a set of adapters each. Everything above the ports is the same code."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from coordinator.application.holders import Holders
from coordinator.application.keyring import Keyring
from coordinator.application.ports import (
    Database,
    EventLog,
    EventSink,
    Front,
    Hints,
    Leadership,
    WorkQueues,
)
from coordinator.application.progress_hub import ProgressWire


class Edge(Protocol):
    """A way in that has a life of its own (the AMQP inbox)."""

    @property
    def connected(self) -> bool: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The adapters of one mode. Opened, but nothing runs before `start`."""

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
    inbox: Callable[[Front, Keyring], Edge | None]
    """The AMQP way in, where there is one."""
    progress: Callable[[Holders, Keyring, str], ProgressWire]
    """How progress gets to the processes where it is watched; they have the secret in common."""
    connected: Callable[[], bool]
    on_reconnect: Callable[[Callable[[], None]], None]
    """Call back when the broker is there again after it was away."""
