"""The embedded mode: the whole coordinator in one process, no servers. SQLite, and queues in memory."""

from __future__ import annotations

from coordinator.application.local_queues import LocalHints, LocalWorkQueues, NullEventSink
from coordinator.application.progress_hub import NoWire
from coordinator.database.datadir import DataDirectory
from coordinator.database.leadership import LocalLeadership
from coordinator.database.migrate import migrate
from coordinator.database.sqlite import SqliteDatabase
from coordinator.log.sqlite import SqliteEventLog
from coordinator.parts import Parts
from coordinator.settings import Settings

DATABASE_FILE = "coordinator.db"


def open_embedded(settings: Settings) -> Parts:
    """Open the data directory, which nobody else may have open. Raises DataDirectoryInUse."""
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

    return Parts(
        log=log,
        database=database,
        reads=database,
        leadership=LocalLeadership(),
        queues=LocalWorkQueues(),
        hints=LocalHints(),
        sink=NullEventSink(),
        start=start,
        stop=stop,
        inbox=lambda front, keyring: None,
        progress=lambda holders, keyring, secret: NoWire(),
        connected=lambda: True,
        on_reconnect=lambda callback: None,
    )
