"""The demo's money: a deposit, holds, payments, a batch of payouts, and each party's statement."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from coordinator.client import AsyncCoordinator
from coordinator.dev.demo.system import DemoFailed, DemoSystem
from coordinator.dev.demo.work import DemoJob
from coordinator.runtime import terminal
from coordinator.wire.amounts import MILLION, units

DEPOSIT: Final = 100_000 * MILLION
FEE_BPS: Final = 250
SETTINGS: Final = {
    "SETTLEMENT": "on",
    "FEE_BPS": str(FEE_BPS),
    "DISPUTE_WINDOW_SECONDS": "0",  # what is earned can be paid out at once
    "SETTLEMENT_SINK": "file",
    "SETTLEMENT_MINIMUM": "1",
    "SETTLEMENT_EVERY_SECONDS": "0",
}
SIZED: Final = "video_transcoding"
SIZED_PRICE: Final = "50"
_SETTLED_SECONDS: Final = 60.0


async def deposit(system: DemoSystem, admin: AsyncCoordinator) -> None:
    """Give the client money for its jobs."""
    await admin.accounts.deposit(system.client_name, DEPOSIT, "demo-deposit")
    terminal.note(f"Deposit: {units(DEPOSIT)} for {system.client_name}")


async def bill_by_size(admin: AsyncCoordinator) -> None:
    """From now on the videos are billed by the GB of their outputs, and no longer by the second."""
    spec = (await admin.registry.show(SIZED)).spec()
    pricing = {"unit": "gb", "amount": SIZED_PRICE, "shown": [{"blob_bytes": True, "per": 10**9}]}
    await admin.registry.revise({**spec, "pricing": pricing, "max_units": "0.1"})
    terminal.note(f"{SIZED}: {SIZED_PRICE} for a GB of output, of which a job is billed 0.1 at most")


async def show_held(client: AsyncCoordinator) -> None:
    """Tell what is set aside for the jobs that have not ended."""
    account = await client.accounts.show()
    terminal.note(f"Held for jobs: {units(account['held'])}; available: {units(account['available'])}")


async def settled(system: DemoSystem, admin: AsyncCoordinator, batch: Sequence[DemoJob]) -> int:
    """Wait until all jobs are paid, and show all statements; the sum of the payments.

    Raises DemoFailed unless the payments are the receipts' prices and all balances sum to zero.
    """
    until = time.monotonic() + _SETTLED_SECONDS
    while (await admin.accounts.show(system.client_name))["held"]:
        if time.monotonic() > until:
            raise DemoFailed("money is held still, a minute after the last job")
        await asyncio.sleep(0.1)
    if any(Decimal(job.receipt["price"]) for job in batch):
        await _pay_out(system, admin, until)
    accounts = [account async for account in admin.accounts.list()]
    total = sum(account["balance"] for account in accounts)
    if total:
        raise DemoFailed(f"the balances of all accounts sum to {total}, not to zero")
    paid = 0
    for account in accounts:
        party = account["party"]
        statement = await admin.accounts.statement(party)
        lines = statement["lines"]
        if statement["opening"] + sum(line["amount"] for line in lines) != statement["closing"]:
            raise DemoFailed(f"the statement of {party} does not add up")
        if party == system.client_name:
            paid = _check_prices(lines, batch)
        terminal.note(_text(statement))
    return paid


async def _pay_out(system: DemoSystem, admin: AsyncCoordinator, until: float) -> None:
    """Close a batch of what the miners have earned, and wait until its file is written.

    Raises DemoFailed unless the file has the amounts of the batch.
    """
    number = (await admin.settlements.close())["number"]
    while (found := await admin.settlements.show(number))["state"] != "SETTLED":
        if time.monotonic() > until:
            raise DemoFailed(f"the settlement batch is {found['state']} still")
        await asyncio.sleep(0.1)
    path = system.settings().data_dir / "settlements" / f"settlement-{number:06}.json"
    written = {line["party"]: line["amount"] for line in json.loads(path.read_text())["payouts"]}
    if written != {line["party"]: line["amount"] for line in found["lines"]}:
        raise DemoFailed(f"the file {path.name} has other payouts than its batch")
    told = ", ".join(f"{party} {units(amount)}" for party, amount in written.items())
    terminal.note(f"Paid out in batch {number}: {told} ({path.name})")


def _check_prices(lines: Sequence[dict[str, Any]], batch: Sequence[DemoJob]) -> int:
    paid = {line["receipt_id"]: -line["amount"] for line in lines if line["kind"] == "payment"}
    prices = {job.receipt["receipt_id"]: int(Decimal(job.receipt["price"]) * MILLION) for job in batch}
    due = {receipt: price for receipt, price in prices.items() if price}
    if paid != due:
        raise DemoFailed(f"the payments are not the receipts' prices: {paid} for {due}")
    if any(job.receipt["unit_type"] != "gigabytes" for job in batch if job.planned.service == SIZED):
        raise DemoFailed(f"a receipt of {SIZED} is not for gigabytes")
    return sum(paid.values())


def _text(statement: dict[str, Any]) -> str:
    by_kind: dict[str, list[int]] = {}
    for line in statement["lines"]:
        by_kind.setdefault(line["kind"], []).append(line["amount"])
    told = [f"{len(amounts)} × {kind} {units(sum(amounts))}" for kind, amounts in by_kind.items()]
    return f"Statement of {statement['party']}: {', '.join(told)}; closing {units(statement['closing'])}"
