"""How long jobs wait and run, by service, as the commands of this process commit.

Each fact is counted by the process that committed it, once, so the sum over all processes is right. The begin
of an attempt is remembered here; of one that another process claimed, only a completed job tells it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from coordinator.application.metrics import WAIT_SECONDS, Histogram, JobMetrics
from coordinator.application.ports import Appended, StoredPayload
from coordinator.domain.job import (
    Completed,
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobExpired,
    JobStarted,
    Running,
)
from coordinator.domain.messages import Event

MAX_CLAIMS = 100_000
"""Running attempts in memory; the oldest are forgotten first."""
_ENDS: dict[type[Event], str] = {JobCompleted: "completed", JobCanceled: "canceled", JobExpired: "expired"}


class JobTimes:
    """Listens to the bus. `known(stream)`: the state of an aggregate in memory, and a position; or None."""

    def __init__(self, known: Callable[[UUID], tuple[Any, int] | None]) -> None:
        self._known = known
        self._claims: OrderedDict[UUID, tuple[str, int]] = OrderedDict()
        """By job: the service, and the moment of the claim in Unix milliseconds."""
        self._delays: dict[str, Histogram] = {}
        self._runs: dict[tuple[str, str], Histogram] = {}

    def note(self, appended: Appended, _: Sequence[StoredPayload] = ()) -> None:
        """These events are committed."""
        for recorded in appended.events:
            event = recorded.event
            if (outcome := _ENDS.get(type(event))) is not None:
                self._ended(recorded.stream, event.at, outcome)
            elif isinstance(event, JobStarted):
                self._started(recorded.stream, event)
            elif isinstance(event, JobAttemptEnded):
                self._ended(recorded.stream, event.at, event.outcome)

    def metrics(self) -> JobMetrics:
        """The times so far."""
        return JobMetrics(dict(self._delays), dict(self._runs))

    def _started(self, stream: UUID, event: JobStarted) -> None:
        state = self._state(stream)
        if state is None:
            return
        service = state.job.service
        self._claims[stream] = (service, event.at)
        if len(self._claims) > MAX_CLAIMS:
            self._claims.popitem(last=False)
        if isinstance(state, Running):
            queued_at = state.queued_at
        elif event.attempt == 1:
            queued_at = state.job.at
        else:
            return  # claimed and ended at once: when this attempt was queued is not known any more
        self._histogram(self._delays, service).observe(max(0, event.at - queued_at) / 1000)

    def _ended(self, stream: UUID, at: int, outcome: str) -> None:
        claim = self._claims.pop(stream, None)
        if claim is None:
            state = self._state(stream)
            if not isinstance(state, Completed):
                return  # it was not running, or nobody here knows since when
            claim = state.job.service, state.claimed_at
        service, claimed_at = claim
        self._histogram(self._runs, (service, outcome)).observe(max(0, at - claimed_at) / 1000)

    def _state(self, stream: UUID) -> Any:
        found = self._known(stream)
        return None if found is None else found[0]

    @staticmethod
    def _histogram(histograms: dict[Any, Histogram], key: Any) -> Histogram:
        histogram = histograms.get(key)
        if histogram is None:
            histogram = histograms[key] = Histogram(WAIT_SECONDS)
        return histogram
