"""The standing of a principal's miners for one service: their record of late, and the slots that follow.

Pure: no I/O, no clock. A newcomer begins with few slots and gets one more with each completed job, so its
slots double with each round, up to its registered concurrency. Losses, unclaimed offers, and failures of jobs
that another principal then completes, take slots away. A failure that nobody has judged yet only occupies a
slot: the input may be at fault. Each client has one vote, however many jobs it submits, so that no client
alone brings a miner of many into quarantine, and none alone keeps it out.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from coordinator.application.ports import Row
from coordinator.domain.standing import ALONE_SLOTS as ALONE_SLOTS
from coordinator.domain.standing import NEWCOMER_SLOTS as NEWCOMER_SLOTS

NEWCOMER_TOTAL = 8
"""Offers and running jobs of all services that a principal has completed no job of."""
WINDOW_SECONDS = 1.0
LEAST_BAD = 3
"""Bad outcomes before a quarantine."""
REMEMBERED_OUTCOMES = 6
"""Per client."""
REMEMBERED_CLIENTS = 8
SETTLED_AFTER = 50
"""Good outcomes in a row after which former quarantines no longer count."""
COOLDOWN_SECONDS = 1.0
"""Before the next offer to a principal without trust; doubles with each bad outcome in a row …"""
LONGEST_COOLDOWN_SECONDS = 60.0
"""… up to this."""
ONE_MOMENT_SECONDS = 1.0
"""Losses and unclaimed offers within this time have one cause, such as a crash, and count as one outcome."""

BadOutcome = Literal["failed", "lost", "too_slow", "released", "unclaimed"]
Quarantine = Literal["", "probes", "by hand"]
_COUNTS = ("completed", "failed", "lost", "too_slow", "released", "unclaimed")
_STORED = (*_COUNTS, "slots", "streak", "quarantines", "since_bad", "quarantine", "reason", "usual_ms")


class Rate:
    """The number of things within the last WINDOW_SECONDS."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()
        self._sum = 0

    def add(self, count: int, now: float) -> None:
        if self._counts and self._counts[-1][0] == now:  # the same batch of events
            self._counts[-1] = (now, self._counts[-1][1] + count)
        else:
            self._counts.append((now, count))
        self._sum += count

    def within(self, now: float) -> int:
        while self._counts and self._counts[0][0] < now - WINDOW_SECONDS:
            self._sum -= self._counts.popleft()[1]
        return self._sum


@dataclass(slots=True, eq=False)
class Standing:
    """See the module. Moments are monotonic seconds."""

    principal: str
    service: str
    completed: int = 0
    failed: int = 0
    """Failures of jobs that another principal then completed."""
    lost: int = 0
    too_slow: int = 0
    released: int = 0
    unclaimed: int = 0
    slots: int = NEWCOMER_SLOTS
    """The most offers and running jobs at a time, besides as many as it completed within the last second."""
    streak: int = 0
    """Bad outcomes since the last completed job."""
    quarantines: int = 0
    since_bad: int = 0
    """Completed jobs since the last bad outcome."""
    quarantine: Quarantine = ""
    reason: str = ""
    """The reason of the quarantine, or of the last bad outcome."""
    usual_ms: int = 0
    """The time of its jobs from start to completion, a moving average in milliseconds."""
    recent: dict[str, str] = field(default_factory=dict)
    """By client: its last outcomes, such as "++-"; the client of the newest one last."""
    # In memory only:
    outstanding: int = 0
    """Offers on queues and running jobs."""
    disputed: int = 0
    """Failures that no other principal has confirmed or refuted yet."""
    not_before: float = 0.0
    """No offers before this moment, while it has no trust."""
    released_in_row: int = 0
    last_bad: float = -ONE_MOMENT_SECONDS
    last_completed: float = 0.0
    passed_probe: bool = False
    completions: Rate = field(default_factory=Rate)

    # --- outcomes -------------------------------------------------------------------------------------------
    def note_completed(self, client: str, millis: int | None, most_slots: int, now: float) -> None:
        """A job of this client was completed. `millis`: from start to completion, if known."""
        self.completed += 1
        self.streak = self.released_in_row = 0
        self.since_bad += 1
        self.last_completed = now
        if self.since_bad == SETTLED_AFTER:
            self.quarantines = 0
        if self.slots < most_slots and not self.quarantine:
            self.slots += 1
        self.completions.add(1, now)
        if millis is not None:
            self.usual_ms += (millis - self.usual_ms) // 8 if self.usual_ms else millis
        self.passed_probe = self.quarantine == "probes"
        self._remember(client, "+")

    def note_bad(self, outcome: BadOutcome, client: str, now: float) -> None:
        """A bad outcome of a job of this client."""
        setattr(self, outcome, getattr(self, outcome) + 1)
        one_moment = now - self.last_bad < ONE_MOMENT_SECONDS
        if outcome != "failed" and one_moment:
            return
        if outcome == "failed" and self.quarantine:
            return  # `note_probe_failed` has counted it
        self.last_bad = now
        self._remember(client, "-")
        self.since_bad = 0
        self.passed_probe = False
        if not one_moment:
            self.streak += 1
            self.slots = max(1, self.slots // 2 if self._outvoted else self.slots - 1)
        self.cool_down(now)
        if not self.quarantine:
            self.reason = f"the last bad outcome: {outcome}"

    def note_released(self, client: str, now: float) -> None:
        """An attempt was handed back. A restart hands back a few; more than its slots in a row are bad."""
        self.released_in_row += 1
        if self.released_in_row > max(NEWCOMER_SLOTS, self.slots):
            self.note_bad("released", client, now)
        else:
            self.released += 1

    def note_probe_failed(self, now: float) -> None:
        """A failure in quarantine: the next probe has to wait."""
        self.streak += 1
        self.cool_down(now)

    def hold_back(self, now: float) -> None:
        """Something may turn out to be bad: no further offers for a moment, while it has no trust."""
        self.not_before = max(self.not_before, now + ONE_MOMENT_SECONDS)

    def cool_down(self, now: float) -> None:
        """No offers for a while, which doubles."""
        pause = COOLDOWN_SECONDS * 2 ** min(self.streak + self.quarantines, 16)
        self.not_before = now + min(LONGEST_COOLDOWN_SECONDS, pause)

    # --- what follows ---------------------------------------------------------------------------------------
    @property
    def trusted(self) -> bool:
        """Whether it completes jobs."""
        return self.completed > 0 and self.streak < LEAST_BAD and not self.quarantine

    @property
    def deserves_quarantine(self) -> bool:
        """Whether bad outcomes prevail for more than half of the clients that it worked for of late."""
        return not self.quarantine and self._bad >= LEAST_BAD and self._outvoted

    def room(self, now: float, *, alone: bool, disputes: bool = True) -> int:
        """The number of further offers that it may get.

        `alone`: nobody else serves this service, so that to wait for a judgement or a cooldown helps nobody.
        """
        if self.quarantine:
            may = self.quarantine == "probes" and (alone or now >= self.not_before)
            return int(may and not self.outstanding)
        slots = max(self.slots, ALONE_SLOTS) if alone else self.slots
        free = slots + self.completions.within(now) - self.outstanding
        if not alone:
            if not self.trusted and now < self.not_before:
                return 0
            if disputes:
                free -= self.disputed if not self.completed else min(self.disputed, self.slots // 2)
        return max(0, free)

    @property
    def verdict(self) -> str:
        """The counts, as the reason of a quarantine."""
        counts = ", ".join(f"{name.replace('_', ' ')} {getattr(self, name)}" for name in _COUNTS)
        return f"{self._bad} bad outcomes of late ({counts}), while others serve it"

    def begin_quarantine(self, kind: Quarantine, reason: str, now: float) -> None:
        self.quarantine, self.reason, self.passed_probe = kind, reason, False
        self.quarantines += 1
        self.cool_down(now)

    def end_quarantine(self, now: float) -> None:
        """It begins again, with one slot and without a record of outcomes."""
        self.quarantine, self.reason, self.passed_probe = "", "", False
        self.slots, self.streak, self.since_bad, self.not_before = 1, 0, 0, now
        self.recent.clear()

    # --- the table ------------------------------------------------------------------------------------------
    def row(self) -> Row:
        """Its row of the table `standings`."""
        stored: dict[str, Any] = {name: getattr(self, name) for name in _STORED}
        return {
            "principal": self.principal,
            "service": self.service,
            **stored,
            "recent_json": json.dumps(self.recent),
        }

    @classmethod
    def from_row(cls, row: Row, now: float) -> Standing:
        """As stored. A cooldown begins again."""
        stored = {name: row[name] for name in _STORED}
        standing = cls(row["principal"], row["service"], **stored, recent=json.loads(row["recent_json"]))
        if standing.streak or standing.quarantine:
            standing.cool_down(now)
        return standing

    @property
    def _bad(self) -> int:
        return sum(outcomes.count("-") for outcomes in self.recent.values())

    @property
    def _outvoted(self) -> bool:
        votes = [outcomes.count("-") * 2 >= len(outcomes) for outcomes in self.recent.values()]
        return sum(votes) * 2 > len(votes)

    def _remember(self, client: str, outcome: str) -> None:
        known = self.recent.get(client)
        if known == "+" * REMEMBERED_OUTCOMES and outcome == "+":
            return  # nearly always
        self.recent.pop(client, None)
        self.recent[client] = ((known or "") + outcome)[-REMEMBERED_OUTCOMES:]
        if len(self.recent) > REMEMBERED_CLIENTS:
            del self.recent[next(iter(self.recent))]
