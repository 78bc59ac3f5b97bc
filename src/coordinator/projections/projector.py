"""The projector keeps every read model; `differences` checks that they equal a fold of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from coordinator.application.follow import FollowerBase
from coordinator.application.ports import Database, EventLog, Recorded, Row, Tables
from coordinator.projections import jobs, keys, miners, receipts, services

READ_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class ReadModel:
    """One read model: its table, and two pure functions."""

    table: str
    key: str
    key_of: Callable[[Recorded], str | None]
    """Which row an event changes, if any."""
    columns: Callable[[Recorded], Row]
    """What it sets there: whole rows have their key, changes of a row leave it out. So no row is read."""

    def fold(self, rows: dict[str, dict[str, Any]], events: Iterable[Recorded]) -> None:
        """Take events into rows (or changes of rows), by key."""
        for recorded in events:
            key = self.key_of(recorded)
            if key is not None:
                row, columns = rows.get(key), self.columns(recorded)
                rows[key] = {**row, **columns} if row else {**columns}


def _read_model(module: ModuleType) -> ReadModel:
    return ReadModel(module.TABLE, module.KEY, module.key_of, module.columns)


READ_MODELS = tuple(_read_model(m) for m in (jobs, receipts, miners, services, keys))


class Projector(FollowerBase):
    """Folds a batch's changes of each row, and writes each row once."""

    name = "projector"

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        for model in READ_MODELS:
            rows: dict[str, dict[str, Any]] = {}
            model.fold(rows, events)
            changes: dict[frozenset[str], dict[str, Row]] = {}
            whole: list[Row] = []
            for key, row in rows.items():
                if model.key in row:
                    whole.append(row)
                else:
                    changes.setdefault(frozenset(row), {})[key] = row
            tables.put(model.table, whole)
            for alike in changes.values():
                tables.change(model.table, alike)


def rebuild(event_log: EventLog, database: Database, progress: Callable[[int, int], None]) -> int:
    """Throw every read model away and fold the log again; the number of events.

    `progress(position, head)` is called after each batch. The projector must not run meanwhile: the first
    batch moves its position, so that one that does fails and takes over from the new one.
    """
    projector, count, position, head = Projector(), 0, 0, event_log.head()
    with database.transaction() as tables:
        for model in READ_MODELS:
            tables.execute(f"projector_clear_{model.table}")
        before = tables.position(projector.name)
        tables.move(projector.name, before, 0)
    while events := event_log.read(position, READ_EVENTS):
        with database.transaction() as tables:
            projector.apply(tables, events)
            tables.move(projector.name, position, events[-1].position)
        position = events[-1].position
        count += len(events)
        progress(position, max(head, position))
    return count


def differences(event_log: EventLog, database: Database) -> Iterator[str]:
    """Where a read model differs from a fold of the log up to the projector's position; nothing if nowhere.

    One sentence a row. Reads the tables in one transaction, so it may run beside a live projector.
    """
    with database.transaction() as tables:
        upto = tables.position(Projector.name)
        stored = {
            m.table: {r[m.key]: r for r in tables.query(f"projector_all_{m.table}")} for m in READ_MODELS
        }
    folded: dict[str, dict[str, dict[str, Any]]] = {m.table: {} for m in READ_MODELS}
    position = 0
    while events := [e for e in event_log.read(position, READ_EVENTS) if e.position <= upto]:
        position = events[-1].position
        for model in READ_MODELS:
            model.fold(folded[model.table], events)
    for model in READ_MODELS:
        have, want = stored[model.table], folded[model.table]
        for key in sorted(have.keys() | want.keys()):
            if key not in want:
                yield f"{model.table} {key}: the table has it, the log does not"
            elif key not in have:
                yield f"{model.table} {key}: the log has it, the table does not"
            elif dict(have[key]) != dict(want[key]):
                columns = sorted(c for c in want[key] if have[key].get(c) != want[key][c])
                yield f"{model.table} {key}: differs in {', '.join(columns)}"
