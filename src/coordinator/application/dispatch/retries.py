"""Jobs that were tried before: each goes to another principal than those that had it, if one can take it.

They are in memory, outside of the lanes: all of them were running or offered a moment ago. Pure: no I/O, no
clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from coordinator.application.dispatch.fair_queue import QueuedWork
from coordinator.application.dispatch.fleet import Fleet, Profile
from coordinator.domain.messages import principal_of

PATIENCE_SECONDS = 30.0
"""How long a retry waits for room at another principal."""
HOPELESS_AFTER = 2
"""Offers of one attempt that nobody claimed in time."""
SAME_AGAIN_SECONDS = 0.5
"""Before a failed or lost job goes to the same principal again, if there is no other."""


def add_try(tried: str, outcome: str, miner_id: str) -> str:
    """The record of a job's attempts, with one more."""
    return f"{tried} {outcome}:{miner_id}".lstrip()


def tries(tried: str) -> Iterator[tuple[str, str]]:
    """The attempts without a result: outcome and principal."""
    for attempt in tried.split():
        outcome, _, miner_id = attempt.partition(":")
        yield outcome, principal_of(miner_id)


class Retry(NamedTuple):
    """A job that waits for its next attempt, or for its next offer."""

    work: QueuedWork
    since: float
    avoid: str = ""
    """The principal that did not claim its last offer, if that was the reason."""
    late: int = 0
    """The number of its offers that nobody claimed in time."""


class Retries:
    """Every queued job that was tried or offered before, oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[str, Retry] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._waiting

    def add(self, work: QueuedWork, now: float, avoid: str = "", late: int = 0) -> None:
        """Add a job."""
        self._waiting[work.job_id] = Retry(work, now, avoid, late)

    def get(self, job_id: str) -> QueuedWork | None:
        found = self._waiting.get(job_id)
        return found and found.work

    def remove(self, job_id: str) -> None:
        """Remove a job that was offered, started or is final."""
        self._waiting.pop(job_id, None)

    def classes(self) -> set[str]:
        """The classes of all these jobs."""
        return {retry.work.job_class for retry in self._waiting.values()}

    def places(
        self, fleet: Fleet, now: float, count: int, *, hopeless: bool = False
    ) -> Iterator[tuple[Profile, QueuedWork]]:
        """Up to `count` jobs with the profiles to offer them to. Offer each before asking for the next.

        `hopeless`: the jobs that nobody claims however often they are offered. They come after all others,
        or they would keep them waiting for ever.
        """
        nowhere: set[tuple[str, str, str]] = set()
        for retry in list(self._waiting.values()):
            if hopeless is not (retry.late >= HOPELESS_AFTER):
                continue
            kind = (retry.work.job_class, retry.work.tried, retry.avoid)
            if kind in nowhere:
                continue  # a younger one of the same kind waits no less
            profile = _place(retry, fleet, now)
            if profile is None:
                nowhere.add(kind)
                continue
            yield profile, retry.work
            count -= 1
            if not count:
                return


def _place(retry: Retry, fleet: Fleet, now: float) -> Profile | None:
    work, service = retry.work, retry.work.service
    attempts = list(tries(work.tried))
    had_it = [principal for _, principal in attempts]
    able = [p for p in fleet.tightest_first() if p.sessions and work.job_class in p.classes]
    # 1. Another principal out of quarantine; the ones that complete jobs first.
    others = _others(able, {*had_it, retry.avoid}, fleet, service)
    free = [p for p in others if fleet.room(p, service, now)]
    if free:
        return min(free, key=lambda p: not fleet.standing_of(p, service).trusted)
    # 2. After a failure or a loss, wait for one of them, or a moment if there is none.
    calm = all(outcome == "released" for outcome, _ in attempts)
    if not calm and now - retry.since < (PATIENCE_SECONDS if others else SAME_AGAIN_SECONDS):
        return None
    # 3. Any. No judgement about its failures is to be expected, so these take no room.
    rest = [p for p in able if fleet.room(p, service, now, disputes=False)]
    return min(
        rest,
        key=lambda p: (bool(fleet.standing_of(p, service).quarantine), had_it.count(p.principal)),
        default=None,
    )


def _others(able: list[Profile], had_it: Collection[str], fleet: Fleet, service: str) -> list[Profile]:
    serving = fleet.serving(service)
    return [p for p in able if p.principal not in had_it and p.principal in serving]
