"""Many paid jobs, while the coordinator and a miner are killed, and the broker restarts."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from coordinator.audit.run import AuditOptions, audit
from coordinator.audit.sources.database import open_postgres
from coordinator.client import AsyncCoordinator
from coordinator.dev.servers import RabbitMQServer
from coordinator.domain.job.price import in_micros
from coordinator.edge.models import base
from coordinator.edge.models.base import rfc3339
from tests.harness.length import FULL
from tests.harness.logbook import Logbook
from tests.harness.stage import ALICE, BOB, ROOT, Stage
from tests.harness.waiting import eventually

JOBS = 10_000 if FULL else 200
AT_ONCE = 100
FEE_BPS = 333
DEPOSIT = 10**15
SECONDS = 1800 if FULL else 150
CLIENTS = {"alice": ALICE, "bob": BOB}
MINERS = ("rig1", "rig2", "rig3")
SETTINGS: dict[str, Any] = {
    "settlement": "on",
    "fee_bps": FEE_BPS,
    "heartbeat_interval_seconds": 0.5,
    "heartbeat_timeout_seconds": 5,
}
PARTS = 8
"""Periods in which the statements are read: each has far fewer than 10,000 lines."""


def a_job(number: int) -> dict[str, Any]:
    """Most cost a few thousand; some fail, some cost nothing, and some have a budget below their price."""
    if number % 20 == 7:
        return {"payload": {"fail": "final"}}
    if number % 20 == 11:
        return {"payload": {"seconds": 0.01}, "constraints": {"max_price": "0.5"}, "budget": 5}
    if number % 20 == 13:
        return {"payload": {"seconds": 0.01, "fail": "retryable"}, "max_attempts": 2}
    return {"payload": {"seconds": 0.01}}


async def submit_all(stage: Stage, jobs: list[str]) -> None:
    """Each client submits half of the jobs over AMQP, and cancels some at once; `jobs` gets their ids."""
    numbers = iter(range(JOBS))
    async with stage.rpc(ALICE) as alice, stage.rpc(BOB) as bob:

        async def some() -> None:
            for number in numbers:
                rpc = bob if number % 2 else alice
                job_id = await stage.submit(rpc, f"job-{number}", **a_job(number))
                jobs.append(job_id)
                if number % 50 == 4:
                    await rpc.call("job.cancel", {"job_id": job_id})

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def until_ended(log: Logbook, part: float) -> None:
    """Until this part of all jobs has ended."""
    await eventually(
        lambda: log.count("job.completed.v1") + log.count("job.failed.v1") >= part * JOBS, f"{part}", SECONDS
    )


@pytest.mark.timeout(3600 if FULL else 240)
async def test_each_of_many_jobs_is_paid_once(
    tmp_path: Path, database_url: str, breakable_rabbitmq: RabbitMQServer
) -> None:
    """Kills and a restart amid paid jobs: all end, an audit is clean, the statements add up to the log."""
    amqp_url = breakable_rabbitmq.new_vhost()
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url, **SETTINGS) as stage:
        coordinator = stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        for name in CLIENTS:
            async with stage.client(ROOT) as admin:
                await admin.accounts.deposit(name, DEPOSIT, "d1")
        miners = {name: stage.miner(name, concurrency=8) for name in MINERS}
        await stage.registered(*MINERS)
        jobs: list[str] = []
        submitting = asyncio.create_task(submit_all(stage, jobs))
        await until_ended(stage.log, 0.2)
        coordinator.kill()
        stage.coordinator()
        await until_ended(stage.log, 0.4)
        miners["rig2"].kill()
        await until_ended(stage.log, 0.5)
        await asyncio.to_thread(breakable_rabbitmq.settle)
        await asyncio.to_thread(breakable_rabbitmq.restart)
        stage.miner("rig2", concurrency=8)
        await submitting
        await stage.ended(jobs, SECONDS)
        await stage.ready()
        await eventually(
            lambda: len(stage.log.column("SELECT job_id FROM payments")) == JOBS, "settled", SECONDS
        )
        async with stage.client(ROOT) as admin:
            await argue(stage, admin)
            checked = await stage.check()
            assert len(set(jobs)) == JOBS == sum(checked.states().values())
            compare(stage.log, {a["party"]: a async for a in admin.accounts.list()})
            await compare_statements(stage.log, admin)
        assert sum(entry.data["jobs"] for entry in stage.log.entries("account.held.v1")) == JOBS
    with open_postgres(database_url) as source:
        assert audit(source, AuditOptions(processes=0), lambda done, total: None).divergence is None


async def argue(stage: Stage, admin: AsyncCoordinator) -> None:
    """Disputes of some payments: a third stays open, a third is refunded, and a third is dismissed."""
    for number, payment in enumerate(list(payments(stage.log).values())[:30]):
        job_id, client = payment["job_id"], CLIENTS[payment["client"]]
        async with stage.client(client) as own:
            await own.accounts.dispute(job_id, "silent")
        if number % 3 == 1:
            await admin.accounts.refund(job_id)
        elif number % 3 == 2:
            await admin.accounts.dismiss(job_id)


def payments(log: Logbook) -> dict[str, dict[str, Any]]:
    """By job, in the order of the log; none is in two settlements."""
    found = [payment for entry in log.entries("payments.settled.v1") for payment in entry.data["payments"]]
    assert len({payment["job_id"] for payment in found}) == len(found)
    return {payment["job_id"]: payment for payment in found}


def compare(log: Logbook, accounts: dict[str, dict[str, Any]]) -> None:
    """Every account is what receipts, deposits and refunds say, by arithmetic of this test alone."""
    expected = Counter(dict.fromkeys(CLIENTS, DEPOSIT) | {"@outside": -2 * DEPOSIT})
    holds = {e.data["job_id"]: e.data["hold"] for e in log.entries("job.submitted.v1")}
    refunded = {e.data["job_id"] for e in log.entries("payment.refunded.v1")}
    settled = payments(log)
    assert len(settled) >= JOBS * 0.7
    unpaid = [job["job_id"] for e in log.entries("payments.settled.v1") for job in e.data["unpaid"]]
    assert len({*settled, *unpaid}) == len(settled) + len(unpaid) == JOBS
    prices = {}
    for entry in log.entries("job.completed.v1"):
        job_id, miner = entry.data["job_id"], entry.data["miner_id"].rpartition("@")[2]
        price = min(in_micros(entry.data["price"]), holds[job_id])
        if price:
            prices[job_id] = price
            fee = price * FEE_BPS // 10_000
            told = settled[job_id]
            assert (told["amount"], told["fee"], told["miner"]) == (price, fee, miner)
            assert told["attempt"] == entry.data["attempt"]
            if job_id not in refunded:
                expected.update({told["client"]: -price, miner: price - fee, "@fees": fee})
    assert prices.keys() == settled.keys()
    assert {p: a["balance"] for p, a in accounts.items()} == expected
    assert sum(a["balance"] for a in accounts.values()) == 0
    assert [a for a in accounts.values() if a["held"]] == []
    frozen = sum(a["disputed"] for a in accounts.values())
    open_disputes = {e.data["job_id"] for e in log.entries("payment.disputed.v1")}
    open_disputes -= refunded | {e.data["job_id"] for e in log.entries("payment.dismissed.v1")}
    assert frozen == sum(settled[j]["amount"] - settled[j]["fee"] for j in open_disputes) > 0


async def compare_statements(log: Logbook, admin: AsyncCoordinator) -> None:
    """The statements of all periods have each payment and each other entry of the log once, and each opening
    is a closing."""
    entries = log.entries("account.posted.v1")
    settlements = {f"payments/{e.data['number']}": e.data for e in log.entries("payments.settled.v1")}
    times = sorted(e.data["at"] for e in entries)
    ends = [times[len(times) * part // PARTS] for part in range(1, PARTS)]
    for party in {e.data["party"] for e in entries}:
        lines: list[dict[str, Any]] = []
        closing = 0
        for since, until in zip([None, *ends], [*ends, None], strict=True):
            statement = await admin.accounts.statement(party, since=moment(since), until=moment(until))
            assert statement["opening"] == closing
            closing += sum(line["amount"] for line in statement["lines"])
            assert statement["closing"] == closing
            lines += statement["lines"]
        mine = [e.data for e in entries if e.data["party"] == party]
        told = [(line["job_id"], line["amount"]) for line in lines]
        assert told == [one for data in mine for one in lines_of(data, settlements)]
        assert [line["balance"] for line in lines] == list(accumulate(line["amount"] for line in lines))
        assert closing == mine[-1]["balance"]


def lines_of(entry: dict[str, Any], settlements: dict[str, dict[str, Any]]) -> list[tuple[str | None, int]]:
    """Job and amount of each line that an entry of the log is in a statement."""
    if entry["kind"] != "payment":
        return [(entry["job_id"], entry["amount"])]
    party, lines = entry["party"], []
    for payment in settlements[entry["posting"]]["payments"]:
        if party == "@fees":
            amount = payment["fee"]
        elif entry["amount"] < 0:
            amount = -payment["amount"] if payment["client"] == party else 0
        else:
            amount = payment["amount"] - payment["fee"] if payment["miner"] == party else 0
        if amount:
            lines.append((payment["job_id"], amount))
    return lines


def moment(millis: int | None) -> str | None:
    """As RFC 3339."""
    return None if millis is None else rfc3339(base.moment(millis))
