"""How long jobs wait and run is measured from the events of their commits, once each."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from coordinator.application.metrics import Histogram
from coordinator.application.ports import Appended, Recorded
from coordinator.application.telemetry import job_times
from coordinator.application.telemetry.job_times import JobTimes
from coordinator.domain.decision import fold
from coordinator.domain.messages import Event
from tests.harness.deciding import (
    JOB_ID,
    SECOND,
    T0,
    attempt_ended,
    canceled,
    completed,
    requeued,
    started,
    submitted,
)
from tests.harness.metadata import METADATA

SERVICE = submitted().service


class Bus:
    """Commits events of one job, and knows its state afterwards, as the bus does."""

    def __init__(self, *, knows: bool = True) -> None:
        self.times = JobTimes(self._known)
        self._history: list[Event] = []
        self._knows = knows

    def commit(self, *events: Event) -> None:
        self._history += events
        first = len(self._history) - len(events) + 1
        recorded = [
            Recorded(first + n, JOB_ID, first + n, event, b"", METADATA.to_json(), str(JOB_ID))
            for n, event in enumerate(events)
        ]
        self.times.note(Appended(first - 1, recorded))

    def _known(self, stream: UUID) -> tuple[Any, int] | None:
        assert stream == JOB_ID
        return (fold(self._history), len(self._history)) if self._knows else None

    def measured(self) -> tuple[dict[str, list[float]], dict[tuple[str, str], list[float]]]:
        """Number and sum of the times, by their labels."""
        metrics = self.times.metrics()
        return (
            {key: _figures(histogram) for key, histogram in metrics.queue_delays.items()},
            {key: _figures(histogram) for key, histogram in metrics.runs.items()},
        )


def _figures(histogram: Histogram) -> list[float]:
    return [histogram.cumulated()[-1], histogram.total]


def test_a_job_waits_and_runs() -> None:
    """From submit to claim, and from claim to result, by service and outcome."""
    bus = Bus()
    bus.commit(submitted(at=T0))
    bus.commit(started(at=T0 + 3 * SECOND))
    bus.commit(completed(at=T0 + 10 * SECOND))
    assert ({SERVICE: [1, 3.0]}, {(SERVICE, "completed"): [1, 7.0]}) == bus.measured()


def test_each_attempt_waits_from_its_own_requeue() -> None:
    """A second attempt's wait begins when the first one has ended."""
    bus = Bus()
    bus.commit(submitted(at=T0))
    bus.commit(started(at=T0 + SECOND))
    bus.commit(attempt_ended(at=T0 + 5 * SECOND, outcome="lost"), requeued(at=T0 + 5 * SECOND, attempt=2))
    bus.commit(started(at=T0 + 7 * SECOND, attempt=2))
    bus.commit(canceled(attempt=2, at=T0 + 8 * SECOND))
    expected = {(SERVICE, "lost"): [1, 4.0], (SERVICE, "canceled"): [1, 1.0]}
    assert ({SERVICE: [2, 3.0]}, expected) == bus.measured()


def test_a_result_that_claims_is_measured_too() -> None:
    """Claim and result in one commit: the wait is whole, and the run is the moment between both."""
    bus = Bus()
    bus.commit(submitted(at=T0))
    bus.commit(started(at=T0 + 2 * SECOND), completed(at=T0 + 2 * SECOND))
    assert ({SERVICE: [1, 2.0]}, {(SERVICE, "completed"): [1, 0.0]}) == bus.measured()


def test_a_claim_of_another_process_is_found_in_the_result() -> None:
    """This process saw no claim: a completed job tells its moment, a canceled one does not."""
    history = [submitted(at=T0), started(at=T0 + SECOND)]
    done, stopped = Bus(), Bus()
    for bus in (done, stopped):
        bus._history += history
    done.commit(completed(at=T0 + 4 * SECOND))
    stopped.commit(canceled(at=T0 + 4 * SECOND))
    assert ({}, {(SERVICE, "completed"): [1, 3.0]}) == done.measured()
    assert ({}, {}) == stopped.measured()


def test_a_job_that_nobody_knows_is_not_measured() -> None:
    """Its state is not in memory: no figure is better than a guess."""
    bus = Bus(knows=False)
    bus.commit(submitted(at=T0), started(at=T0 + SECOND), completed(at=T0 + 2 * SECOND))
    assert ({}, {}) == bus.measured()


def test_the_claims_in_memory_are_bounded(monkeypatch: Any) -> None:
    """The oldest claim is forgotten first; its job then tells its claim itself."""
    monkeypatch.setattr(job_times, "MAX_CLAIMS", 0)
    bus = Bus()
    bus.commit(submitted(at=T0))
    bus.commit(started(at=T0 + SECOND))
    bus.commit(completed(at=T0 + 3 * SECOND))
    assert {(SERVICE, "completed"): [1, 2.0]} == bus.measured()[1]
