"""A settlement sink for tests: it keeps books, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from coordinator.application.ports import (
    Final,
    Gone,
    Pending,
    PollAnswer,
    PreparedPayment,
    SinkBatch,
    SinkHistory,
    SinkRefused,
    SinkUnavailable,
    SubmitAnswer,
    Submitted,
    Unknown,
)

Behaviour = Literal["take", "lose_answer", "lose_message", "never", "refuse", "refuse_taken", "late"]


class Bank:
    """A `SettlementSink` that executes each nonce once, as a chain does."""

    name = "bank"
    quantum = 1

    def __init__(
        self, *, per_payout: bool = False, needs_address: bool = False, confirmations: int = 0
    ) -> None:
        self.needs_address = needs_address
        self.per_payout = per_payout
        self.confirmations = confirmations
        """Polls until a payment is final."""
        self.script: list[Behaviour] = []
        """Of the next submits; `take` after it."""
        self.taken: dict[str, PreparedPayment] = {}
        self.arriving: list[PreparedPayment] = []
        """Sent, and taken at a later poll."""
        self.refused: set[str] = set()
        self.polls: Counter[str] = Counter()
        self.sent: list[PreparedPayment] = []
        self.prepared = 0
        self.replace_after: float | None = None
        self.away = False
        """No fee can be asked for a replacement."""
        self.histories: list[SinkHistory] = []

    # --- the books ------------------------------------------------------------------------------------------
    @property
    def paid(self) -> dict[str, int]:
        """The amounts by party: of payments with the same nonce, one was executed."""
        nonces = [payment.nonce for payment in self.taken.values()]
        assert len(set(nonces)) == len(nonces)
        found: Counter[str] = Counter()
        for payment in self.taken.values():
            for party, amount in json.loads(payment.body)["payouts"]:
                found[party] += amount
        return dict(found)

    def fork(self) -> None:
        """A chain forks back: what was taken is unknown."""
        self.taken.clear()
        self.polls.clear()

    def _take(self, payment: PreparedPayment) -> bool:
        others = {known.nonce: digest for digest, known in self.taken.items()}
        if others.get(payment.nonce, payment.hash) != payment.hash:
            return False
        self.taken[payment.hash] = payment
        return True

    # --- the port -------------------------------------------------------------------------------------------
    def address_fault(self, address: str) -> str | None:
        return None if address.startswith("bank-") else "it begins with bank-"

    async def check(self) -> str | None:
        return None

    async def prepare(self, batch: SinkBatch, history: SinkHistory) -> PreparedPayment:
        self.prepared += 1
        self.histories.append(history)
        covers = 1 if self.per_payout else len(batch.left)
        nonce = 0 if history.nonce is None else history.nonce + 1
        return self._payment(batch.number, [(p.party, p.amount) for p in batch.left[:covers]], nonce, 1)

    def _payment(
        self, number: int, payouts: Sequence[tuple[str, int]], nonce: int, fee: int
    ) -> PreparedPayment:
        # Two preparations of one part differ, as signatures of a chain may.
        document = {"batch": number, "payouts": payouts, "nonce": nonce, "fee": fee, "try": self.prepared}
        body = json.dumps(document).encode()
        return PreparedPayment(body, hashlib.sha256(body).hexdigest(), nonce, len(payouts))

    async def submit(self, payment: PreparedPayment) -> SubmitAnswer:
        self.sent.append(payment)
        match self.script.pop(0) if self.script else "take":
            case "take":
                return Submitted() if self._take(payment) else SinkRefused("the nonce is used")
            case "lose_answer":
                self._take(payment)
                return Unknown("the connection broke")
            case "lose_message":
                return Unknown("the connection broke")
            case "never":
                self._take(payment)
                await asyncio.Event().wait()
                raise AssertionError
            case "refuse":
                self.refused.add(payment.hash)
                return SinkRefused("the account is closed")
            case "refuse_taken":
                self._take(payment)
                return SinkRefused("the account is closed")
            case "late":
                self.arriving.append(payment)
                return Unknown("no answer yet")

    async def poll(self, payment: PreparedPayment) -> PollAnswer:
        self.polls[payment.hash] += 1
        if payment in self.arriving and self.polls[payment.hash] > 1:
            self.arriving.remove(payment)
            self._take(payment)
        if payment.hash in self.taken:
            seen = self.polls[payment.hash] - 1
            return Final(seen) if seen >= self.confirmations else Pending(seen)
        if payment in self.arriving:
            return Unknown("no answer yet")
        return SinkRefused("the account is closed") if payment.hash in self.refused else Gone()

    async def replacement(
        self, payments: Sequence[PreparedPayment], pending_seconds: float
    ) -> PreparedPayment | None:
        if self.away:
            raise SinkUnavailable("the bank is away")
        if self.replace_after is None or len(payments) > 1 or pending_seconds < self.replace_after:
            return None
        known = json.loads(payments[-1].body)
        assert payments[-1].nonce is not None
        return self._payment(known["batch"], known["payouts"], payments[-1].nonce, known["fee"] + 1)

    async def close(self) -> None:
        return None
