"""The embedded mode: the whole coordinator in one process, no servers. SQLite, and queues in memory."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.application.dispatch.local_queues import LocalHints, LocalWorkQueues, NullEventSink
from coordinator.application.health import Health, Probe, in_own_thread
from coordinator.application.live.progress_hub import NoWire
from coordinator.runtime.modes.adapters import Adapters
from coordinator.runtime.settings import Settings
from coordinator.storage.connections.data_directory import DATABASE_FILE, DataDirectory
from coordinator.storage.connections.probes import SqliteProbe, check_space
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.migrate import migrate
from coordinator.storage.tables.leadership import LocalLeadership
from coordinator.storage.tables.sqlite import SqliteDatabase

__all__ = ["DATABASE_FILE", "open_embedded"]
WRITE_SECONDS = 2.0
"""An idle coordinator writes a page of the database as often, to learn whether it can."""


def open_embedded(settings: Settings) -> Adapters:
    """Open the data directory. Raises DataDirectoryInUse if another process has it open."""
    directory = DataDirectory(settings.data_dir)
    try:
        path = settings.data_dir / DATABASE_FILE
        migrate(path)
        log, database, probe = SqliteEventLog(path), SqliteDatabase(path), SqliteProbe(path)
    except BaseException:
        directory.close()
        raise

    async def start() -> None:
        return None

    def probes(health: Health) -> Sequence[Probe]:
        def check_disk() -> None:
            check_space(settings.data_dir, "the data directory")

        return (
            Probe(
                health.part("log_append"), in_own_thread("log-append", probe), WRITE_SECONDS, only_idle=True
            ),
            Probe(health.part("disk"), in_own_thread("disk", check_disk)),
        )

    async def stop() -> None:
        probe.close()
        log.close()
        database.close()
        directory.close()

    return Adapters(
        log=log,
        database=database,
        reads=database,
        leadership=LocalLeadership(),
        queues=LocalWorkQueues(),
        hints=LocalHints(),
        sink=NullEventSink(),
        start=start,
        stop=stop,
        inbox=lambda gateway, keyring: None,
        dead_letters=lambda gateway, keyring: None,
        progress=lambda lease_holders, keyring, secret: NoWire(),
        broker_metrics=lambda: None,
        connected=lambda: True,
        listening=lambda: True,
        probes=probes,
        on_reconnect=lambda callback: None,
    )
