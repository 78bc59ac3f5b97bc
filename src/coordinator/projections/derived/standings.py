"""The dispatcher's standings, as far as the log tells them: outcomes of attempts, and quarantines.

The time of an event stands for the moment at which the dispatcher saw it. What no event says is not here:
offers that nobody claimed in time, and the slots that they cost. So a rebuilt standing may be better than the
one before, and a comparison looks at the columns that follow from events alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, assert_never

from coordinator.application.dispatch.fair_queue import QueuedWork
from coordinator.application.dispatch.fleet import Fleet, Session
from coordinator.application.dispatch.judge import Judge
from coordinator.application.dispatch.standing import Standing
from coordinator.application.ports import Row
from coordinator.domain.job import JobAttemptEnded, JobCompleted, JobStarted
from coordinator.domain.miner import (
    MinerDrained,
    MinerEvent,
    MinerLeft,
    MinerLost,
    MinerRegistered,
)
from coordinator.domain.standing import StandingEvent
from coordinator.projections.derived.port import compare

FROM_EVENTS = ("completed", "failed", "lost", "too_slow", "quarantine")
"""The columns that follow from events alone."""


class Standings:
    """See the module."""

    def __init__(self) -> None:
        self._fleet = Fleet()
        self._changed: dict[tuple[str, str], Standing] = {}
        self._judge = Judge(self._fleet, self._note_changed)

    def note_completed(self, event: JobCompleted, work: QueuedWork | None, start: JobStarted | None) -> None:
        """`work` and `start`, that of its attempt, are those before the event."""
        if work is not None and start is not None:
            standing = self._judge.of(start.miner_id, work.service)
            self._judge.note_completed(standing, work, event.at - start.at, event.at / 1000)

    def note_ended(self, event: JobAttemptEnded, outcome: str, work: QueuedWork) -> None:
        """An attempt ended without a result; `work` names it among the tried ones."""
        self._judge.note_ended(event.miner_id, outcome, work, event.at / 1000)

    def note_no_verdict(self, work: QueuedWork | None) -> None:
        """The job is final without a result; `work` is that before the event."""
        if work is not None:
            self._judge.note_no_verdict(work)

    def note_quarantine(self, event: StandingEvent) -> None:
        """A quarantine begins or ends."""
        self._judge.note_event(event, event.at / 1000)

    def note_miner(self, event: MinerEvent) -> None:
        """A miner's event says how many slots there are."""
        match event:
            case MinerRegistered():
                session = Session(event.miner_id, event.session_id, event.concurrency, "ONLINE")
                self._fleet.register(event.profile, event.capabilities, session)
            case MinerDrained():
                self._fleet.drain(event.miner_id)
            case MinerLeft() | MinerLost():
                self._fleet.end(event.miner_id)
                self._fleet.forget_idle()
            case _:
                assert_never(event)

    def key_of(self, row: Mapping[str, Any]) -> str:
        return f"{row['principal']}/{row['service']}"

    def rows(self) -> list[Row]:
        """The rows of the table."""
        return [standing.row() for standing in self._changed.values()]

    def differences(self, stored: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """Of the columns that follow from events alone."""
        wanted = {self.key_of(row): {name: row[name] for name in FROM_EVENTS} for row in self.rows()}
        # A standing of which only offers tell that nobody claimed: no event led to it.
        silent = {key for key, row in stored.items() if not any(row[name] for name in FROM_EVENTS)}
        yield from compare(
            "standings", wanted, {k: r for k, r in stored.items() if k in wanted or k not in silent}
        )

    def _note_changed(self, standing: Standing) -> None:
        self._changed[standing.principal, standing.service] = standing
