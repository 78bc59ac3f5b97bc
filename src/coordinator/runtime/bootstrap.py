"""The only place that wires adapters to ports."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from coordinator.application.commands.bus import CommandBus
from coordinator.application.commands.cache import StateCache
from coordinator.application.commands.gateway import CommandGateway
from coordinator.application.commands.ids import Ids
from coordinator.application.commands.jobs import JobCommands
from coordinator.application.commands.keys import KeyCommands
from coordinator.application.commands.miners import MinerCommands, MinerPeriods
from coordinator.application.commands.names import Names
from coordinator.application.commands.payload_schemas import PayloadSchemas
from coordinator.application.commands.references import References
from coordinator.application.commands.services import ServiceCommands
from coordinator.application.dispatch.dispatcher import Dispatcher
from coordinator.application.dispatch.payloads import Payloads
from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.followers.presence import Presence
from coordinator.application.followers.publisher import Publisher
from coordinator.application.followers.runner import Follower, FollowerRunner, LocalWatermarks
from coordinator.application.followers.timers import Timers
from coordinator.application.keys.follower import KeyFollower
from coordinator.application.live.events import Live, LiveEvents
from coordinator.application.live.lease_holders import LeaseHolders
from coordinator.application.live.progress_hub import ProgressHub
from coordinator.application.live.revocation import Revocations
from coordinator.application.metrics import CoordinatorMetrics, FollowerMetrics
from coordinator.application.ports import (
    Appended,
    Clock,
    Database,
    Intent,
    LogUnavailable,
    Recorded,
    StoredPayload,
)
from coordinator.blobs import BlobStore, open_blob_store
from coordinator.crypto.api_keys import KeySecrets
from coordinator.crypto.keys import SigningKey
from coordinator.domain.errors import Code
from coordinator.domain.job import is_final
from coordinator.domain.messages import SYSTEM
from coordinator.domain.service import ServiceRegister, ServiceSpec
from coordinator.projections import projector
from coordinator.runtime.adapters import Adapters
from coordinator.runtime.garbage_collection import collected_rarely
from coordinator.runtime.settings import BadSettings, Settings
from coordinator.services.catalog import load_catalog
from coordinator.wire.answers import Refused

if TYPE_CHECKING:
    from fastapi import FastAPI

SIGNING_KEY_FILE = "signing.key"
START_SECONDS = 60.0  # how long the registry's entries may take to get into the log at the start

log = structlog.get_logger("coordinator")

SYSTEM_CLOCK = Clock(now=lambda: time.time_ns() // 1_000_000, monotonic=time.monotonic)


def build(settings: Settings) -> CoordinatorProcess:
    """A coordinator in the mode that the settings ask for; `start` it."""
    return CoordinatorProcess(settings, open_adapters(settings))


def open_adapters(settings: Settings) -> Adapters:
    """The adapters of the mode. Imported here, so that neither mode loads the other's libraries."""
    if settings.mode == "embedded":
        from coordinator.runtime.embedded import open_embedded

        return open_embedded(settings)
    from coordinator.runtime.standard import open_standard

    return open_standard(settings)


def signing_key(settings: Settings) -> SigningKey:
    """RECEIPT_SIGNING_KEY_HEX, or a key file in the data directory that is made at the first start."""
    if settings.receipt_signing_key_hex is not None:
        return SigningKey.from_hex(settings.receipt_signing_key_hex.get_secret_value())
    return SigningKey.load_or_create(settings.data_dir / SIGNING_KEY_FILE)


def blob_store(settings: Settings) -> BlobStore:
    """BLOB_STORE, or a directory in the data directory. Raises BadSettings for what names no store."""
    try:
        return open_blob_store(settings.blob_store or str(settings.data_dir / "blobs"))
    except ValueError as error:
        raise BadSettings(f"BLOB_STORE: {error}") from None


class CoordinatorProcess:
    """Everything that runs in one process. `start` and `stop` may each be called twice."""

    def __init__(self, settings: Settings, adapters: Adapters, clock: Clock = SYSTEM_CLOCK) -> None:
        key = signing_key(settings)
        self.settings = settings
        self.signing_key_id = key.key_id
        self.adapters = adapters
        self.blobs = blob_store(settings)
        self.feed = EventFeed(adapters.log)
        self._payloads = Payloads(adapters.log)
        ids = Ids(clock.now)
        cache = StateCache(is_final)
        self.bus = CommandBus(adapters.log, clock, cache, ids, on_committed=self._committed)
        self._names = Names(self.bus.state)
        self.feed.on_foreign(self._foreign)
        timeout = settings.heartbeat_timeout_seconds
        secrets = KeySecrets.of(key)
        self.watermarks = LocalWatermarks(adapters.database)
        self.keyring = settings.new_keyring(secrets, clock.now)
        self._keys = KeyFollower(self.feed, adapters.log, adapters.database, self.keyring, self.watermarks)
        lease_holders = LeaseHolders(self.bus.state)
        hub = ProgressHub(adapters.progress(lease_holders, self.keyring, _shared_secret(key)))
        events = LiveEvents(self.feed, adapters.log, hub, lease_holders)
        self.live = Live(events, hub, lease_holders, Revocations(self.keyring))
        presence = Presence(adapters.database, self.bus.state, lambda: self.feed.head, clock, timeout)
        references = References(adapters.log, self.blobs, partial(unowned_blobs, adapters.database))
        schemas = PayloadSchemas(settings.fetch_allow_hosts)
        # One handler for each noun that there are commands about.
        handlers = (
            JobCommands(key, self._names, self.blobs, references, schemas, ids),
            MinerCommands(adapters.queues, MinerPeriods(settings.heartbeat_interval_seconds, timeout)),
            ServiceCommands(self._names),
            KeyCommands(secrets, self.bus.state, self._keys.reached, ids),
        )
        self.gateway = CommandGateway(self.bus, handlers, presence, self._names)
        timers = Timers(adapters.database, self.gateway.handle, clock, timeout, self._hears)
        adapters.on_reconnect(timers.listen_anew)
        self._dispatcher = Dispatcher(
            self._payloads,
            adapters.database,
            adapters.queues,
            adapters.hints,
            clock,
            settings.offer_timeout_seconds,
        )
        followers: Iterable[Follower] = (
            projector.Projector(),
            self._dispatcher,
            Publisher(adapters.sink),
            timers,
        )
        self.runners = [
            FollowerRunner(f, self.feed, adapters.database, adapters.leadership, self.watermarks)
            for f in followers
        ]
        self._inbox = adapters.inbox(self.gateway, self.keyring)
        self._started = False
        self._stopping = asyncio.Event()

    def _committed(self, appended: Appended, stored: Sequence[StoredPayload]) -> None:
        self._payloads.note(stored)
        self._names.note(appended.events)
        self.feed.offer(appended.previous, appended.events)

    def _foreign(self, events: Sequence[Recorded]) -> None:
        self._names.note(events)
        self.bus.forget(events)

    def let_go(self) -> None:
        """The edge is about to stop: answer at once whoever waits for work or for a result."""
        self._stopping.set()

    @property
    def app(self) -> FastAPI:
        """The HTTP edge, made anew at each call."""
        from coordinator.edge.app import create_app
        from coordinator.edge.context import EdgeContext
        from coordinator.edge.middleware.rate_limits import RateLimits, redis_storage

        redis_url = self.settings.rate_limit_redis_url
        rates = RateLimits(
            self.settings.rate_limits,
            self.settings.rate_limit_window_seconds,
            None if redis_url is None else lambda: redis_storage(redis_url.get_secret_value()),
        )
        return create_app(
            EdgeContext(
                gateway=self.gateway,
                log=self.adapters.log,
                database=self.adapters.reads,
                queues=self.adapters.queues,
                keyring=self.keyring,
                blobs=self.blobs,
                settings=self.settings,
                watermarks=self.watermarks,
                live=self.live,
                health=self.health,
                metrics=self.metrics,
                rates=rates,
                stopping=self._stopping,
            )
        )

    async def start(self) -> None:
        """Connect, seed the registry, follow the log, and let commands in. Raises LogUnavailable, OSError."""
        if self._started:
            return
        self._started = True
        await self.adapters.start()
        await self.feed.start()
        await self.live.events.start()
        await self._keys.start()
        await self.live.progress.start()
        await self.bus.start()
        await self._seed()
        if self._inbox is not None:
            await self._inbox.start()  # before the timers: what waits in the queue was sent in time
        for runner in self.runners:
            await runner.start()
        log.info("started", mode=self.settings.mode, position=self.feed.head, key=self.signing_key_id)

    async def stop(self) -> None:
        """Let nothing more in, answer what is in, and close everything."""
        if not self._started:
            return
        self._started = False
        if self._inbox is not None:
            await self._inbox.stop()
        await self.bus.stop()
        for runner in self.runners:
            await runner.stop()
        await self.live.progress.stop()
        await self.live.events.stop()
        await self._keys.stop()
        await self.feed.stop()
        await self.adapters.stop()
        stats = self.bus.stats
        log.info(
            "stopped",
            commands=stats.commands,
            refused=stats.refused,
            batches=stats.batches,
            events=stats.events,
            conflicts=stats.conflicts,
        )

    def health(self) -> dict[str, Any]:
        """What `/health` shows; at once, without I/O."""
        followers = {r.follower.name: {"status": r.status, "position": r.position} for r in self.runners}
        reasons = [f"{r.follower.name} stopped: {r.error}" for r in self.runners if r.status == "failed"]
        if not self._started:
            reasons.append("not started")
        if not self.adapters.connected():
            reasons.append("the broker is out of reach")
        elif self._inbox is not None and not self._inbox.connected:
            reasons.append("commands are not consumed")
        return {
            "live": True,
            "ready": not reasons,
            "reasons": reasons,
            "mode": self.settings.mode,
            "position": self.feed.head,
            "signing_key_id": self.signing_key_id,
            "followers": followers,
        }

    def metrics(self) -> CoordinatorMetrics:
        """What `/metrics` shows; at once, without I/O."""
        followers = {r.follower.name: FollowerMetrics(r.status, r.position) for r in self.runners}
        dispatches = followers[self._dispatcher.name].status == "leading"
        return CoordinatorMetrics(
            mode=self.settings.mode,
            position=self.feed.head,
            broker_up=self.adapters.connected(),
            bus=self.bus.metrics(),
            followers=followers,
            work=self._dispatcher.work.metrics() if dispatches else None,
        )

    def _hears(self) -> bool:
        """Whether heartbeats could reach us."""
        return self.adapters.connected() and (self._inbox is None or self._inbox.connected)

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, for benchmarks and operators."""
        return {"bus": dataclasses.asdict(self.bus.stats)}

    async def _seed(self) -> None:
        """Register the catalogue's services, and bring what an older catalogue registered up to date.

        What an admin has revised or retired stays as it is.
        """
        specs = [ServiceSpec.model_validate(entry) for entry in load_catalog()]
        intents = [Intent(ServiceRegister(spec=spec), SYSTEM) for spec in specs]
        async with asyncio.timeout(START_SECONDS):
            for spec, answer in zip(specs, await self.gateway.handle(intents), strict=True):
                if isinstance(answer, Refused) and answer.code in (Code.UNAVAILABLE, Code.INTERNAL):
                    raise LogUnavailable(f"{spec.id} could not be registered: {answer.detail}")


def _shared_secret(key: SigningKey) -> str:
    """What the processes of one coordinator have in common, to know each other's messages by."""
    return hashlib.sha256(b"coordinator progress 1\n" + key.sign(b"coordinator progress 1")).hexdigest()


def unowned_blobs(database: Database, pairs: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of these (`blob:<sha256>`, principal) pairs are no upload that took place."""
    keys = {f"{ref.removeprefix('blob:')}/{principal}": (ref, principal) for ref, principal in pairs}
    with database.transaction() as tables:
        owned = {row["key"] for row in tables.query("bus_owned_blobs", keys=list(keys))}
    return {pair for key, pair in keys.items() if key not in owned}


def rebuild_projections(settings: Settings, progress: Callable[[int, int], None]) -> int:
    """Fold the log again into empty read models; the number of events. `progress(position, head)`."""
    adapters = open_adapters(settings)
    try:
        with collected_rarely():
            return projector.rebuild(adapters.log, adapters.database, progress)
    finally:
        asyncio.run(adapters.stop())


def check_projections(settings: Settings) -> list[str]:
    """Where the read models differ from a fold of the log; empty where nowhere."""
    adapters = open_adapters(settings)
    try:
        with collected_rarely():
            return list(projector.differences(adapters.log, adapters.database))
    finally:
        asyncio.run(adapters.stop())
