"""The embedded mode: the whole coordinator in one process, no servers. SQLite, and queues in memory."""

from __future__ import annotations

from coordinator.application.dispatch.local_queues import LocalHints, LocalWorkQueues, NullEventSink
from coordinator.application.live.progress_hub import NoWire
from coordinator.runtime.modes.adapters import Adapters
from coordinator.runtime.settings import Settings
from coordinator.storage.connections.data_directory import DATABASE_FILE, DataDirectory
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.migrate import migrate
from coordinator.storage.tables.leadership import LocalLeadership
from coordinator.storage.tables.sqlite import SqliteDatabase

__all__ = ["DATABASE_FILE", "open_embedded"]


def open_embedded(settings: Settings) -> Adapters:
    """Open the data directory. Raises DataDirectoryInUse if another process has it open."""
    directory = DataDirectory(settings.data_dir)
    try:
        path = settings.data_dir / DATABASE_FILE
        migrate(path)
        log, database = SqliteEventLog(path), SqliteDatabase(path)
    except BaseException:
        directory.close()
        raise

    async def start() -> None:
        return None

    async def stop() -> None:
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
        progress=lambda lease_holders, keyring, secret: NoWire(),
        connected=lambda: True,
        on_reconnect=lambda callback: None,
    )
