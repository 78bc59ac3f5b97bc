"""The projector writes every read model; `differences` checks that they equal a fold of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from coordinator.application.followers.follower import FollowerBase
from coordinator.application.ports import Database, EventLog, Recorded, Row, Tables
from coordinator.domain.messages import Event
from coordinator.projections import (
    accounts,
    contested,
    entries,
    jobs,
    keys,
    miners,
    payments,
    quotas,
    services,
    webhooks,
)

READ_EVENTS = 4000
REST_SECONDS = 0.02
"""Fifty transactions a second at most, however many commits there are. A read that waits for a position ends
the rest, and a first event after a rest does not wait."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadModel:
    """One read model: its table, and two pure functions."""

    table: str
    key: str
    events: tuple[type[Event], ...]
    """The events that change it."""
    rows: Callable[[Recorded], Iterable[tuple[str, Row]]]
    """The rows that an event changes: their keys, and the columns that it sets. A whole row has its key among
    them, a change of a row has not. So no row is read."""
    may_be_gone: Callable[[Row], bool] = lambda _: False
    """Whether a row may be missing, because the expiry removes such rows."""


def _read_model(module: ModuleType) -> ReadModel:
    more = {"may_be_gone": module.may_be_gone} if hasattr(module, "may_be_gone") else {}
    rows = module.rows if hasattr(module, "rows") else _one_row(module.key_of, module.columns)
    return ReadModel(module.TABLE, module.KEY, module.EVENTS, rows, **more)


def _one_row(
    key_of: Callable[[Recorded], str], columns: Callable[[Recorded], Row]
) -> Callable[[Recorded], tuple[tuple[str, Row]]]:
    """The rows of a model whose events change one row each."""
    return lambda recorded: ((key_of(recorded), columns(recorded)),)


READ_MODELS = tuple(
    _read_model(m)
    for m in (
        jobs,
        miners,
        services,
        keys,
        quotas,
        webhooks,
        accounts,
        entries,
        payments,
        contested,
    )
)


@cache
def _models_of(event: type[Event]) -> tuple[ReadModel, ...]:
    return tuple(model for model in READ_MODELS if issubclass(event, model.events))


class Fold:
    """Rows, or changes of rows, by table and key: the columns that events set; later events win."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, dict[str, Any]]] = {model.table: {} for model in READ_MODELS}

    def take(self, events: Iterable[Recorded]) -> None:
        for recorded in events:
            for model in _models_of(type(recorded.event)):
                rows = self.rows[model.table]
                for key, columns in model.rows(recorded):
                    row = rows.get(key)
                    if row is None:
                        rows[key] = dict(columns)
                    else:
                        row.update(columns)


class Projector(FollowerBase):
    """Folds a batch's changes of each row and writes each row once."""

    name = "projector"
    acts_on = frozenset()
    rest_seconds = REST_SECONDS

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        fold = Fold()
        fold.take(events)
        for model in READ_MODELS:
            changes: dict[frozenset[str], dict[str, Row]] = {}
            whole: list[Row] = []
            for key, row in fold.rows[model.table].items():
                if model.key in row:
                    whole.append(row)
                else:
                    changes.setdefault(frozenset(row), {})[key] = row
            tables.put(model.table, whole)
            for alike in changes.values():
                tables.change(model.table, alike)


def rebuild(event_log: EventLog, database: Database, progress: Callable[[int, int], None]) -> int:
    """Clear every read model and fold the log again; returns the number of events.

    `progress(position, head)` is called after each batch. The rebuild is one transaction: readers meanwhile
    see the old rows, and an interrupted rebuild changes nothing. It takes the position first, so a projector
    in another process waits and continues from the rebuild's end.
    """
    with database.transaction() as tables:
        return rebuild_in(tables, event_log, progress)[0]


def rebuild_in(
    tables: Tables,
    event_log: EventLog,
    progress: Callable[[int, int], None],
    besides: Callable[[Sequence[Recorded]], object] = lambda events: None,
) -> tuple[int, int]:
    """`rebuild` in a transaction of the caller's; the number of events, and the last position.

    `besides` is called with all events, in order.
    """
    projector, count, position, head = Projector(), 0, 0, event_log.head()
    tables.move(projector.name, tables.position(projector.name), 0)
    with tables.refill([model.table for model in READ_MODELS]):
        for events in read_ahead(event_log):
            projector.apply(tables, events)
            besides(events)
            tables.move(projector.name, position, events[-1].position)
            position = events[-1].position
            count += len(events)
            progress(position, max(head, position))
    return count, position


def read_ahead(event_log: EventLog) -> Iterator[Sequence[Recorded]]:
    """The whole log in order; reads the next events while the caller folds the previous ones."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        coming = thread.submit(event_log.read, 0, READ_EVENTS)
        while events := coming.result():
            coming = thread.submit(event_log.read, events[-1].position, READ_EVENTS)
            yield events


def differences(event_log: EventLog, database: Database) -> Iterator[str]:
    """The differences between the read models and a fold of the log up to the projector's position.

    One sentence per row. May run beside a live projector: rows that it wrote meanwhile are skipped.
    """
    with database.transaction() as tables:
        upto = tables.position(Projector.name)
        stored = {
            m.table: {r[m.key]: r for r in tables.query(f"projector_all_{m.table}")} for m in READ_MODELS
        }
        upto_now = tables.position(Projector.name)
    fold = Fold()
    for events in read_ahead(event_log):
        known = [e for e in events if e.position <= upto]
        fold.take(known)
        if len(known) < len(events):
            break
    for model in READ_MODELS:
        have, want = stored[model.table], fold.rows[model.table]
        for key in sorted(have.keys() | want.keys()):
            if key in have and upto < have[key]["position"] <= upto_now:
                continue
            if key not in want:
                yield f"{model.table} {key}: the table has it, the log does not"
            elif key not in have and model.may_be_gone(want[key]):
                continue
            elif key not in have:
                yield f"{model.table} {key}: the log has it, the table does not"
            elif dict(have[key]) != dict(want[key]):
                columns = sorted(c for c in want[key] if have[key].get(c) != want[key][c])
                yield f"{model.table} {key}: differs in {', '.join(columns)}"
