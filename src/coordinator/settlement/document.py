"""The document of a batch, as files and webhooks have it: JSON, or a table."""

from __future__ import annotations

import csv
import io
from decimal import Decimal

from coordinator.application.ports import SinkBatch
from coordinator.crypto.canonical import canonical_json

FORMAT = "coordinator settlement 1"
_COLUMNS = ("batch", "payout", "party", "address", "amount", "unit", "micros")


def as_json(batch: SinkBatch, unit: str) -> bytes:
    """One line of canonical JSON. Amounts are whole numbers of 10⁻⁶ of the unit."""
    return (
        canonical_json(
            {
                "format": FORMAT,
                "number": batch.number,
                "digest": batch.digest,
                "closed_at": batch.closed_at,
                "unit": unit,
                "payouts": [payout.model_dump() for payout in batch.left],
                "total": sum(payout.amount for payout in batch.left),
            }
        )
        + b"\n"
    )


def as_csv(batch: SinkBatch, unit: str) -> bytes:
    """A line for each payout, whose id follows from batch and place. No name or address is a formula."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(_COLUMNS)
    for place, payout in enumerate(batch.left, batch.first + 1):
        amount = format(Decimal(payout.amount).scaleb(-6), "f")
        payout_id = f"{batch.digest[:16]}-{place}"
        writer.writerow([batch.number, payout_id, payout.party, payout.address, amount, unit, payout.amount])
    return table.getvalue().encode()
