"""Compares the read models with the log, piece by piece, while the projector runs.

Each piece takes the streams of the next events, folds all their events up to the position of the row, and
compares the two. `projections check` compares everything at once; this costs nothing while nobody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Final

from coordinator.application.ports import Database, EventLog, Recorded, TableCheck
from coordinator.domain.messages import Millis
from coordinator.projections.projector import READ_MODELS, Fold, Projector, ReadModel

BACK: Final = 20_000
"""The first piece begins so many positions before the projector's."""
PIECE: Final = 1000
"""Events whose streams are compared at a time."""
MOST: Final = 20
"""Differences that are told."""


class ReadModelChecks:
    """The `TableChecks` of this process. Thread-safe."""

    def __init__(self, event_log: EventLog, database: Database, now: Callable[[], Millis]) -> None:
        self._log = event_log
        self._database = database
        self._now = now
        self._lock = Lock()
        self._begun: int | None = None
        self._to = 0
        self._rows = 0
        self._differences: list[str] = []

    def advance(self) -> TableCheck:
        """Compare the rows of the next events. Raises LogError."""
        with self._lock:
            with self._database.transaction() as tables:
                stored = tables.position(Projector.name)
            if self._begun is None:
                self._begun = self._to = max(0, stored - BACK)
            events = [e for e in self._log.read(self._to, PIECE) if e.position <= stored]
            if events:
                self._compare(events)
                self._to = events[-1].position
            elif stored > self._to:  # a gap in the positions
                self._to = stored
            return TableCheck(self._begun, self._to, self._rows, tuple(self._differences), self._now())

    def _compare(self, events: Sequence[Recorded]) -> None:
        histories = self._log.load({e.stream for e in events})
        for model in READ_MODELS:
            changed = [e for e in events if isinstance(e.event, model.events)]
            keys = {key: e for e in changed for key, _ in model.rows(e)}
            if not keys:
                continue
            with self._database.transaction() as tables:
                rows = tables.query(f"projector_some_{model.table}", keys=list(keys))
            found = {row[model.key]: row for row in rows}
            for key in sorted(keys):
                event = keys[key]
                own = [e for e in histories.get(event.stream, []) if isinstance(e.event, model.events)]
                # Of a stream whose events have its whole state, the history begins later.
                own = own if event in own else [event]
                difference = _difference(model, key, found.get(key), own)
                self._rows += 1
                if difference is not None and len(self._differences) < MOST:
                    self._differences.append(difference)


def _difference(
    model: ReadModel, key: str, row: dict[str, Any] | None, history: Sequence[Recorded]
) -> str | None:
    """How the row differs from a fold of these events, up to its own position; None if it does not."""
    fold = Fold()
    if row is None:
        fold.take(history)
        wanted = fold.rows[model.table].get(key)
        if wanted is None or model.may_be_gone(wanted):
            return None
        return f"{model.table} {key}: the log has it, the table does not (position {history[-1].position})"
    # The row may be newer than the event that led here: the projector goes on meanwhile.
    fold.take([e for e in history if e.position <= row["position"]])
    wanted = fold.rows[model.table].get(key)
    if wanted is None:
        return f"{model.table} {key}: the table has it, the log does not"
    columns = sorted(name for name in wanted if row.get(name) != wanted[name])
    if not columns:
        return None
    return f"{model.table} {key}: differs in {', '.join(columns)} (position {row['position']})"
