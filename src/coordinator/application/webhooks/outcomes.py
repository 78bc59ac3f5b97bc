"""A try and its outcome, and how outcomes are stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from coordinator.application.ports import Database
from coordinator.application.webhooks.post import Answered
from coordinator.application.webhooks.queues import Queues, Receiver
from coordinator.application.webhooks.schedule import next_due
from coordinator.domain.webhook import TEST

KEPT_ATTEMPTS: Final = 20
"""The newest tries that a message's row tells of, whatever is replayed."""
FORGET_ROWS: Final = 5000

DeliveryState = Literal["PENDING", "DELIVERED", "FAILED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """A message that is due, as the table has it."""

    delivery_id: str
    webhook_id: str
    owner: str
    type: str
    subject: str
    position: int
    at: int
    data_json: str | None
    sealed_url: str | None
    round: int
    tries: int
    due_at: int
    tried_at: int | None
    attempts_json: str

    @property
    def is_callback(self) -> bool:
        """Whether the job named the URL."""
        return self.sealed_url is not None

    @property
    def is_test(self) -> bool:
        return self.type == TEST

    def delivered(self, answered: Answered, begun: int, now: int) -> DeliveryOutcome:
        """The receiver has it."""
        return self._tried("DELIVERED", answered, begun, now, None)

    def failed(self, answered: Answered, begun: int, now: int, chance: float) -> DeliveryOutcome:
        """The receiver does not have it, as far as we know. It is tried again, unless it is gone."""
        due = next_due(now, self.tries + 1, chance, answered.retry_after)
        if answered.status == 410 or self.is_test:
            due = None  # somebody who tests looks at the outcome, and tests again
        return self._tried("FAILED" if due is None else "PENDING", answered, begun, now, due)

    def postponed(self, due_at: int) -> DeliveryOutcome:
        """Not tried: its data is not there yet."""
        return DeliveryOutcome(
            self, None, "PENDING", self.tries, due_at, self.tried_at, None, self.attempts_json
        )

    def dropped(self, why: str, now: int) -> DeliveryOutcome:
        """Never to be tried."""
        attempts = self._attempts(now, Answered(None, why, 0))
        return DeliveryOutcome(self, None, "FAILED", self.tries, None, self.tried_at, now, attempts)

    def _tried(
        self, state: DeliveryState, answered: Answered, begun: int, now: int, due: int | None
    ) -> DeliveryOutcome:
        return DeliveryOutcome(
            self,
            answered,
            state,
            self.tries + 1,
            due,
            begun if self.tried_at is None else self.tried_at,
            now if due is None else None,
            self._attempts(begun, answered),
            now,
        )

    def _attempts(self, at: int, answered: Answered) -> str:
        attempts: list[Any] = json.loads(self.attempts_json)
        attempts.append([at, answered.status, answered.ms, answered.error])
        return json.dumps(attempts[-KEPT_ATTEMPTS:], separators=(",", ":"))


class DeliveryOutcome(NamedTuple):
    """What became of a try."""

    message: Try
    answered: Answered | None
    """None if nothing was sent."""
    state: DeliveryState
    tries: int
    due_at: int | None
    tried_at: int | None
    done_at: int | None
    attempts_json: str
    ended_at: int = 0
    """When the try ended."""
    receiver: Receiver | None = None
    queues: Queues | None = None


def record(database: Database, outcomes: Sequence[DeliveryOutcome]) -> None:
    """Store outcomes, and how their receivers fared. In a thread. Raises LogUnavailable."""
    with database.transaction() as tables:
        for outcome in outcomes:
            message, answered = outcome.message, outcome.answered
            tables.execute(
                "webhooks_record",
                delivery_id=message.delivery_id,
                round=message.round,
                state=outcome.state,
                tries=outcome.tries,
                due_at=outcome.due_at,
                tried_at=outcome.tried_at,
                done_at=outcome.done_at,
                attempts_json=outcome.attempts_json,
            )
            if answered is None:
                continue
            fared = {"webhook_id": message.webhook_id, "at": outcome.ended_at}
            if outcome.state == "DELIVERED":
                tables.execute("webhooks_succeeded", **fared)
            else:
                tables.execute("webhooks_failed", **fared, error=answered.says)


def retire(database: Database, before: int) -> None:
    """Remove messages about events before a moment (Unix milliseconds), piece by piece. In a thread."""
    while True:
        with database.transaction() as tables:
            if tables.execute("webhooks_forget", before=before, count=FORGET_ROWS) < FORGET_ROWS:
                return
