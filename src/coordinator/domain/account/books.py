"""The accounts of one decision, and the entries that it makes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from coordinator.domain.account.events import (
    CARRIED_EVERY,
    AccountCarried,
    AccountDismissed,
    AccountDisputed,
    AccountEvent,
    AccountHeld,
    AccountPayoutAddressSet,
    AccountPosted,
    AccountReleased,
)
from coordinator.domain.account.state import Account, AccountState, account_stream, evolve
from coordinator.domain.decision import Decision, StreamEvent
from coordinator.domain.messages import Event, Millis


class Books:
    """The accounts of one decision, after its events so far. Not pure, and never seen outside of it."""

    def __init__(self, now: Millis, by: str, accounts: dict[str, AccountState]) -> None:
        self._common: dict[str, Any] = {"at": now, "by": by}
        self._now = now
        self._accounts = accounts
        self.events: Decision = []

    def of(self, party: str) -> Account:
        return self._accounts[party] or Account(party)

    def available(self, party: str) -> int:
        return self.of(party).available(self._now)

    def is_pending(self, party: str, amount: int, available_at: Millis) -> bool:
        """Whether this credit is pending still, by clock and account: the clock may be set back."""
        return available_at > self._now and dict(self.of(party).pending).get(available_at, 0) >= amount

    def hold(self, party: str, amount: int) -> None:
        """For one job."""
        self._append(AccountHeld(**self._common, **self._totals(party, held=amount), jobs=1, amount=amount))

    def release(self, party: str, jobs: int, amount: int) -> None:
        totals = self._totals(party, held=-amount)
        self._append(AccountReleased(**self._common, **totals, jobs=jobs, amount=amount))

    def dispute(self, party: str, job_id: UUID, amount: int, available_at: Millis) -> None:
        totals = self._totals(party, disputed=amount)
        facts: dict[str, Any] = {"job_id": job_id, "amount": amount, "available_at": available_at}
        self._append(AccountDisputed(**self._common, **totals, **facts))

    def dismiss(self, party: str, job_id: UUID, amount: int, available_at: Millis) -> None:
        totals = self._totals(party, disputed=-amount)
        facts: dict[str, Any] = {"job_id": job_id, "amount": amount, "available_at": available_at}
        self._append(AccountDismissed(**self._common, **totals, **facts))

    def set_payout_address(self, party: str, sink: str, address: str) -> None:
        self._append(
            AccountPayoutAddressSet(**self._common, **self._totals(party), sink=sink, address=address)
        )

    def post(self, party: str, amount: int, *, released: int = 0, unfrozen: int = 0, **facts: Any) -> None:
        totals = self._totals(party, balance=amount, held=-released, disputed=-unfrozen)
        moved: dict[str, int] = {"amount": amount, "released": released, "unfrozen": unfrozen}
        self._append(AccountPosted(**self._common, **totals, **moved, **facts))

    def also(self, stream: UUID, event: Event) -> Decision:
        """The decision: these entries, whose sum is checked, and the event of the command's own stream."""
        total = sum(e.event.amount for e in self.events if isinstance(e.event, AccountPosted))
        if total:
            raise ValueError(f"the entries of a posting sum to {total}, not to zero")
        return [*self.events, StreamEvent(stream, event)]

    def _totals(self, party: str, *, balance: int = 0, held: int = 0, disputed: int = 0) -> dict[str, Any]:
        before = self.of(party)
        return {
            "party": party,
            "balance": before.balance + balance,
            "held": before.held + held,
            "disputed": before.disputed + disputed,
        }

    def _append(self, event: AccountEvent) -> None:
        party = event.party
        after = self._accounts[party] = evolve(self._accounts[party], event)
        self.events.append(StreamEvent(account_stream(party), event))
        if (number := after.events + 1) % CARRIED_EVERY == 0:
            whole: dict[str, Any] = {
                "number": number,
                "pending": after.pending,
                "earned": after.earned,
                "payout_sink": after.payout_sink,
                "payout_address": after.payout_address,
            }
            self._append(AccountCarried(**self._common, **self._totals(party), **whole))


def held(state: AccountState, party: str, amount: int, now: Millis, by: str) -> Decision:
    """The events of a hold for one job. Every submit has one, so it takes no `Books` unless it has to."""
    before = state or Account(party)
    if (before.events + 2) % CARRIED_EVERY == 0:
        books = Books(now, by, {party: state})
        books.hold(party, amount)
        return books.events
    event = AccountHeld(
        at=now,
        by=by,
        party=party,
        balance=before.balance,
        held=before.held + amount,
        disputed=before.disputed,
        jobs=1,
        amount=amount,
    )
    return [StreamEvent(account_stream(party), event)]
