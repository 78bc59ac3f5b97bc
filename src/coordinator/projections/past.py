"""Jobs and miners as they were at a position of the log, or at a time: a fold of the log up to there.

Memory is bounded by the open jobs and the miners of that moment; of the final jobs only the last ones are
kept, the others are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from coordinator.application.ports import EventLog, Recorded
from coordinator.domain.job import FINAL_STATES, is_job_event
from coordinator.domain.messages import Millis
from coordinator.domain.miner import is_miner_event
from coordinator.projections import jobs, miners

READ_EVENTS = 4000


class Past:
    """The rows of the read models `jobs` and `miners` after the events so far."""

    def __init__(self, keep: int) -> None:
        """`keep`: how many final jobs to keep, the last ones."""
        self._keep = keep
        self.events = 0
        self.position = 0
        self.at: Millis | None = None
        """The moment of the last event; None before the first."""
        self.open_jobs: dict[str, dict[str, Any]] = {}
        self.final_jobs: dict[str, dict[str, Any]] = {}
        self.miners: dict[str, dict[str, Any]] = {}
        self._finals: Counter[str] = Counter()

    def take(self, recorded: Recorded) -> None:
        """Fold one event more."""
        event = recorded.event
        self.events += 1
        self.position, self.at = recorded.position, event.at
        if is_job_event(event):
            row = self.open_jobs.setdefault(recorded.key, {})
            row.update(jobs.columns(recorded))
            if row["state"] in FINAL_STATES:
                self._end(recorded.key, row["state"])
        elif is_miner_event(event):
            self.miners.setdefault(miners.key_of(recorded), {}).update(miners.columns(recorded))

    def counts(self) -> dict[str, int]:
        """The number of jobs by state."""
        return dict(sorted((self._finals + Counter(row["state"] for row in self.open_jobs.values())).items()))

    def _end(self, job_id: str, state: str) -> None:
        row = self.open_jobs.pop(job_id)
        self._finals[state] += 1
        if self._keep:
            self.final_jobs[job_id] = row
            if len(self.final_jobs) > self._keep:
                del self.final_jobs[next(iter(self.final_jobs))]


def past_at(
    event_log: EventLog,
    position: int | None,
    at: Millis | None,
    keep: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Past:
    """The past after the last event up to `position`, or before the first event later than `at`.

    Clocks can jump, so an event after that one may be earlier than `at`: the log's order counts.
    `progress(position, last)` is called after each piece.
    """
    past, read, last = Past(keep), 0, event_log.head() if position is None else position
    while events := event_log.read(read, READ_EVENTS):
        for recorded in events:
            if (position is not None and recorded.position > position) or (
                at is not None and recorded.event.at > at
            ):
                return past
            past.take(recorded)
        read = events[-1].position
        progress(read, max(last, read))
    return past
