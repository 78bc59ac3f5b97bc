"""All derived tables: rebuilt from the log in one transaction, or compared with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from coordinator.application.ports import Database, EventLog, Recorded
from coordinator.domain.registry import EVENTS
from coordinator.projections import projector
from coordinator.projections.derived.open_work import OpenWorkTables
from coordinator.projections.derived.port import DerivedTables, StoredRows
from coordinator.projections.derived.settlements import SettlementTables
from coordinator.projections.derived.timers import TimerTables
from coordinator.projections.derived.tree import TreeTables
from coordinator.projections.derived.usage import ErasureTables, UsageTables
from coordinator.projections.derived.webhooks import WebhookTables

FOLLOWERS = ("dispatcher", "timers", "eraser", "usage", "notary", "webhooks", "settler", "settlements")
"""The followers with tables of their own besides the projector."""


def all_tables(event_log: EventLog, now: Callable[[], int], heartbeat_timeout: float) -> list[DerivedTables]:
    """An empty fold of each follower's tables. `now`: Unix milliseconds; `heartbeat_timeout`: seconds."""
    erasures = ErasureTables(event_log)
    return [
        OpenWorkTables(),
        TimerTables(now, heartbeat_timeout),
        erasures,
        UsageTables(erasures),
        TreeTables(),
        WebhookTables(),
        SettlementTables(),
    ]


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000


def rebuild_all(
    event_log: EventLog,
    database: Database,
    heartbeat_timeout: float,
    progress: Callable[[int, int], None] = lambda position, head: None,
    now: Callable[[], int] = _unix_ms,
) -> int:
    """Fold the log again into the read models and the followers' tables; returns the number of events.

    One transaction: an interrupted rebuild changes nothing. No coordinator may run: a follower that leads has
    the former rows in memory. The tree is cleared: the notary derives it, and compares each checkpoint.
    `heartbeat_timeout`: seconds, the length of the leases from now on. `progress(position, head)`.
    """
    folds = all_tables(event_log, now, heartbeat_timeout)
    take = _takes(
        [fold for fold in folds if not isinstance(fold, TreeTables)]
    )  # nothing is written of the tree
    with database.transaction() as tables:
        before = {fold.follower: tables.position(fold.follower) for fold in folds}
        count, head = projector.rebuild_in(tables, event_log, progress, take)
        for fold in folds:
            is_unused = isinstance(fold, SettlementTables) and not fold.any_money
            if is_unused and not before[fold.follower]:
                continue  # its follower begins with the first event, on empty tables
            fold.write(tables)
            reached = 0 if isinstance(fold, TreeTables) else head
            if before[fold.follower] != reached:
                tables.move(fold.follower, before[fold.follower], reached)
    return count


def differences(event_log: EventLog, database: Database) -> Iterator[str]:
    """The differences between the followers' tables and a fold of the log up to their positions.

    One sentence per row. May run beside a coordinator, whose followers wait while their tables are read.
    """
    folds = all_tables(event_log, _unix_ms, 0)
    stored: dict[str, StoredRows] = {}
    with database.transaction() as tables:
        tables.execute("derived_hold", followers=FOLLOWERS)
        positions = {fold.follower: tables.position(fold.follower) for fold in folds}
        for fold in folds:
            stored[fold.follower] = {
                table: {fold.key_of(table, row): row for row in tables.query(statement)}
                for table, statement in fold.statements.items()
            }
    last = max(positions.values())
    taking = [(positions[fold.follower], _takes([fold])) for fold in folds]
    for events in projector.read_ahead(event_log):
        for upto, take in taking:
            take([recorded for recorded in events if recorded.position <= upto])
        if events[-1].position >= last:
            break
    for fold in folds:
        yield from fold.differences(stored[fold.follower])


def _takes(folds: Sequence[DerivedTables]) -> Callable[[Iterable[Recorded]], None]:
    """A function that passes each event to the folds that it concerns, which are few for most events."""
    of_type = {
        event: [fold.take for fold in folds if issubclass(event, fold.events)] for event in EVENTS.values()
    }

    def take_all(events: Iterable[Recorded]) -> None:
        for recorded in events:
            for take in of_type[type(recorded.event)]:
                take(recorded)

    return take_all
