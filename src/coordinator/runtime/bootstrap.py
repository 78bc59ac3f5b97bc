"""Wires adapters to ports: the parts of a coordinator process. Its HTTP edge is made in `edge`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from coordinator.application.background import Component, LifeCycle
from coordinator.application.batches.batches import JobBatches
from coordinator.application.batches.runner import BatchRunner
from coordinator.application.commands.bus import CommandBus
from coordinator.application.commands.cache import StateCache
from coordinator.application.commands.gateway import CommandGateway
from coordinator.application.commands.handlers.alarms import AlarmCommands
from coordinator.application.commands.handlers.content import ContentCommands
from coordinator.application.commands.handlers.jobs.again import EarlierJobs
from coordinator.application.commands.handlers.jobs.callbacks import CallbackUrls
from coordinator.application.commands.handlers.jobs.handler import JobCommands
from coordinator.application.commands.handlers.keys import KeyCommands
from coordinator.application.commands.handlers.miners import MinerCommands, MinerPeriods
from coordinator.application.commands.handlers.names import Names
from coordinator.application.commands.handlers.quotas import QuotaCommands
from coordinator.application.commands.handlers.services import ServiceCommands
from coordinator.application.commands.handlers.signing_keys import SigningKeyCommands
from coordinator.application.commands.handlers.standings import StandingCommands
from coordinator.application.commands.handlers.webhooks import WebhookCommands
from coordinator.application.commands.ids import Ids
from coordinator.application.dispatch.dispatcher import Dispatcher
from coordinator.application.dispatch.payloads import Payloads
from coordinator.application.figures.window import WindowCounter
from coordinator.application.followers.eraser import ERASER, Eraser
from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.followers.follower import Follower
from coordinator.application.followers.presence import Presence
from coordinator.application.followers.publisher import Publisher
from coordinator.application.followers.runner import FollowerRunner
from coordinator.application.followers.timers import Timers
from coordinator.application.followers.watermarks import LocalWatermarks
from coordinator.application.health import Health, HealthProbes, Probe, in_own_thread
from coordinator.application.keys.follower import KeyFollower
from coordinator.application.keys.sessions import Sessions
from coordinator.application.live.events import Live, LiveEvents
from coordinator.application.live.lease_holders import LeaseHolders
from coordinator.application.live.progress_hub import ProgressHub
from coordinator.application.live.revocation import Revocations
from coordinator.application.matches.live_miners import LiveMiners
from coordinator.application.payloads.private import PrivatePayloads
from coordinator.application.payloads.recent_results import RecentResults
from coordinator.application.payloads.references import References, blob_sizes, need_blobs, unowned_blobs
from coordinator.application.payloads.schemas import PayloadSchemas
from coordinator.application.payloads.service_versions import ServiceVersions
from coordinator.application.ports import Clock, EventLog
from coordinator.application.proof.addresses import WitnessAddress
from coordinator.application.proof.memory import CheckpointMemory, NoMemory
from coordinator.application.proof.notary import Notary
from coordinator.application.proof.proofs import Proofs
from coordinator.application.proof.witnesses import Witnesses
from coordinator.application.quotas.expiry import Ages, Expiry
from coordinator.application.quotas.follower import QuotaFollower
from coordinator.application.quotas.quotas import Quotas
from coordinator.application.receipts.receipts import Receipts
from coordinator.application.search.jobs import JobSearch
from coordinator.application.telemetry.job_times import JobTimes
from coordinator.application.watched_log import WatchedLog
from coordinator.application.webhooks.alarms import Alarms
from coordinator.application.webhooks.deliverer import Deliverer
from coordinator.application.webhooks.follower import WEBHOOKS, WebhookFollower
from coordinator.application.webhooks.post import HttpPost
from coordinator.application.webhooks.schedule import Bounds
from coordinator.application.webhooks.sending import Sending
from coordinator.blobs import BlobStore, open_blob_store
from coordinator.crypto.api_keys import KeySecrets
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.offer_tokens import OfferTokens
from coordinator.crypto.webhooks import WebhookKeys
from coordinator.domain.job import is_final
from coordinator.edge.state.final_jobs import job_data
from coordinator.private_files import private_folder
from coordinator.projections.checks import ReadModelChecks
from coordinator.projections.projector import Projector
from coordinator.runtime.backup.erasures import erasure_file, remember_erasure
from coordinator.runtime.backup.repeating import RestoredErasures
from coordinator.runtime.catalogue import CatalogueRegistration
from coordinator.runtime.coordinator import CoordinatorProcess
from coordinator.runtime.modes.adapters import Adapters, AmqpEdge
from coordinator.runtime.money.parts import Money
from coordinator.runtime.settings import BadSettings, Settings
from coordinator.runtime.signing import SigningKeyIntroduction, attestation_key, other_keys, signing_keys
from coordinator.services.catalog import load_catalog
from coordinator.storage.checkpoint_file import CheckpointFile
from coordinator.storage.connections.data_directory import CHECKPOINT_FILE, KNOWN_NAMES

BLOB_PROBE_SECONDS = 2.0
CATCH_UP_SECONDS = 5.0
SYSTEM_CLOCK = Clock(now=lambda: time.time_ns() // 1_000_000, monotonic=time.monotonic)


def build(settings: Settings) -> CoordinatorProcess:
    """A coordinator in the settings' mode; call its `start`."""
    return connect(settings, open_adapters(settings))


def open_adapters(settings: Settings) -> Adapters:
    """The adapters of the mode. Imported here, so that neither mode loads the other's libraries."""
    if settings.mode == "embedded":
        from coordinator.runtime.modes.embedded import open_embedded

        return open_embedded(settings)
    from coordinator.runtime.modes.standard import open_standard

    return open_standard(settings)


def connect(
    settings: Settings,
    adapters: Adapters,
    clock: Clock = SYSTEM_CLOCK,
    catalogue: Callable[[], list[dict[str, Any]]] = load_catalog,
) -> CoordinatorProcess:
    """A coordinator over these adapters. `catalogue`: the entries to register at each start."""
    # 1. The path of a command: gateway, handlers, bus, log, and the listeners of each commit.
    health = Health(clock.monotonic)
    event_log = WatchedLog(adapters.log, health)
    signing = signing_keys(settings)
    key = signing.current
    receipts = Receipts(event_log, signing, attestation_key(settings))
    secrets, ids = KeySecrets.of(key), Ids(clock.now)
    blobs = blob_store(settings)
    bus = CommandBus(event_log, clock, StateCache(is_final), ids)
    names, payloads, feed = Names(bus.state), Payloads(event_log), EventFeed(event_log)
    bus.on_committed(lambda appended, stored: payloads.note(stored))
    bus.on_committed(lambda appended, stored: names.note(appended.events))
    results = RecentResults(feed)
    bus.on_committed(results.note)  # before the feed has the events
    bus.on_committed(lambda appended, stored: feed.note_committed(appended.previous, appended.events))
    job_times = JobTimes(bus.known)
    bus.on_committed(job_times.note)
    feed.on_foreign(names.note)
    feed.on_foreign(bus.forget)
    feed.on_foreign(other_keys(key.key_id, health.part("signing_key", essential=False)))
    watermarks = LocalWatermarks(adapters.database)
    keyring = settings.new_keyring(secrets, clock.now)
    keys = KeyFollower(feed, event_log, adapters.database, keyring, watermarks)
    references = References(
        event_log,
        blobs,
        partial(unowned_blobs, adapters.database),
        partial(need_blobs, adapters.database),
        partial(blob_sizes, adapters.database),
    )
    quotas = Quotas(settings.limits, clock.monotonic)
    quota_follower = QuotaFollower(
        feed, event_log, adapters.database, quotas, watermarks, adapters.leadership
    )
    schemas = PayloadSchemas(settings.fetch_allow_hosts)
    services = ServiceVersions(event_log, bus.states)
    private = PrivatePayloads(bus.state, payloads.of, services.of, all_services=settings.private_payloads)
    miners = LiveMiners(adapters.reads)
    webhook_keys = WebhookKeys(key, signing.retired)
    allow_private = settings.webhook_allow_private
    timeout = settings.heartbeat_timeout_seconds
    money = Money.of(settings, event_log, adapters.database, clock, bus.states, watermarks, webhook_keys)
    handlers = (  # one for each noun with commands
        JobCommands(
            key,
            names,
            blobs,
            references,
            schemas,
            ids,
            bus.states,
            services,
            quotas,
            private,
            miners,
            earlier=EarlierJobs(bus.states, payloads.of, blobs),
            callbacks=CallbackUrls(webhook_keys, allow_private=allow_private),
            accounts=settings.terms is not None,
        ),
        MinerCommands(adapters.queues, MinerPeriods(settings.heartbeat_interval_seconds, timeout), quotas),
        ServiceCommands(names),
        KeyCommands(secrets, keys.reached, ids),
        QuotaCommands(quota_follower.reached),
        StandingCommands(),
        SigningKeyCommands(),
        *money.handlers(),
        ContentCommands(bus.states, partial(watermarks.reached, ERASER)),
        WebhookCommands(
            webhook_keys,
            ids,
            adapters.reads,
            partial(watermarks.reached, WEBHOOKS),
            allow_private=allow_private,
        ),
        AlarmCommands(),
    )
    presence = Presence(adapters.database, bus.state, lambda: feed.head, clock, timeout)
    gateway = CommandGateway(bus, handlers, presence, names, quotas)
    inbox = adapters.inbox(gateway, keyring)

    # 2. The readers of the log: followers, each led by one process, and the live events of this process.
    def receives_heartbeats() -> bool:
        return adapters.listening() and (inbox is None or inbox.listening)

    clock_part = health.part("clock", essential=False)
    timers = Timers(adapters.database, gateway.handle, clock, timeout, receives_heartbeats, clock_part)
    adapters.on_reconnect(timers.restart_silence)
    dispatcher = Dispatcher(
        payloads,
        adapters.database,
        adapters.queues,
        adapters.hints,
        clock,
        settings.offer_timeout_seconds,
        OfferTokens(key),
        gateway.handle,
        receives_heartbeats,
        private.is_private,
    )
    dispatcher.offers = health.part("offers")
    notary = Notary(
        key,
        adapters.log,
        adapters.reads,
        checkpoint_memory(settings),
        lambda: feed.head,
        clock,
        settings.log_origin,
    )
    proofs = Proofs(adapters.reads, adapters.log, key, settings.witness_quorum)
    witnesses = Witnesses(
        [WitnessAddress.parse(text) for text in settings.witnesses],
        proofs,
        adapters.reads,
        health.part("witnesses", essential=False),
        clock.now,
        clock.monotonic,
    )
    notary.on_checkpoint = witnesses.note
    notary.witnessed = lambda: witnesses.larger
    eraser = Eraser(adapters.log, clock, payloads.forget, partial(remember_erasure, erasure_file(settings)))
    deliverer = Deliverer(
        adapters.database,
        clock,
        Sending(webhook_keys, bus.state, job_data(adapters.reads, watermarks)),
        HttpPost(settings.webhook_timeout_seconds, allow_private=allow_private),
        gateway.handle,
        bounds=Bounds.of(settings.webhook_concurrency),
        log_hours=settings.webhook_log_hours,
    )
    publisher = Publisher(adapters.sink, heard=settings.mode != "embedded")
    followers: list[Follower] = [Projector(), dispatcher, publisher, timers, notary, eraser]
    followers += [WebhookFollower(deliverer, clock), *money.followers(gateway.handle)]
    sender = money.sender(
        gateway.handle, adapters.leadership, partial(health.part, "settlement", essential=False)
    )
    runners = [
        FollowerRunner(follower, feed, adapters.database, adapters.leadership, watermarks)
        for follower in followers
    ]
    lease_holders = LeaseHolders(bus.state)
    hub = ProgressHub(adapters.progress(lease_holders, keyring, _shared_secret(key)))
    events = LiveEvents(feed, event_log, hub, lease_holders)

    search = JobSearch(adapters.reads, gateway.canonical, clock.now)

    async def projected() -> None:
        """Wait for the tables, for a few seconds at most: a batch may begin with older ones, too."""
        watermarks.hurry(Projector.name, feed.head)
        await watermarks.reached(Projector.name, feed.head, CATCH_UP_SECONDS)

    batches = JobBatches(adapters.database, search, clock, ids.uuid7, projected)
    batch_runner = BatchRunner(
        adapters.database,
        search,
        gateway.handle,
        adapters.leadership,
        lambda principal: any(grant.principal == principal for grant in keyring.valid(principal.name)),
        clock,
    )
    batches.on_begun = batch_runner.wake
    window = WindowCounter(feed, clock)

    expiry = Expiry(
        adapters.log,
        adapters.database,
        blobs,
        adapters.leadership,
        clock,
        quotas,
        gateway.handle,
        Ages(
            blobs=settings.blob_expiry_hours,
            payloads=settings.retention_payload_hours,
            results=settings.retention_result_hours,
            miners=settings.retention_miner_hours,
        ),
        settings.expiry_interval_seconds,
    )

    # 3. The components, in the order of their start; they stop in reverse.
    components: list[Component] = [
        adapters,
        feed,
        events,
        keys,
        quota_follower,
        hub,
        bus,
        SigningKeyIntroduction(gateway, key.key_id),
        CatalogueRegistration(gateway, catalogue),
    ]
    if inbox is not None:
        components.append(inbox)  # before the timers: the commands that wait in the queue were sent in time
    components.append(witnesses)  # before the notary: what they have signed is known when it begins
    alarms = Alarms(gateway.handle)
    components.append(alarms)
    components += runners
    components += [expiry, batch_runner, window, RestoredErasures(adapters.database, gateway)]
    components.append(deliverer)  # after its follower: it stops before that gives up the lead
    components += [] if sender is None else [sender]
    components.append(HealthProbes(health, _probes(health, adapters, inbox, event_log, blobs)))
    for runner in runners:
        health.watch(runner.follower.name, runner.problems)
        runner.on_failed = alarms.follower_stopped
    return CoordinatorProcess(
        settings=settings,
        signing_key_id=key.key_id,
        adapters=adapters,
        blobs=blobs,
        feed=feed,
        bus=bus,
        gateway=gateway,
        keyring=keyring,
        sessions=Sessions(
            Sessions.secret_of(key), keyring, clock.now, life_seconds=settings.ui_session_hours * 3600
        ),
        receipts=receipts,
        results=results,
        quotas=quotas,
        webhook_keys=webhook_keys,
        deliverer=deliverer,
        settlement=sender,
        proofs=proofs,
        notary=notary,
        witnesses=witnesses,
        watermarks=watermarks,
        live=Live(events, hub, lease_holders, Revocations(keyring)),
        dispatcher=dispatcher,
        job_times=job_times,
        miners=miners,
        batches=batches,
        window=window,
        table_checks=ReadModelChecks(adapters.log, adapters.reads, clock.now),
        runners=runners,
        life_cycle=LifeCycle(components),
        dead_letters=adapters.dead_letters(gateway, keyring),
        parts=health,
    )


def _probes(
    health: Health, adapters: Adapters, inbox: AmqpEdge | None, event_log: EventLog, blobs: BlobStore
) -> list[Probe]:
    probes = [
        *adapters.probes(health),
        Probe(health.part("log_read"), in_own_thread("log-read", event_log.head), only_idle=True),
        Probe(health.part("blobs"), blobs.probe, BLOB_PROBE_SECONDS),
    ]
    if inbox is not None:
        probes.append(Probe(health.part("commands"), inbox.probe_commands))
        probes.append(Probe(health.part("heartbeats"), inbox.probe_heartbeats))
    return probes


def blob_store(settings: Settings) -> BlobStore:
    """BLOB_STORE, or a directory in the data directory. Raises BadSettings for an invalid setting."""
    try:
        return open_blob_store(settings.blob_store or str(settings.data_dir / "blobs"))
    except ValueError as error:
        raise BadSettings(f"BLOB_STORE: {error}") from None


def checkpoint_memory(settings: Settings) -> CheckpointMemory:
    """CHECKPOINT_FILE, or a file in the data directory."""
    if settings.checkpoint_file == "off":
        return NoMemory()
    if settings.checkpoint_file is not None:
        return CheckpointFile(Path(settings.checkpoint_file))
    private_folder(settings.data_dir, known=KNOWN_NAMES)
    return CheckpointFile(settings.data_dir / CHECKPOINT_FILE)


def _shared_secret(key: SigningKey) -> str:
    """The secret that the processes of one coordinator share; it authenticates messages between them."""
    return hashlib.sha256(b"coordinator progress 1\n" + key.sign(b"coordinator progress 1")).hexdigest()
