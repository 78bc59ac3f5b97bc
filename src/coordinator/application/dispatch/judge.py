"""The judge: what outcomes of attempts mean for the standings of those that had them. Pure: no I/O, no clock.

A failure counts against a principal once another one has completed the job. Losses, unclaimed offers and
repeated releases count at once.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator.application.dispatch.fair_queue import QueuedWork
from coordinator.application.dispatch.fleet import Fleet
from coordinator.application.dispatch.retries import tries
from coordinator.application.dispatch.standing import Quarantine, Standing
from coordinator.domain.messages import principal_of
from coordinator.domain.standing import (
    StandingCommand,
    StandingEvent,
    StandingQuarantine,
    StandingQuarantined,
    StandingRelease,
)

SHORTEST_OVERDUE_SECONDS = 3.0
USUAL_TIMES = 10
"""An attempt at a principal without trust is overdue after so many usual times of those with trust …"""
SHORTEST_IDLE_SECONDS = 1.0
IDLE_USUAL_TIMES = 4
"""… and after so many if one of these has nothing else to do."""
TRUSTED_USUAL_TIMES = 50
SHORTEST_TRUSTED_OVERDUE_SECONDS = 60.0
"""The same for a principal with trust that has completed nothing since."""
LEAST_MEASURED = 3
"""Completed jobs before a principal's usual time counts."""


class Judge:
    """Changes the fleet's standings."""

    def __init__(self, fleet: Fleet, on_change: Callable[[Standing], None]) -> None:
        """`on_change` is called with each standing whose row has changed."""
        self._fleet = fleet
        self._on_change = on_change
        self._attention: dict[tuple[str, str], Standing] = {}
        """Standings that may have to go into quarantine, or out of it."""

    def of(self, miner_id: str, service: str) -> Standing:
        """The standing of this miner's principal."""
        return self._fleet.standing(principal_of(miner_id), service)

    # --- outcomes -------------------------------------------------------------------------------------------
    def note_completed(self, standing: Standing, work: QueuedWork, millis: int | None, now: float) -> None:
        """The principal completed this job. So the failures of others before were their own."""
        doubtful = bool(standing.streak)
        most = self._fleet.slots_of(standing.principal)
        standing.note_completed(work.client, millis, most, now)
        if standing.passed_probe:
            self._attention[standing.principal, standing.service] = standing
        if doubtful:
            self._fleet.note_changed_standing()
        self._on_change(standing)
        if work.tried:
            self._judge_failures(work, standing.principal, now)

    def note_disputed(self, work: QueuedWork) -> None:
        """The job was loaded: its failures wait for a verdict."""
        for outcome, principal in tries(work.tried):
            if outcome == "failed":
                self._fleet.standing(principal, work.service).disputed += 1

    def note_no_verdict(self, work: QueuedWork) -> None:
        """The job is final without a result: its failures are nobody's fault that we know of."""
        for outcome, principal in tries(work.tried):
            if outcome == "failed":
                self._fleet.standing(principal, work.service).disputed -= 1

    def note_ended(self, miner_id: str, outcome: str, work: QueuedWork, now: float) -> None:
        """An attempt of the miner ended without a result."""
        standing = self.of(miner_id, work.service)
        match outcome:
            case "failed":
                standing.disputed += 1
                if standing.quarantine:
                    standing.note_probe_failed(now)
                    self._on_change(standing)
            case "released":
                standing.note_released(work.client, now)
                self._changed(standing)
            case "too_slow":
                standing.note_bad("too_slow", work.client, now)
                self._changed(standing)
            case _:
                standing.note_bad("lost", work.client, now)
                self._changed(standing)

    def note_unclaimed(self, principal: str, work: QueuedWork, now: float) -> None:
        """The principal's miners left the offer of this job lying, and another one has claimed it."""
        standing = self._fleet.standing(principal, work.service)
        standing.note_bad("unclaimed", work.client, now)
        self._changed(standing)

    def note_event(self, event: StandingEvent, now: float) -> None:
        """A quarantine begins or ends."""
        standing = self._fleet.standing(event.principal, event.service or "")
        if isinstance(event, StandingQuarantined):
            kind: Quarantine = "probes" if event.probes else "by hand"
            standing.begin_quarantine(kind, event.reason, now)
        else:
            standing.end_quarantine(now)
        self.note_loaded(standing)
        self._attention.pop((standing.principal, standing.service), None)
        self._on_change(standing)

    def note_loaded(self, standing: Standing) -> None:
        """A quarantine for all services concerns every standing of its principal."""
        if not standing.service:
            (self._fleet.barred.add if standing.quarantine else self._fleet.barred.discard)(
                standing.principal
            )
        self._fleet.note_changed_standing()

    # --- what follows ---------------------------------------------------------------------------------------
    def due(self) -> list[StandingCommand]:
        """Quarantines that are due while others serve, and releases."""
        commands: list[StandingCommand] = []
        for key, standing in list(self._attention.items()):
            names = {"principal": standing.principal, "service": standing.service}
            if standing.passed_probe:
                commands.append(StandingRelease(**names, reason="completed a probe job"))
            elif not standing.deserves_quarantine:
                del self._attention[key]
            elif not self._fleet.is_alone(standing.principal, standing.service):
                commands.append(StandingQuarantine(**names, reason=standing.verdict))
        return commands

    def patience(self, miner_id: str, service: str, since: float, idle: Callable[[], bool]) -> float | None:
        """Seconds after which an attempt that began at `since` is overdue; None for no limit but its own.

        `idle`: whether a principal with trust would take the job at once.
        """
        standing = self.of(miner_id, service)
        if standing.trusted and standing.last_completed >= since:
            return None
        others = (self._fleet.standing(principal, service) for principal in self._fleet.serving(service))
        usual = [
            s.usual_ms / 1000
            for s in others
            if s is not standing and s.trusted and s.completed >= LEAST_MEASURED
        ]
        if not usual:
            return None
        if standing.trusted:
            return max(SHORTEST_TRUSTED_OVERDUE_SECONDS, TRUSTED_USUAL_TIMES * max(usual))
        if idle():
            limit = max(SHORTEST_IDLE_SECONDS, IDLE_USUAL_TIMES * max(usual))
        else:
            limit = max(SHORTEST_OVERDUE_SECONDS, USUAL_TIMES * max(usual))
        # Longer each time: a slow miner passes at last, and a hoarder gets one job at ever longer intervals.
        return limit * 2.0 ** min(max(0, standing.streak - 1), 10)

    def _judge_failures(self, work: QueuedWork, by: str, now: float) -> None:
        for outcome, principal in tries(work.tried):
            if outcome != "failed":
                continue
            standing = self._fleet.standing(principal, work.service)
            standing.disputed -= 1
            if principal != by:
                standing.note_bad("failed", work.client, now)
                self._changed(standing)

    def _changed(self, standing: Standing) -> None:
        self._attention[standing.principal, standing.service] = standing
        self._fleet.note_changed_standing()
        self._on_change(standing)
