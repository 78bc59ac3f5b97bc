"""The fair queue: which receivers' messages are sent next. Pure; the messages themselves stay in the table.

A receiver is one entry, however many messages wait for it. The owner with the fewest messages under way comes
first, then the receiver that has waited longest. Failing receivers share a half of all places, so that they
never delay the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.application.ports import Tables
from coordinator.application.webhooks.schedule import Bounds


class Due(NamedTuple):
    """A receiver has messages from this moment on (Unix milliseconds)."""

    webhook_id: str
    owner: str
    due_at: int


@dataclass(slots=True)
class Receiver:
    """A receiver, as the queue sees it."""

    webhook_id: str
    owner: str
    due_at: int | None = None
    """When its next message is due that is not under way; None for none."""
    version: int = 0
    """One more with each new message: tells a query that was overtaken."""
    under_way: int = 0
    failures: int = 0
    """In a row."""
    succeeded_at: int = 0
    turn: int = 0
    """When it was served last, in turns."""


class Pick(NamedTuple):
    """A receiver that may send, and how many messages."""

    receiver: Receiver
    room: int


class Queues:
    """All receivers with messages."""

    def __init__(self) -> None:
        self.receivers: dict[str, Receiver] = {}
        self._of_owner: dict[str, int] = {}
        self._turn = 0

    @classmethod
    def load(cls, tables: Tables) -> Queues:
        """The queue at a takeover. In a thread."""
        queues = cls()
        for row in tables.query("webhooks_queues"):
            queues.note(Due(**row))
        for row in tables.query("webhooks_all_health"):
            if row["webhook_id"] in queues.receivers:
                receiver = queues.receivers[row["webhook_id"]]
                receiver.failures, receiver.succeeded_at = row["failures"], row["succeeded_at"] or 0
        return queues

    @property
    def under_way(self) -> int:
        """All messages under way."""
        return sum(self._of_owner.values())

    def note(self, due: Due) -> None:
        """A message was stored, or is due again."""
        receiver = self.receivers.get(due.webhook_id)
        if receiver is None:
            receiver = self.receivers[due.webhook_id] = Receiver(due.webhook_id, due.owner)
        receiver.version += 1
        if receiver.due_at is None or due.due_at < receiver.due_at:
            receiver.due_at = due.due_at

    def next_at(self) -> int | None:
        """When the next message is due that is not under way."""
        return min((r.due_at for r in self.receivers.values() if r.due_at is not None), default=None)

    def picks(self, now: int, bounds: Bounds) -> Iterator[Pick]:
        """The receivers that may send now, and how much, in a fair order. Reserves nothing."""
        waiting = [r for r in self.receivers.values() if r.due_at is not None and r.due_at <= now]
        if not waiting:
            return
        free = bounds.total - self.under_way
        failing = sum(r.under_way for r in self.receivers.values() if r.failures)
        of_owner = dict(self._of_owner)
        while free > 0 and waiting:
            receiver = min(waiting, key=lambda r: (of_owner.get(r.owner, 0), r.turn, r.webhook_id))
            waiting.remove(receiver)
            most = bounds.of_failing_receiver if receiver.failures else bounds.of_receiver
            owned = of_owner.get(receiver.owner, 0)
            room = min(most - receiver.under_way, bounds.of_owner - owned, free)
            if receiver.failures:
                room = min(room, bounds.failing - failing)
            if room <= 0:
                continue
            self._turn += 1
            receiver.turn = self._turn
            of_owner[receiver.owner] = owned + room
            free -= room
            failing += room if receiver.failures else 0
            yield Pick(receiver, room)

    def begin(self, receiver: Receiver) -> None:
        """A message of this receiver is under way."""
        receiver.under_way += 1
        self._of_owner[receiver.owner] = self._of_owner.get(receiver.owner, 0) + 1

    def end(self, receiver: Receiver) -> None:
        """It no longer is."""
        receiver.under_way -= 1
        left = self._of_owner[receiver.owner] - 1
        if left:
            self._of_owner[receiver.owner] = left
        else:
            del self._of_owner[receiver.owner]

    def forget_idle(self, keep: Iterable[str] = ()) -> None:
        """Drop receivers without messages: there may be many over the years."""
        kept = set(keep)
        self.receivers = {
            key: r
            for key, r in self.receivers.items()
            if r.due_at is not None or r.under_way or r.failures or key in kept
        }
