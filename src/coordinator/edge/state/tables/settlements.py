"""Settlement batches, read from their tables."""

from __future__ import annotations

from typing import Any, NamedTuple

from coordinator.application.money.settlements import SETTLEMENTS
from coordinator.application.ports import Database, Watermarks
from coordinator.edge.state.threads import in_thread

Values = dict[str, Any]


class BatchRows(NamedTuple):
    """Batches, the newest first, and their payouts; one party's alone, if that was asked for."""

    batches: list[Values]
    payouts: list[Values]

    def payouts_of(self, number: int) -> list[Values]:
        """The payouts of one batch."""
        return [row for row in self.payouts if row["number"] == number]


class PaidRows(NamedTuple):
    """The payouts that a sink has paid for good."""

    batch: int
    """The last batch with one; 0 for none."""
    paid: dict[str, int]
    """Amounts in 10⁻⁶ of the unit, by address."""
    addresses: list[str]
    """Those at which one party was paid."""


class SettlementReads:
    """Reads in threads."""

    def __init__(self, database: Database, watermarks: Watermarks) -> None:
        self._database = database
        self._watermarks = watermarks

    async def reached(self, position: int, seconds: float) -> bool:
        """Wait until the tables are at this position."""
        self._watermarks.hurry(SETTLEMENTS, position)
        return await self._watermarks.reached(SETTLEMENTS, position, seconds)

    async def page(self, party: str | None, before: int, page_size: int) -> BatchRows:
        """A page of batches below a number. `party`: only those that pay it; None for all."""
        of_party = {} if party is None else {"party": party}
        kind = "" if party is None else "_of_party"

        def query() -> BatchRows:
            with self._database.transaction() as tables:
                batches = tables.query(
                    f"settlements_list{kind}", before=before, page_size=page_size, **of_party
                )
                if party is None:
                    return BatchRows(batches, [])
                numbers = [row["number"] for row in batches]
                return BatchRows(
                    batches, tables.query("settlements_payouts_of_party", numbers=numbers, party=party)
                )

        return await in_thread(query)

    async def one(self, party: str | None, number: int) -> BatchRows:
        """One batch with its payouts; empty if there is none, or none that pays this party."""
        of_party = {} if party is None else {"party": party}
        kind = "" if party is None else "_of_party"

        def query() -> BatchRows:
            with self._database.transaction() as tables:
                batches = tables.query("settlements_one", number=number)
                payouts = tables.query(f"settlements_payouts{kind}", numbers=[number], **of_party)
                return BatchRows(batches if payouts else [], payouts)

        return await in_thread(query)

    async def paid(self, sink: str, party: str) -> PaidRows:
        """All that a sink has paid, and where it has paid this party."""

        def query() -> PaidRows:
            with self._database.transaction() as tables:
                [last] = tables.query("settlements_last_paid", sink=sink)
                own = tables.query("settlements_addresses_of_party", sink=sink, party=party)
                # Nobody's sums are read for a party that has none.
                rows = tables.query("settlements_paid", sink=sink) if own else []
            paid = {row["address"]: row["paid"] for row in rows}
            return PaidRows(last["number"] or 0, paid, [row["address"] for row in own])

        return await in_thread(query)

    async def address(self, party: str) -> tuple[str | None, str | None]:
        """The sink and the payout address of a party."""

        def query() -> list[Values]:
            with self._database.transaction() as tables:
                return tables.query("settlements_payee", party=party)

        rows = await in_thread(query)
        return (rows[0]["sink"], rows[0]["address"]) if rows and rows[0]["address"] else (None, None)
