"""The tables of settlement batches, by their events alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, get_args

from coordinator.application.ports import Recorded, Tables
from coordinator.crypto.settlement import payment_leaf
from coordinator.domain.account import (
    Account,
    AccountEvent,
    AccountState,
    PaymentBilled,
    PaymentsSettled,
    is_account_event,
)
from coordinator.domain.decision import EVOLVE
from coordinator.domain.messages import Event
from coordinator.domain.settlement import (
    Settlement,
    SettlementClosed,
    SettlementConfirmed,
    SettlementEvent,
    SettlementPrepared,
    SettlementRefused,
    is_settlement_event,
)
from coordinator.projections.derived.port import StoredRows, compare

BATCHES, PAYOUTS, PAYEES, RECEIPTS = (
    "settlements",
    "settlement_payouts",
    "settlement_payees",
    "settlement_receipts",
)
_KEYS = {BATCHES: "number", PAYOUTS: "payout_id", PAYEES: "party", RECEIPTS: "position"}

Rows = dict[str, dict[str, Any]]


class SettlementTables:
    """See the module. Batches and accounts are those that the domain folds."""

    follower: ClassVar[str] = "settlements"
    events: ClassVar[tuple[type[Event], ...]] = (
        *get_args(AccountEvent),
        PaymentsSettled,
        PaymentBilled,
        *get_args(SettlementEvent),
    )
    statements: ClassVar[Mapping[str, str]] = {table: f"derived_{table}" for table in _KEYS}

    def __init__(self) -> None:
        self._rows: dict[str, Rows] = {table: {} for table in _KEYS}
        self._batches: dict[int, Settlement] = {}
        self._accounts: dict[str, AccountState] = {}
        self.any_money = False
        """Whether the log has a batch: without a sink the follower does not run, and has no position."""

    def take(self, recorded: Recorded) -> None:
        event = recorded.event
        if is_account_event(event):
            before = self._accounts.get(event.party) or Account(event.party)
            account: Account = EVOLVE["account"](before, event)
            self._accounts[event.party] = account
            self._payee(before, account, recorded.position)
        elif isinstance(event, PaymentsSettled):
            if event.payments:
                self._rows[RECEIPTS][str(recorded.position)] = {
                    "position": recorded.position,
                    "leaves": b"".join(payment_leaf(one.model_dump()) for one in event.payments).hex(),
                }
        elif isinstance(event, PaymentBilled):
            leaf = payment_leaf(event.model_dump()).hex()
            self._rows[RECEIPTS][str(recorded.position)] = {"position": recorded.position, "leaves": leaf}
        elif is_settlement_event(event):
            self.any_money = True
            self._batch(event, recorded.position)

    def _payee(self, before: Account, account: Account, position: int) -> None:
        rows, party = self._rows[PAYEES], account.party
        if party.startswith("@") or not (party in rows or account.earned or account.payout_sink):
            return
        since = rows[party]["since"] if party in rows else 0
        rows[party] = {
            "party": party,
            "sink": account.payout_sink,
            "address": account.payout_address,
            "earned": account.earned,
            "since": position if account.earned and not before.earned else since,
        }

    def _batch(self, event: SettlementEvent, position: int) -> None:
        before = self._batches.get(event.number)
        batch: Settlement = EVOLVE["settlement"](before, event)
        self._batches[event.number] = batch
        rows = self._rows[BATCHES]
        row = rows.setdefault(str(event.number), _first(batch.closed))
        row |= {
            "state": batch.status,
            "confirmed": batch.confirmed,
            "refused": batch.refused,
            "part": batch.part,
            "first": batch.first,
            "part_payouts": batch.prepared[0].count if batch.prepared else 0,
            "changed_at": event.at,
            "position": position,
        }
        if isinstance(event, SettlementClosed):
            covered = [key for key in self._rows[RECEIPTS] if int(key) <= event.until]
            for key in covered:
                del self._rows[RECEIPTS][key]
            for place, payout in enumerate(event.payouts):
                self._rows[PAYOUTS][f"{event.number}/{place}"] = {
                    "payout_id": f"{event.number}/{place}",
                    "number": event.number,
                    "place": place,
                    **payout.model_dump(),
                    "sink": event.sink,
                    "state": "IN_TRANSIT",
                    "hash": None,
                    "changed_at": event.at,
                }
        elif isinstance(event, SettlementPrepared):
            row |= {"nonce": event.nonce, "payout_root": event.payout_root, "confirmations": None}
        if isinstance(event, SettlementConfirmed):
            row["confirmations"] = event.confirmations
        elif isinstance(event, SettlementRefused):
            row["reason"] = event.reason
        told = getattr(event, "hash", None)
        if told is not None:
            row["hash"] = told
        if before is not None and batch.part > before.part:
            ended = {
                "state": "PAID" if isinstance(event, SettlementConfirmed) else "RETURNED",
                "hash": told,
                "changed_at": event.at,
            }
            for place in range(before.first, batch.first):
                self._rows[PAYOUTS][f"{event.number}/{place}"] |= ended

    def key_of(self, table: str, row: Mapping[str, Any]) -> str:
        return str(row[_KEYS[table]])

    def differences(self, stored: StoredRows) -> Iterator[str]:
        for table in _KEYS:
            yield from compare(table, self._rows[table], stored[table])

    def write(self, tables: Tables) -> None:
        for table, rows in self._rows.items():
            tables.execute(f"derived_clear_{table}")
            if rows:
                tables.put(table, list(rows.values()))


def _first(closed: SettlementClosed) -> dict[str, Any]:
    return {
        "number": closed.number,
        "sink": closed.sink,
        "after_position": closed.after,
        "until_position": closed.until,
        "receipts": closed.receipts,
        "receipts_root": closed.receipts_root,
        "payouts": len(closed.payouts),
        "total": closed.total,
        "previous": closed.previous,
        "digest": closed.digest,
        "nonce": None,
        "hash": None,
        "payout_root": None,
        "confirmations": None,
        "reason": "",
        "closed_at": closed.at,
    }
