"""The plan of the next settlement batch, by the tables; the decision looks at the accounts themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from coordinator.application.money.settlements import SETTLEMENTS
from coordinator.application.ports import Clock, Database, Row, SinkHistory, Tables
from coordinator.crypto.settlement import payments_root
from coordinator.domain.account import MAX_SETTLED
from coordinator.domain.settlement import MAX_PAYOUTS, BatchPlan, Settlement, SinkTerms

MAX_RECEIPTS = 100_000
"""Payments that one batch covers at most; later ones are of the next batch."""
HASH = 32
"""Bytes of a leaf's hash."""
PAGE_PAYEES = 500
"""Rows of one read. A read of few payees must not take all of them into memory."""
KNOWN_ADDRESSES = 10_000
"""Addresses whose faults are remembered: the sum is read every few seconds, and a checksum takes a while."""


class Payable(NamedTuple):
    """The money that a batch would pay now, by the tables."""

    parties: int
    total: int


class LastBatch(NamedTuple):
    """The last batch that the tables know."""

    number: int
    until: int


class BatchPlans:
    """Reads the tables of settlement batches. Its methods read in threads, and raise LogUnavailable."""

    def __init__(self, database: Database, clock: Clock, sink: SinkTerms) -> None:
        self._database = database
        self._clock = clock
        self._sink = sink
        self._fault_of = lru_cache(KNOWN_ADDRESSES)(sink.fault_of)

    async def plan(self) -> BatchPlan:
        """What the next batch would cover."""
        return await asyncio.to_thread(self._plan)

    async def payable(self) -> Payable:
        """What it would pay."""
        return await asyncio.to_thread(self._payable)

    async def last(self) -> LastBatch:
        """The last batch; number 0 for none."""
        return await asyncio.to_thread(self._last)

    async def history(self, batch: Settlement) -> SinkHistory | None:
        """What the sink has paid; None while the tables are behind the batch."""
        return await asyncio.to_thread(self._history, batch)

    def _plan(self) -> BatchPlan:
        with self._database.transaction() as tables:
            last = _last_of(tables)
            reached = tables.position(SETTLEMENTS)
            settled = tables.query(
                "settlements_leaves", after=last.until, until=reached, count=MAX_RECEIPTS // MAX_SETTLED + 1
            )
            parties = tuple(row["party"] for row in islice(self._payees(tables), MAX_PAYOUTS))
        if len(settled) > MAX_RECEIPTS // MAX_SETTLED:
            settled.pop()
            reached = settled[-1]["position"]
        leaves = [bytes.fromhex(row["leaves"]) for row in settled]
        hashes = [one[start : start + HASH] for one in leaves for start in range(0, len(one), HASH)]
        return BatchPlan(
            number=last.number + 1,
            after=last.until,
            until=reached,
            receipts=len(hashes),
            receipts_root=payments_root(hashes),
            parties=parties,
        )

    def _payable(self) -> Payable:
        with self._database.transaction() as tables:
            amounts = [row["amount"] for row in self._payees(tables)]
        return Payable(
            len(amounts), sum(amount // self._sink.quantum * self._sink.quantum for amount in amounts)
        )

    def _last(self) -> LastBatch:
        with self._database.transaction() as tables:
            return _last_of(tables)

    def _history(self, batch: Settlement) -> SinkHistory | None:
        with self._database.transaction() as tables:
            rows = tables.query("settlements_one", number=batch.closed.number)
            # Its row at this part shows that all parts before it, of all batches, are in the tables.
            if not rows or rows[0]["part"] != batch.part:
                return None
            paid = tables.query("settlements_paid", sink=batch.closed.sink)
            [nonce] = tables.query("settlements_nonce", sink=batch.closed.sink)
        return SinkHistory({row["address"]: row["paid"] for row in paid}, nonce["nonce"])

    def _payees(self, tables: Tables) -> Iterator[Row]:
        """The parties that the sink can pay now, those that wait longest first."""
        sink = self._sink
        # An amount below it has no whole quantum, or falls below the sink's minimum without its rest.
        minimum = -(-max(1, sink.minimum) // sink.quantum) * sink.quantum
        now, since, party = self._clock.now(), -1, ""
        while True:
            rows = tables.query(
                "settlements_payable",
                now=now,
                minimum=minimum,
                needs_address=int(sink.needs_address),
                sink=sink.name,
                since=since,
                party=party,
                count=PAGE_PAYEES,
            )
            # Addresses that were valid under other settings, say: they must not take the places of others.
            yield from (
                row for row in rows if not sink.needs_address or self._fault_of(row["address"]) is None
            )
            if len(rows) < PAGE_PAYEES:
                return
            since, party = rows[-1]["since"], rows[-1]["party"]


def _last_of(tables: Tables) -> LastBatch:
    rows = tables.query("settlements_last")
    return LastBatch(rows[0]["number"], rows[0]["until_position"]) if rows else LastBatch(0, 0)
