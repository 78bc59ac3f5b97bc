"""A coordinator as one process sees it: what runs, how it is, and what it counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from coordinator.application.background import Services
from coordinator.application.commands.bus import CommandBus
from coordinator.application.commands.gateway import CommandGateway
from coordinator.application.dispatch.dispatcher import Dispatcher
from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.followers.runner import FollowerRunner, LocalWatermarks
from coordinator.application.keys.keyring import Keyring
from coordinator.application.live.events import Live
from coordinator.application.metrics import CoordinatorMetrics, FollowerMetrics
from coordinator.blobs import BlobStore
from coordinator.runtime.modes.adapters import Adapters
from coordinator.runtime.settings import Settings

log = structlog.get_logger("coordinator")


@dataclass(frozen=True, slots=True)
class CoordinatorProcess:
    """The parts of one process that others speak to; `bootstrap` makes and connects them."""

    settings: Settings
    signing_key_id: str
    adapters: Adapters
    blobs: BlobStore
    feed: EventFeed
    bus: CommandBus
    gateway: CommandGateway
    keyring: Keyring
    watermarks: LocalWatermarks
    live: Live
    dispatcher: Dispatcher
    runners: Sequence[FollowerRunner]
    services: Services
    """All that runs on, in the order in which it starts."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        """Connect, seed the registry, let commands in, and follow the log.

        May be called twice. Raises LogUnavailable, OSError; then nothing runs.
        """
        if self.services.running:
            return
        await self.services.start()
        log.info("started", mode=self.settings.mode, position=self.feed.head, key=self.signing_key_id)

    async def stop(self) -> None:
        """Let nothing more in, answer what is in, and close everything. May be called twice."""
        if not self.services.running:
            return
        await self.services.stop()
        stats = self.bus.stats
        log.info(
            "stopped",
            commands=stats.commands,
            refused=stats.refused,
            batches=stats.batches,
            events=stats.events,
            conflicts=stats.conflicts,
        )

    def let_go(self) -> None:
        """The edge is about to stop: whoever waits for work or for a result is answered at once."""
        self.stopping.set()

    def health(self) -> dict[str, Any]:
        """What `/health` shows; at once, without I/O."""
        reasons = self.services.problems() if self.services.running else ["not started"]
        return {
            "live": True,
            "ready": not reasons,
            "reasons": reasons,
            "mode": self.settings.mode,
            "position": self.feed.head,
            "signing_key_id": self.signing_key_id,
            "followers": {
                r.follower.name: {"status": r.status, "position": r.position} for r in self.runners
            },
        }

    def metrics(self) -> CoordinatorMetrics:
        """What `/metrics` shows; at once, without I/O."""
        followers = {r.follower.name: FollowerMetrics(r.status, r.position) for r in self.runners}
        dispatches = followers[self.dispatcher.name].status == "leading"
        return CoordinatorMetrics(
            mode=self.settings.mode,
            position=self.feed.head,
            broker_up=self.adapters.connected(),
            bus=self.bus.metrics(),
            followers=followers,
            work=self.dispatcher.work.metrics() if dispatches else None,
        )
