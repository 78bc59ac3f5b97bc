"""The projector keeps every read model; `differences` checks that they equal a fold of the log."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

from coordinator.application.follow import FollowerBase
from coordinator.application.ports import Database, EventLog, Recorded, Row, Tables
from coordinator.domain.messages import Event
from coordinator.projections import jobs, keys, miners, receipts, services

CACHED_ROWS = 4000  # the rows that the next events are most likely about
READ_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class ReadModel:
    """One read model: its table, and two pure functions."""

    table: str
    key: str
    key_of: Callable[[Event], str | None]
    evolve: Callable[[Row | None, Recorded], Row]
    born_whole: bool
    """Every event gives a whole row, so that no row is ever read."""


def _read_model(module: ModuleType) -> ReadModel:
    return ReadModel(module.TABLE, module.KEY, module.key_of, module.evolve, module.BORN_WHOLE)


READ_MODELS = tuple(_read_model(m) for m in (jobs, receipts, miners, services, keys))


class Projector(FollowerBase):
    """Evolves the rows that a batch touches, and writes each once."""

    name = "projector"

    def __init__(self) -> None:
        self._rows: OrderedDict[tuple[str, str], Row] = OrderedDict()

    def take_over(self, tables: Tables) -> None:
        self._rows.clear()

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        # If the transaction fails, `take_over` clears the cache before anything is applied again.
        for model in READ_MODELS:
            touched = [(key, e) for e in events if (key := model.key_of(e.event)) is not None]
            if touched:
                rows = self._evolve(tables, model, touched)
                tables.put(model.table, list(rows.values()))

    def _evolve(
        self, tables: Tables, model: ReadModel, touched: list[tuple[str, Recorded]]
    ) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        missing = []
        for key in {key for key, _ in touched}:
            cached = self._rows.get((model.table, key))
            if cached is not None:
                rows[key] = cached
            else:
                missing.append(key)
        # A row that an event creates is not there yet: only the others are worth a query.
        created = {key for key, e in touched if e.version == 1}
        wanted = [] if model.born_whole else [key for key in missing if key not in created]
        if wanted:
            found = tables.query(f"projector_{model.table}", keys=wanted)
            rows |= {row[model.key]: row for row in found}
        for key, recorded in touched:
            rows[key] = model.evolve(rows.get(key), recorded)
        for key, row in rows.items():
            self._rows[model.table, key] = row
            self._rows.move_to_end((model.table, key))
        while len(self._rows) > CACHED_ROWS:
            self._rows.popitem(last=False)
        return rows


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
    folded: dict[str, dict[str, Row]] = {m.table: {} for m in READ_MODELS}
    position = 0
    while events := [e for e in event_log.read(position, READ_EVENTS) if e.position <= upto]:
        position = events[-1].position
        for recorded in events:
            for model in READ_MODELS:
                key = model.key_of(recorded.event)
                if key is not None:
                    rows = folded[model.table]
                    rows[key] = model.evolve(rows.get(key), recorded)
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
