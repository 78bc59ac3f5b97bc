"""One process of a coordinator: its components, its health and its metrics."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from coordinator.application.background import LifeCycle
from coordinator.application.batches.batches import JobBatches
from coordinator.application.commands.bus import CommandBus
from coordinator.application.commands.gateway import CommandGateway
from coordinator.application.dispatch.dispatcher import Dispatcher
from coordinator.application.figures.attention import Disk
from coordinator.application.figures.window import WindowCounter
from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.followers.runner import FollowerRunner
from coordinator.application.followers.watermarks import LocalWatermarks
from coordinator.application.health import Health
from coordinator.application.keys.keyring import Keyring
from coordinator.application.keys.sessions import Sessions
from coordinator.application.live.events import Live
from coordinator.application.matches.live_miners import LiveMiners
from coordinator.application.metrics import (
    CoordinatorMetrics,
    DiskMetrics,
    FollowerMetrics,
    OpenOffers,
    ProofMetrics,
    SettlementMetrics,
)
from coordinator.application.money.sender import SettlementSender
from coordinator.application.payloads.recent_results import RecentResults
from coordinator.application.ports import DeadLetters
from coordinator.application.proof.errors import LogRewritten
from coordinator.application.proof.notary import Notary
from coordinator.application.proof.proofs import Proofs
from coordinator.application.proof.witnesses import Witnesses
from coordinator.application.quotas.quotas import Quotas
from coordinator.application.receipts.receipts import Receipts
from coordinator.application.telemetry.job_times import JobTimes
from coordinator.application.webhooks.deliverer import Deliverer
from coordinator.blobs import BlobStore
from coordinator.crypto.webhooks import WebhookKeys
from coordinator.domain.matching.reasons import Offered
from coordinator.projections.checks import ReadModelChecks
from coordinator.runtime.modes.adapters import Adapters
from coordinator.runtime.settings import Settings

_REWRITTEN = tuple(f"{kind.__name__}:" for kind in LogRewritten.__subclasses__())
"""How the reason of a notary begins that found other events than those that it signed."""

log = structlog.get_logger("coordinator")


@dataclass(frozen=True, slots=True)
class CoordinatorProcess:
    """The parts of one process that the edge and the CLI use; `bootstrap` makes and connects them."""

    settings: Settings
    signing_key_id: str
    adapters: Adapters
    blobs: BlobStore
    feed: EventFeed
    bus: CommandBus
    gateway: CommandGateway
    keyring: Keyring
    sessions: Sessions
    receipts: Receipts
    results: RecentResults
    quotas: Quotas
    webhook_keys: WebhookKeys
    deliverer: Deliverer
    settlement: SettlementSender | None
    """None where no batches are settled."""
    proofs: Proofs
    notary: Notary
    witnesses: Witnesses
    watermarks: LocalWatermarks
    live: Live
    dispatcher: Dispatcher
    job_times: JobTimes
    miners: LiveMiners
    batches: JobBatches
    window: WindowCounter
    table_checks: ReadModelChecks
    runners: Sequence[FollowerRunner]
    life_cycle: LifeCycle
    """In the order of their start."""
    dead_letters: DeadLetters | None
    parts: Health
    """Whether each part worked lately."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        """Connect, register the catalogue, accept commands, and follow the log.

        May be called twice. Raises LogUnavailable or OSError; then nothing runs.
        """
        if self.life_cycle.running:
            return
        await self.life_cycle.start()
        log.info("started", mode=self.settings.mode, position=self.feed.head, key=self.signing_key_id)

    async def stop(self) -> None:
        """Accept no more commands, answer the accepted ones, and close everything. May be called twice."""
        if not self.life_cycle.running:
            return
        await self.life_cycle.stop()
        stats = self.bus.stats
        log.info(
            "stopped",
            commands=stats.commands,
            refused=stats.refused,
            batches=stats.batches,
            events=stats.events,
            conflicts=stats.conflicts,
        )

    def end_waits(self) -> None:
        """The edge is about to stop: answer the requests that wait for work or a result at once."""
        self.stopping.set()

    def health(self) -> dict[str, Any]:
        """The body of `/health`; without I/O."""
        reasons = self.parts.reasons() if self.life_cycle.running else ["not started"]
        return {
            "live": self.parts.restart is None,
            "ready": not reasons,
            "reasons": reasons,
            "warnings": self.parts.warnings(),
            "parts": self.parts.view(),
            "mode": self.settings.mode,
            "position": self.feed.head,
            "signing_key_id": self.signing_key_id,
            "log": self._log(),
            "followers": {
                r.follower.name: {"status": r.status, "position": r.position} for r in self.runners
            },
        }

    def _log(self) -> dict[str, Any]:
        """The last checkpoint of this process; null in one that does not run the notary."""
        signed = self.notary.last
        witnesses = len(self.witnesses.addresses)
        return {
            "origin": self.notary.origin or None,
            "size": None if signed is None else signed.checkpoint.checkpoint.size,
            "witnesses": f"{self.witnesses.signed_by()} of {witnesses}" if witnesses else None,
        }

    def offered(self, job_id: str) -> Offered | None:
        """The job's offer on a work queue; None if another process makes the offers."""
        return self.dispatcher.offered(job_id) if self._dispatches else None

    def offers(self) -> OpenOffers | None:
        """The offers on the work queues; None if another process makes them."""
        return self.dispatcher.work.offers() if self._dispatches else None

    def disk(self) -> Disk | None:
        """The disk with the data directory; None before it has one. Blocks."""
        try:
            usage = shutil.disk_usage(self.settings.data_dir)
        except OSError:
            return None
        return Disk(usage.free, usage.total)

    @property
    def _dispatches(self) -> bool:
        return any(r.follower is self.dispatcher and r.status == "leading" for r in self.runners)

    def _proof_metrics(self) -> ProofMetrics | None:
        signed = self.notary.last
        if signed is None:
            return None
        return ProofMetrics(
            size=signed.checkpoint.checkpoint.size,
            position=signed.position,
            signed_at=signed.at,
            witnesses=len(self.witnesses.addresses),
            witnessed=self.witnesses.signed_by(),
        )

    def metrics(self) -> CoordinatorMetrics:
        """The metrics of `/metrics`; without I/O."""
        followers = {
            r.follower.name: FollowerMetrics(r.status, r.position, r.stalled_seconds()) for r in self.runners
        }
        dispatches = followers[self.dispatcher.name].status == "leading"
        return CoordinatorMetrics(
            mode=self.settings.mode,
            position=self.feed.head,
            parts=self.parts.parts(),
            broker_up=self.adapters.connected(),
            bus=self.bus.metrics(),
            followers=followers,
            work=self.dispatcher.work.metrics() if dispatches else None,
            quotas=self.quotas.metrics(),
            proof=self._proof_metrics(),
            webhooks=self.deliverer.metrics(),
            settlement=SettlementMetrics() if self.settlement is None else self.settlement.metrics(),
            divergences=self._divergences(),
            broker=self.adapters.broker_metrics(),
            jobs=self.job_times.metrics(),
        )

    def _divergences(self) -> dict[str, int]:
        """What this process knows of a log that is not the one that it should be."""
        rewritten = any(
            r.follower is self.notary and r.error is not None and r.error.startswith(_REWRITTEN)
            for r in self.runners
        )
        return {"checkpoint": int(rewritten), "log_went_back": int(self.parts.restart is not None)}

    def disks(self) -> dict[str, DiskMetrics]:
        """The disks of this process, by what is on them. Asks the system: not for the event loop."""
        folders, store = {"data": self.settings.data_dir}, self.settings.blob_store
        if store and not store.startswith("s3:"):
            folders["blobs"] = Path(store)
        found = {}
        for name, folder in folders.items():
            with contextlib.suppress(OSError):
                space = os.statvfs(folder)
                found[name] = DiskMetrics(space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize)
        return found
