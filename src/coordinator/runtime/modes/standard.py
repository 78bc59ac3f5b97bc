"""The standard mode: log and tables in Postgres, queues in RabbitMQ."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from coordinator.application.background import Background
from coordinator.application.health import Health, Probe, in_own_thread
from coordinator.application.keys.keyring import Keyring
from coordinator.application.live.lease_holders import LeaseHolders
from coordinator.application.metrics import BrokerMetrics, QueueMetrics
from coordinator.application.ports import Gateway
from coordinator.broker.connection import Broker
from coordinator.broker.dead_letters.queue import RabbitDeadLetters
from coordinator.broker.inbox import CommandInbox
from coordinator.broker.offers import RabbitHints, RabbitWorkQueues
from coordinator.broker.progress import RabbitProgress
from coordinator.broker.publisher import RabbitEventSink
from coordinator.broker.topology import TopologyMismatch, declare_topology
from coordinator.broker.topology_watch import (
    WATCH_SECONDS,
    TopologyWatch,
    VirtualHostTaken,
    claim_virtual_host,
)
from coordinator.runtime.modes.adapters import Adapters
from coordinator.runtime.settings import Settings
from coordinator.runtime.signing import signing_key
from coordinator.storage.connections.probes import PostgresProbe
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.migrate import migrate
from coordinator.storage.tables.leadership import PostgresLeadership
from coordinator.storage.tables.log_identity import log_id_of
from coordinator.storage.tables.postgres import PostgresDatabase
from coordinator.wire.signed_messages import MessageSigner
from coordinator.wire.topology import CONTROL_EXCHANGE, PROGRESS_EXCHANGE, WORK_EXCHANGE

DECLARE_PAUSES_SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0)

logger = structlog.get_logger("broker")

OFFER_LIFE = 2.0
"""The life of an offer on a queue, in offer timeouts: after one timeout the job is offered again."""


def open_standard(settings: Settings) -> Adapters:
    """Open the servers of DATABASE_URL and AMQP_URL. Raises LogUnavailable."""
    assert settings.database_url is not None
    assert settings.amqp_url is not None
    database_url = settings.database_url.get_secret_value()
    queue_type = settings.work_queue_type
    migrate(database_url)
    log, database = PostgresEventLog(database_url), PostgresDatabase(database_url, durable=False)
    reads = PostgresDatabase(database_url)
    leadership = PostgresLeadership(database_url)
    signer, by_user = MessageSigner(signing_key(settings)), settings.broker_users == "keys"
    broker = Broker(settings.amqp_url.get_secret_value())

    probe_write = PostgresProbe(database_url)
    log_id = log_id_of(database)
    binding = Background("binding")
    mended: list[Callable[[Sequence[str]], None]] = []

    async def declare() -> None:
        await claim_virtual_host(broker.connection, log_id)
        await declare_topology(broker.connection, queue_type)

    async def declare_again() -> None:
        # A broker that comes back may have lost everything, queues included. Just after its start it accepts
        # connections before all queues are there. If the connection is lost again, this is called again.
        for pause in DECLARE_PAUSES_SECONDS:
            try:
                await declare()
            except (TopologyMismatch, VirtualHostTaken):
                raise
            except Exception as error:
                logger.warning("broker.not_declared", reason=str(error), again_in=pause)
                await asyncio.sleep(pause)
            else:
                return
        await declare()

    queues = RabbitWorkQueues(broker, signer, queue_type, OFFER_LIFE * settings.offer_timeout_seconds)
    broker.on_reconnect(declare_again)

    def offer_again(missing: Sequence[str]) -> None:
        if f"exchange {WORK_EXCHANGE}" in missing:
            queues.reset()  # its bindings went with it

    mended.append(offer_again)

    watches: list[TopologyWatch] = []
    inboxes: list[CommandInbox] = []

    def broker_metrics() -> BrokerMetrics:
        queues: dict[str, QueueMetrics] = {}
        dead_letters: Counter[str] = Counter()
        for watch in watches:
            queues |= watch.queues
        for inbox in inboxes:
            dead_letters.update(inbox.dead_letters)
        return BrokerMetrics(
            disconnections=broker.disconnections,
            publishes={str(outcome): count for outcome, count in broker.publishes.items()},
            dead_letters=dead_letters,
            queues=queues,
        )

    def probes(health: Health) -> Sequence[Probe]:
        topology, virtual_host = health.part("topology"), health.part("virtual_host")
        watch = TopologyWatch(broker, queue_type, topology, virtual_host, log_id)
        watches.append(watch)
        for callback in mended:
            watch.on_mended(callback)
        return (
            Probe(health.part("log_append"), in_own_thread("log-append", probe_write), only_idle=True),
            Probe(health.part("broker"), broker.probe),
            Probe(topology, watch.check, WATCH_SECONDS),
        )

    async def start() -> None:
        await broker.start()
        await declare()

    async def stop() -> None:
        await binding.stop()
        await queues.stop()
        await broker.stop()
        probe_write.close()
        await leadership.close()
        log.close()
        database.close()
        reads.close()

    def inbox(gateway: Gateway, keyring: Keyring) -> CommandInbox:
        made = CommandInbox(broker, gateway, keyring, signer, by_user=by_user, queue_type=queue_type)

        def bind_again(missing: Sequence[str]) -> None:
            if f"exchange {CONTROL_EXCHANGE}" in missing:
                binding.spawn(made.bind_control_queues())

        mended.append(bind_again)
        inboxes.append(made)
        return made

    hints = RabbitHints(broker, signer)

    def progress(lease_holders: LeaseHolders, keyring: Keyring, secret: str) -> RabbitProgress:
        wire = RabbitProgress(broker, keyring, lease_holders, hints, secret, by_user=by_user)

        def renew(missing: Sequence[str]) -> None:
            if f"exchange {PROGRESS_EXCHANGE}" in missing:
                wire.renew()

        mended.append(renew)
        return wire

    def on_reconnect(callback: Callable[[], None]) -> None:
        broker.on_reconnect(callback)

    return Adapters(
        log=log,
        database=database,
        reads=reads,
        leadership=leadership,
        queues=queues,
        hints=hints,
        sink=RabbitEventSink(broker),
        start=start,
        stop=stop,
        inbox=inbox,
        dead_letters=lambda gateway, keyring: RabbitDeadLetters(
            broker, gateway, keyring, signer, by_user=by_user
        ),
        progress=progress,
        broker_metrics=broker_metrics,
        connected=lambda: broker.connected,
        listening=lambda: broker.listening,
        probes=probes,
        on_reconnect=on_reconnect,
    )
