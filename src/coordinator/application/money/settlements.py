"""The tables of settlement batches: batches, payouts, payees, and the payments that no batch covers yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from coordinator.application.followers.follower import FollowerBase
from coordinator.application.ports import Recorded, Tables
from coordinator.crypto.settlement import payment_leaf
from coordinator.domain.account import AccountPayoutAddressSet, AccountPosted, PaymentBilled, PaymentsSettled
from coordinator.domain.account.state import earned_after
from coordinator.domain.messages import Event
from coordinator.domain.settlement import (
    SettlementClosed,
    SettlementConfirmed,
    SettlementEvent,
    SettlementPrepared,
    SettlementRefused,
    SettlementReverted,
    SettlementSubmitted,
    is_settlement_event,
)

SETTLEMENTS = "settlements"

Values = dict[str, Any]


class SettlementFollower(FollowerBase):
    """Tables: settlements, settlement_payouts, settlement_payees, settlement_receipts."""

    name = SETTLEMENTS
    linger_seconds = 0.2
    acts_on: frozenset[type[Event]] | None = frozenset()

    def __init__(self) -> None:
        self._payees: dict[str, Values] = {}
        """By party: one row for each that ever earned something."""
        self._open: dict[int, Values] = {}
        """By number: batches that are not settled."""

    def take_over(self, tables: Tables) -> None:
        self._payees = {row["party"]: row for row in tables.query("settlements_payees")}
        self._open = {row["number"]: row for row in tables.query("settlements_open")}

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        payees: set[str] = set()
        leaves: list[Values] = []
        for recorded in events:
            event = recorded.event
            match event:
                case AccountPosted():
                    if self._earned(event, recorded.position):
                        payees.add(event.party)
                case AccountPayoutAddressSet():
                    self._payee(event.party).update(sink=event.sink, address=event.address)
                    payees.add(event.party)
                case PaymentsSettled():
                    if event.payments:
                        hashes = [payment_leaf(payment.model_dump()).hex() for payment in event.payments]
                        leaves.append({"position": recorded.position, "leaves": "".join(hashes)})
                case PaymentBilled():
                    leaf = payment_leaf(event.model_dump()).hex()
                    leaves.append({"position": recorded.position, "leaves": leaf})
                case _ if is_settlement_event(event):
                    if leaves:  # a close forgets those that it covers
                        tables.put("settlement_receipts", leaves)
                        leaves = []
                    self._batch(tables, event, recorded.position)
                case _:
                    pass
        if leaves:
            tables.put("settlement_receipts", leaves)
        if payees:
            tables.put("settlement_payees", [self._payees[party] for party in sorted(payees)])

    def _payee(self, party: str) -> Values:
        new = {"party": party, "sink": "", "address": "", "earned": 0, "since": 0}
        return self._payees.setdefault(party, new)

    def _earned(self, event: AccountPosted, position: int) -> bool:
        """Whether the party's earned money changed."""
        known = self._payees.get(event.party)
        before: int = 0 if known is None else known["earned"]
        after = earned_after(before, event)
        if after == before or event.party.startswith("@"):
            return False
        row = self._payee(event.party)
        row["earned"] = after
        if before == 0:
            row["since"] = position
        return True

    # --- batches --------------------------------------------------------------------------------------------
    def _batch(self, tables: Tables, event: SettlementEvent, position: int) -> None:
        if isinstance(event, SettlementClosed):
            self._open[event.number] = _closed(event, position)
            tables.put("settlement_payouts", _payouts(event))
            tables.execute("settlements_covered", until=event.until)
            tables.put("settlements", [self._open[event.number]])
            return
        row = self._open[event.number]
        row.update(changed_at=event.at, position=position)
        match event:
            case SettlementPrepared():
                row.update(state="PREPARED", part_payouts=event.count, nonce=event.nonce)
                row.update(hash=event.hash, payout_root=event.payout_root, confirmations=None)
            case SettlementSubmitted():
                row.update(state="SUBMITTED", hash=event.hash)
            case SettlementReverted():
                row.update(state="PREPARED")
            case SettlementConfirmed():
                row.update(hash=event.hash, confirmations=event.confirmations)
                self._part(tables, row, "PAID")
            case SettlementRefused():
                row.update(reason=event.reason)
                self._part(tables, row, "RETURNED")
            case _:
                assert_never(event)
        tables.put("settlements", [row])
        if row["state"] == "SETTLED":
            del self._open[event.number]

    def _part(self, tables: Tables, row: Values, state: str) -> None:
        """The part is paid, or refused: so are its payouts."""
        number, first = row["number"], row["first"]
        # One that was refused before it was prepared ends with all that are left.
        end = first + row["part_payouts"] if row["part_payouts"] else row["payouts"]
        payouts = tables.query("settlements_payouts", numbers=[number])[first:end]
        change = {"state": state, "hash": row["hash"] if state == "PAID" else None}
        change["changed_at"] = row["changed_at"]
        tables.change("settlement_payouts", {payout["payout_id"]: change for payout in payouts})
        row["confirmed" if state == "PAID" else "refused"] += sum(payout["amount"] for payout in payouts)
        row.update(first=end, part=row["part"] + 1, part_payouts=0)
        row["state"] = "SETTLED" if end == row["payouts"] else "OPEN"


def _closed(event: SettlementClosed, position: int) -> Values:
    return {
        "number": event.number,
        "sink": event.sink,
        "state": "OPEN",
        "after_position": event.after,
        "until_position": event.until,
        "receipts": event.receipts,
        "receipts_root": event.receipts_root,
        "payouts": len(event.payouts),
        "total": event.total,
        "confirmed": 0,
        "refused": 0,
        "previous": event.previous,
        "digest": event.digest,
        "part": 0,
        "first": 0,
        "part_payouts": 0,
        "nonce": None,
        "hash": None,
        "payout_root": None,
        "confirmations": None,
        "reason": "",
        "closed_at": event.at,
        "changed_at": event.at,
        "position": position,
    }


def _payouts(event: SettlementClosed) -> list[Values]:
    return [
        {
            "payout_id": f"{event.number}/{place}",
            "number": event.number,
            "place": place,
            "party": payout.party,
            "sink": event.sink,
            "address": payout.address,
            "amount": payout.amount,
            "state": "IN_TRANSIT",
            "hash": None,
            "changed_at": event.at,
        }
        for place, payout in enumerate(event.payouts)
    ]
