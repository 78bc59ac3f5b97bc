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

from coordinator.application.bus import CommandBus
from coordinator.application.deciding import Deciding
from coordinator.application.dispatch import Dispatcher
from coordinator.application.endings import Endings
from coordinator.application.feed import Feed
from coordinator.application.figures import Figures, FollowerFigures
from coordinator.application.follow import Follower, FollowerRunner, LocalWatermarks
from coordinator.application.front import CoordinatorFront, KeyDesk, Welcome
from coordinator.application.holders import Holders
from coordinator.application.intents import Intent, Refused
from coordinator.application.keys import KeyFollower
from coordinator.application.live import Live, LiveEvents
from coordinator.application.names import Names
from coordinator.application.payload_schemas import PayloadSchemas
from coordinator.application.payloads import Payloads
from coordinator.application.ports import (
    Appended,
    Clock,
    Database,
    LogUnavailable,
    Recorded,
    StoredPayload,
)
from coordinator.application.preparation import Preparation, fingerprint_secret
from coordinator.application.presence import Presence
from coordinator.application.progress_hub import ProgressHub
from coordinator.application.publish import Publisher
from coordinator.application.references import References
from coordinator.application.timers import Timers
from coordinator.blobs import BlobStore, open_blob_store
from coordinator.catalog import load_catalog
from coordinator.crypto.api_keys import KeySecrets
from coordinator.crypto.keys import SigningKey
from coordinator.domain.errors import Code
from coordinator.domain.messages import SYSTEM
from coordinator.domain.service import ServiceRegister, ServiceSpec
from coordinator.parts import Parts
from coordinator.projections import projector
from coordinator.settings import BadSettings, Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

SIGNING_KEY_FILE = "signing.key"
START_SECONDS = 60.0  # how long the registry's entries may take to get into the log at the start

log = structlog.get_logger("coordinator")

SYSTEM_CLOCK = Clock(now=lambda: time.time_ns() // 1_000_000, monotonic=time.monotonic)


def build(settings: Settings) -> Coordinator:
    """A coordinator in the mode that the settings ask for; `start` it."""
    return Coordinator(settings, open_parts(settings))


def open_parts(settings: Settings) -> Parts:
    """The adapters of the mode. Imported here, so that neither mode loads the other's libraries."""
    if settings.mode == "embedded":
        from coordinator.embedded import open_embedded

        return open_embedded(settings)
    from coordinator.standard import open_standard

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


class Coordinator:
    """Everything that runs in one process. `start` and `stop` may each be called twice."""

    def __init__(self, settings: Settings, parts: Parts, clock: Clock = SYSTEM_CLOCK) -> None:
        key = signing_key(settings)
        self.settings = settings
        self.signing_key_id = key.key_id
        self.parts = parts
        self.blobs = blob_store(settings)
        self.feed = Feed(parts.log)
        self._payloads = Payloads(parts.log)
        self.bus = CommandBus(
            parts.log,
            Deciding(key, PayloadSchemas(settings.fetch_allow_hosts)),
            clock,
            references=References(parts.log, self.blobs, partial(unowned_blobs, parts.database)),
            on_committed=self._committed,
        )
        self._names = Names(self.bus.state)
        self.feed.on_foreign(self._foreign)
        timeout = settings.heartbeat_timeout_seconds
        secrets = KeySecrets.of(key)
        self.watermarks = LocalWatermarks(parts.database)
        self.keyring = settings.new_keyring(secrets, clock.now)
        self._keys = KeyFollower(self.feed, parts.log, parts.database, self.keyring, self.watermarks)
        holders = Holders(self.bus.state)
        hub = ProgressHub(parts.progress(holders, self.keyring, _shared_secret(key)))
        events = LiveEvents(self.feed, parts.log, hub, holders)
        self.live = Live(events, hub, holders, Endings(self.keyring))
        presence = Presence(parts.database, self.bus.state, lambda: self.feed.head, clock, timeout)
        self.front = CoordinatorFront(
            self.bus,
            Preparation(self.blobs, fingerprint_secret(key), self._names, secrets),
            presence,
            parts.queues,
            self._names,
            Welcome(settings.heartbeat_interval_seconds, timeout),
            KeyDesk(secrets, self._keys.reached),
        )
        timers = Timers(parts.database, self.front.handle, clock, timeout, self._hears)
        parts.on_reconnect(timers.listen_anew)
        self._dispatcher = Dispatcher(
            self._payloads,
            parts.database,
            parts.queues,
            parts.hints,
            clock,
            settings.offer_timeout_seconds,
        )
        followers: Iterable[Follower] = (
            projector.Projector(),
            self._dispatcher,
            Publisher(parts.sink),
            timers,
        )
        self.runners = [
            FollowerRunner(f, self.feed, parts.database, parts.leadership, self.watermarks) for f in followers
        ]
        self._inbox = parts.inbox(self.front, self.keyring)
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
        from coordinator.edge.rates import Rates, redis_storage

        redis_url = self.settings.rate_limit_redis_url
        rates = Rates(
            self.settings.rate_limits,
            self.settings.rate_limit_window_seconds,
            None if redis_url is None else lambda: redis_storage(redis_url.get_secret_value()),
        )
        return create_app(
            EdgeContext(
                front=self.front,
                log=self.parts.log,
                database=self.parts.reads,
                queues=self.parts.queues,
                keyring=self.keyring,
                blobs=self.blobs,
                settings=self.settings,
                watermarks=self.watermarks,
                live=self.live,
                health=self.health,
                figures=self.figures,
                rates=rates,
                stopping=self._stopping,
            )
        )

    async def start(self) -> None:
        """Connect, seed the registry, follow the log, and let commands in. Raises LogUnavailable, OSError."""
        if self._started:
            return
        self._started = True
        await self.parts.start()
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
        await self.parts.stop()
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
        if not self.parts.connected():
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

    def figures(self) -> Figures:
        """What `/metrics` shows; at once, without I/O."""
        followers = {r.follower.name: FollowerFigures(r.status, r.position) for r in self.runners}
        dispatches = followers[self._dispatcher.name].status == "leading"
        return Figures(
            mode=self.settings.mode,
            position=self.feed.head,
            broker_up=self.parts.connected(),
            bus=self.bus.figures(),
            followers=followers,
            work=self._dispatcher.work.figures() if dispatches else None,
        )

    def _hears(self) -> bool:
        """Whether heartbeats could reach us."""
        return self.parts.connected() and (self._inbox is None or self._inbox.connected)

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
            for spec, answer in zip(specs, await self.front.handle(intents), strict=True):
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
    parts = open_parts(settings)
    try:
        return projector.rebuild(parts.log, parts.database, progress)
    finally:
        asyncio.run(parts.stop())


def check_projections(settings: Settings) -> list[str]:
    """Where the read models differ from a fold of the log; empty where nowhere."""
    parts = open_parts(settings)
    try:
        return list(projector.differences(parts.log, parts.database))
    finally:
        asyncio.run(parts.stop())
