"""Money under abuse: floods, replays, hostile names, bills of a year, and clocks that jump."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from coordinator.application.ports import Intent
from coordinator.domain.account import AccountSettle
from coordinator.domain.errors import Code
from coordinator.domain.messages import SYSTEM
from coordinator.edge.http.reads import accounts as reads
from coordinator.runtime.settings import load_settings
from coordinator.wire.amqp.rpc import AmqpRpc
from coordinator.wire.answers import Refused
from tests.integration.edge_bench import Bench, an_edge, key_of
from tests.integration.test_money import (
    HOLD,
    JOB,
    RESULT,
    clean,
    deposit,
    money_of,
    register,
    settle_nothing,
    settled,
    work,
)

YEAR_MS = 365 * 24 * 3600 * 1000
FLOOD = 600


async def test_a_flood_of_submits_without_money_costs_nobody_else(tmp_path: Path) -> None:
    """Each is refused, nothing of it is kept, and another client's job is accepted meanwhile."""
    async with an_edge(tmp_path, settlement="on") as edge:
        await deposit(edge, HOLD)
        await deposit(edge, HOLD, party="bob")
        bus = edge.coordinator.bus
        before, head = bus.metrics().cached, edge.coordinator.feed.head

        async def flood() -> list[int]:
            answers = await asyncio.gather(*(edge.alice.post("/v1/jobs", json=JOB) for _ in range(FLOOD)))
            return [answer.status_code for answer in answers]

        flooding = asyncio.create_task(flood())
        await asyncio.sleep(0)
        assert (await edge.bob.post("/v1/jobs", json=JOB)).status_code == 201
        codes = await flooding
        assert (codes.count(201), codes.count(402)) == (1, FLOOD - 1)
        assert edge.coordinator.feed.head - head == 4  # two holds, two jobs
        assert bus.metrics().cached - before <= 4
        assert await money_of(edge, "alice") == (0, HOLD, 0, 0)


async def test_a_bill_of_a_year_is_what_the_coordinator_saw(tmp_path: Path) -> None:
    """The miner is paid from its claim on, and never more than the hold."""
    async with an_edge(tmp_path, settlement="on") as edge:
        await deposit(edge, 10 * HOLD)
        await register(edge)
        begun = time.monotonic()
        await edge.submit(edge.alice, **JOB)
        offer = await edge.poll()
        await asyncio.sleep(0.02)
        answer = await edge.complete(offer, RESULT, worked_ms=YEAR_MS)
        seen_ms = int((time.monotonic() - begun) * 1000) + 1
        await settled(edge)
        earned = (await money_of(edge, "rig"))[2]
        assert answer.status_code == 200
        assert 0 < earned <= min(HOLD, seen_ms * 500)
    clean({"directory": tmp_path})


@pytest.mark.parametrize("kind", ["deposits", "withdrawals"])
async def test_one_transfer_of_many_with_the_same_id_is_made(
    tmp_path: Path, database_url: str, amqp_url: str, kind: str
) -> None:
    """Over HTTP and AMQP at once, by two coordinators, with two amounts: one of them counts, once."""
    urls = {"database_url": database_url, "amqp_url": amqp_url}
    where: dict[str, Any] = {"directory": tmp_path, "settlement": "on", **urls}
    command = {"deposits": "account.deposit", "withdrawals": "account.withdraw"}[kind]
    async with an_edge(**where) as edge, an_edge(**where) as other:
        await deposit(edge, 1000, "first")
        rpc = AmqpRpc(amqp_url, key_of("root"))
        async with rpc:

            async def by_http(bench: Bench, amount: int) -> tuple[int, bool, str]:
                body = {"amount": amount, "business_id": "same"}
                answer = await bench.admin.post(f"/v1/admin/accounts/alice/{kind}", json=body)
                return amount, answer.status_code == 200, answer.json().get("code", "")

            async def by_amqp(amount: int) -> tuple[int, bool, str]:
                body = {"party": "alice", "amount": amount, "business_id": "same"}
                answer = await rpc.call(command, body)
                return amount, answer["status"] == "accepted", answer.get("code", "")

            sends = [by_http(bench, amount) for _ in range(6) for bench in (edge, other) for amount in (5, 6)]
            answers = await asyncio.gather(*sends, *(by_amqp(amount) for _ in range(6) for amount in (5, 6)))
        [amount] = {amount for amount, accepted, _ in answers if accepted}
        assert {code for _, accepted, code in answers if not accepted} <= {
            "IDEMPOTENCY_MISMATCH",
            "UNAVAILABLE",
        }
        await edge.reached(edge.coordinator.feed.head)
        total = 1000 + (amount if kind == "deposits" else -amount)
        assert (await money_of(edge, "alice"))[0] == total
        assert (await money_of(edge, "@outside"))[0] == -total
    clean(where)


async def test_two_coordinators_that_settle_a_job_at_once_pay_it_once(
    tmp_path: Path, database_url: str, amqp_url: str
) -> None:
    """Both decide on the same states, and the log takes one of the decisions."""
    urls = {"database_url": database_url, "amqp_url": amqp_url}
    where: dict[str, Any] = {"directory": tmp_path, "settlement": "on", **urls}
    async with an_edge(**where) as edge, an_edge(**where) as other:
        for bench in (edge, other):
            settle_nothing(bench)
        await deposit(edge, 10 * HOLD)
        await register(edge)
        jobs = [UUID(await edge.finish(edge.alice, RESULT, **JOB)) for _ in range(10)]
        log = edge.coordinator.adapters.log
        due = [(job_id, log.load([job_id])[job_id][-1].position) for job_id in jobs]
        for number in range(0, 10, 2):
            # Their lists differ, and what was settled before is in some of them.
            lists = [tuple(due[begin:end]) for begin in (0, number) for end in (number + 1, number + 2)]
            commands = [Intent(AccountSettle(after=0, jobs=jobs), SYSTEM) for jobs in lists]
            answers = await asyncio.gather(
                *(b.coordinator.gateway.handle([c]) for c in commands for b in (edge, other))
            )
            # One that lost every try is refused with the advice to send it again.
            refused = [answer for [answer] in answers if isinstance(answer, Refused)]
            assert len(refused) < len(answers)
            assert all(answer.code is Code.UNAVAILABLE for answer in refused)
            last = AccountSettle(after=0, jobs=tuple(due[number : number + 2]))
            await edge.coordinator.gateway.handle([Intent(last, SYSTEM)])
        await edge.reached(edge.coordinator.feed.head)
        entries = (await edge.alice.get("/v1/accounts/me/entries")).json()["items"]
        paid = Counter(e["job_id"] for e in entries if e["kind"] == "payment")
        assert paid == {str(job_id): 1 for job_id in jobs}
        await settled(edge)
    clean(where)


async def test_a_flood_of_disputes_changes_nothing(tmp_path: Path) -> None:
    """One dispute is one event; those of unknown jobs and of other clients' are refused alike."""
    async with an_edge(tmp_path, settlement="on") as edge:
        await deposit(edge, 10 * HOLD)
        await register(edge)
        job_id = await work(edge, 20)
        head = edge.coordinator.feed.head
        own = await asyncio.gather(
            *(edge.alice.post(f"/v1/jobs/{job_id}/dispute", json={}) for _ in range(50))
        )
        assert {answer.status_code for answer in own} == {200}
        assert edge.coordinator.feed.head - head == 2
        unknown = "01890a5d-ac96-774b-bcce-b302099a8057"
        for client, job in ((edge.bob, job_id), (edge.alice, unknown), (edge.bob, unknown)):
            answers = await asyncio.gather(
                *(client.post(f"/v1/jobs/{job}/dispute", json={}) for _ in range(50))
            )
            assert {(a.status_code, a.json()["code"]) for a in answers} == {(404, "JOB_NOT_FOUND")}
        assert edge.coordinator.feed.head - head == 2
        too_long = await edge.alice.post(f"/v1/jobs/{job_id}/dispute", json={"reason": "x" * 100_000})
        assert too_long.status_code == 422


NAMES = [
    "@thief",
    "@Fees",
    "@fees ",
    "alice\n",
    "a/../b",
    "ålice",
    "\N{SNOWMAN}",
    "%00",
    "x" * 10_000,
    " ",
    "*",
]


async def test_hostile_names_have_no_account(tmp_path: Path) -> None:
    """No key can be the coordinator's own accounts, and no other name is one."""
    for name in ("@fees", "@outside", "ålice", "x" * 10_000):
        with pytest.raises(Exception, match=r"(?i)client_api_keys|name"):
            load_settings(data_dir=tmp_path, client_api_keys=f"{name}:secret-of-it")
    async with an_edge(tmp_path, settlement="on") as edge:
        for name in NAMES:
            path = f"/v1/admin/accounts/{quote(name, safe='')}"
            answers = [
                await edge.admin.get(path),
                await edge.admin.get(f"{path}/statements"),
                await edge.admin.post(f"{path}/deposits", json={"amount": 1, "business_id": "d"}),
            ]
            assert {a.status_code for a in answers} <= {404, 422}, name
        for name in ("@fees", "@outside", *NAMES):
            made = await edge.admin.post("/v1/admin/keys", json={"name": name, "role": "client"})
            assert made.status_code == 422, name
        assert (await edge.admin.get("/v1/admin/accounts")).json()["items"] == []


PERIODS: list[dict[str, Any]] = [
    {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z"},
    {"from": "9999-12-31T23:59:59Z", "to": "0001-01-01T00:00:00Z"},
    {"from": "-1"},
    {"from": "9" * 5000},
    {"from": "99999999999999999999"},
    {"to": "1e400"},
    {"to": "2026-01-01T00:00:00+99:99"},
]


async def test_a_statement_of_any_period_is_answered(tmp_path: Path) -> None:
    """All times there are, none, and what is no time; nothing fails."""
    async with an_edge(tmp_path, settlement="on") as edge:
        await deposit(edge, 5)
        for period in PERIODS:
            answer = await edge.alice.get("/v1/accounts/me/statements", params=period)
            assert answer.status_code in (200, 422), (period, answer.text)
            if answer.status_code == 200:
                told = answer.json()
                assert told["closing"] == told["opening"] + sum(line["amount"] for line in told["lines"])


async def test_a_clock_that_is_set_back_shows_no_negative_money(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credit that was spent is not shown as pending by a clock that is set back."""
    async with an_edge(tmp_path, settlement="on", dispute_window_seconds=1) as edge:
        await deposit(edge, 10 * HOLD)
        await register(edge)
        await work(edge, 20)
        await asyncio.sleep(2.2)
        [available, *_] = await money_of(edge, "rig")
        assert available > 0
        body = {"amount": available, "business_id": "w1"}
        paid = await edge.admin.post("/v1/admin/accounts/rig/withdrawals", json=body)
        assert paid.status_code == 200
        await edge.reached(paid.json()["position"])
        then = time.time_ns() // 1_000_000 - 3600_000
        monkeypatch.setattr(reads, "now", lambda: then)
        shown = (await edge.rig.get("/v1/accounts/me")).json()
        assert (shown["balance"], shown["available"], shown["pending"]) == (0, 0, 0)
