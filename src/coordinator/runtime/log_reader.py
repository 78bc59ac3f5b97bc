"""The log of the settings, opened for reading only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.application.ports import EventLog, Recorded
    from coordinator.runtime.settings import Settings

READ_EVENTS = 1000


class NoLog(Exception):
    """This data directory has no log."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(f"there is no log in {data_dir}")


def open_log(settings: Settings) -> EventLog:
    """The log of these settings. Raises NoLog; never creates a log."""
    # Imported here: a command loads only the library of its own database.
    if settings.mode == "standard":
        from coordinator.storage.log.postgres import PostgresEventLog

        assert settings.database_url is not None
        return PostgresEventLog(settings.database_url.get_secret_value())
    from coordinator.runtime.modes.embedded import DATABASE_FILE
    from coordinator.storage.log.sqlite import SqliteEventLog

    path = settings.data_dir / DATABASE_FILE
    if not path.is_file():
        raise NoLog(settings.data_dir)
    return SqliteEventLog(path)


def read_events(log: EventLog, after: int, limit: int | None) -> Iterator[Recorded]:
    """Up to `limit` events after position `after`, in order."""
    while limit is None or limit > 0:
        events = log.read(after, READ_EVENTS if limit is None else min(limit, READ_EVENTS))
        if not events:
            return
        yield from events
        after = events[-1].position
        limit = None if limit is None else limit - len(events)


def count_events(settings: Settings) -> int:
    """The number of events; not the last position, since positions may have gaps."""
    with closing(open_log(settings)) as log:
        return sum(1 for _ in read_events(log, 0, None))
