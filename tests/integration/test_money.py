"""Money in a whole coordinator: without servers, and on Postgres and RabbitMQ."""

from __future__ import annotations

import asyncio
import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.application.money.settler import Settler
from coordinator.application.ports import Intent
from coordinator.audit.run import AuditOptions, audit
from coordinator.audit.sources.database import open_postgres, open_sqlite
from coordinator.crypto.canonical import canonical_json
from coordinator.crypto.receipt import receipt_id
from coordinator.crypto.signature import matches
from coordinator.domain.errors import Code
from coordinator.projections.projector import differences
from coordinator.storage.connections.data_directory import DATABASE_FILE
from coordinator.wire.answers import Answer, Refused
from tests.harness.waiting import eventually
from tests.integration.edge_bench import SERVICE, Bench, an_edge

MODES = ["embedded", "standard"]
PRICE = "0.5"
"""Of a second; the checksum service bills one second at most, so that a hold is 500,000."""
HOLD = 500_000
JOB: dict[str, Any] = {
    "service": SERVICE,
    "payload": {"text": "hello"},
    "constraints": {"max_price": PRICE},
}
RESULT = {"sha256": "0" * 64, "bytes": 5}


@pytest.fixture(params=MODES)
async def where(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of a mode, with accounts."""
    urls: dict[str, Any] = {}
    if request.param == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    return {"directory": tmp_path, "settlement": "on", "fee_bps": 333, **urls}


async def deposit(edge: Bench, amount: Any, business_id: str = "d1", party: str = "alice") -> httpx.Response:
    body = {"amount": amount, "business_id": business_id}
    answer = await edge.admin.post(f"/v1/admin/accounts/{party}/deposits", json=body)
    if answer.status_code == 200:
        await edge.reached(answer.json()["position"])
    return answer


async def money_of(edge: Bench, party: str) -> tuple[int, int, int, int]:
    """Available, held, pending and disputed; their sum is the balance."""
    found = (await edge.admin.get(f"/v1/admin/accounts/{party}")).json()
    parts = found["available"], found["held"], found["pending"], found["disputed"]
    assert found["balance"] == sum(parts)
    return parts


async def register(edge: Bench) -> None:
    await edge.register(capabilities={"services": [SERVICE], "price": PRICE})


async def work(edge: Bench, worked_ms: int, **fields: Any) -> str:
    """A job that was done in so many milliseconds; it is settled."""
    job = await edge.submit(edge.alice, **{**JOB, **fields})
    offer = await edge.poll()
    await asyncio.sleep(worked_ms / 1000)  # more than the coordinator saw is not paid
    assert (await edge.complete(offer, RESULT, worked_ms=worked_ms)).status_code == 200
    await settled(edge)
    return str(job["job_id"])


async def settled(edge: Bench) -> None:
    async def nothing_held() -> bool:
        return (await money_of(edge, "alice"))[1] == 0

    await eventually(nothing_held, "no money is held")


def clean(where: dict[str, Any]) -> None:
    """The auditor, which shares no code with the writers, finds nothing."""
    url = where.get("database_url")
    database = open_postgres(url) if url else open_sqlite(where["directory"] / DATABASE_FILE)
    with database as source:
        assert audit(source, AuditOptions(processes=0), lambda done, total: None).divergence is None


def price_of(statement: dict[str, Any], job_id: str) -> int:
    [paid] = [x["amount"] for x in statement["lines"] if x["job_id"] == job_id and x["kind"] == "payment"]
    return -int(paid)


async def test_a_job_is_held_paid_once_disputed_and_refunded(where: dict[str, Any]) -> None:
    """From a deposit to signed statements that add up; the same after a restart; an audit is clean."""
    async with an_edge(**where) as edge:
        refused = await edge.alice.post("/v1/jobs", json=JOB)
        assert (refused.status_code, refused.json()["code"]) == (402, "INSUFFICIENT_FUNDS")
        assert f"{HOLD} is missing" in refused.json()["detail"]
        assert (await edge.alice.get("/v1/jobs")).json()["items"] == []
        assert [(await deposit(edge, 2_000_000)).status_code for _ in range(2)] == [200, 200]
        await register(edge)
        canceled = await edge.submit(edge.alice, **JOB)
        assert await money_of(edge, "alice") == (2_000_000 - HOLD, HOLD, 0, 0)
        assert (await edge.alice.post(f"/v1/jobs/{canceled['job_id']}/cancel")).status_code == 200
        await settled(edge)
        assert await money_of(edge, "alice") == (2_000_000, 0, 0, 0)

        first, second = await work(edge, 40), await work(edge, 40)
        capped = await work(edge, 40, budget=7)
        statement = (await edge.alice.get("/v1/accounts/me/statements")).json()
        prices = [price_of(statement, job) for job in (first, second, capped)]
        fees = [price * 333 // 10_000 for price in prices]
        assert prices[2:] == [7]
        assert all(20_000 <= price <= HOLD for price in prices[:2])
        earned = sum(prices) - sum(fees)
        assert await money_of(edge, "rig") == (0, 0, earned, 0)
        assert await money_of(edge, "@fees") == (0, 0, sum(fees), 0)

        refused = await edge.bob.post(f"/v1/jobs/{first}/dispute", json={})
        assert (refused.status_code, refused.json()["code"]) == (404, "JOB_NOT_FOUND")
        for _ in range(2):  # a repeat does nothing
            disputed = await edge.alice.post(f"/v1/jobs/{first}/dispute", json={"reason": "silent"})
            assert disputed.json()["payment"] == "DISPUTED"
            await edge.reached(disputed.json()["position"])
            assert (await money_of(edge, "rig"))[2:] == (earned - prices[0] + fees[0], prices[0] - fees[0])
        for _ in range(2):
            answer = await edge.admin.post(f"/v1/admin/jobs/{first}/refund", json={"reason": "=true"})
            assert answer.json()["payment"] == "REFUNDED"
        await edge.alice.post(f"/v1/jobs/{second}/dispute", json={})
        answer = await edge.admin.post(f"/v1/admin/jobs/{second}/dismiss", json={})
        assert answer.json()["payment"] == "PAID"
        await edge.reached(answer.json()["position"])
        again = await edge.alice.post(f"/v1/jobs/{second}/dispute", json={})
        assert (again.status_code, again.json()["code"]) == (409, "CONFLICT_STATE")
        kept = prices[1] + prices[2] - fees[1] - fees[2]
        assert await money_of(edge, "rig") == (0, 0, kept, 0)
        too_early = await edge.admin.post(
            "/v1/admin/accounts/rig/withdrawals", json={"amount": 1, "business_id": "w1"}
        )
        assert too_early.json()["code"] == "INSUFFICIENT_FUNDS"

    async with an_edge(**where) as edge:
        statement = (await edge.alice.get("/v1/accounts/me/statements")).json()
        signature = statement.pop("signature")
        assert signature["key_id"] == edge.coordinator.signing_key_id
        signed = b"coordinator statement 1\n" + canonical_json(statement)
        assert matches(signature["key_id"], signature["sig"], signed)
        kinds = ["deposit", "payment", "payment", "payment", "refund"]
        assert [line["kind"] for line in statement["lines"]] == kinds
        assert statement["lines"][1]["receipt_id"] == receipt_id(first, 1)
        closing = statement["opening"] + sum(line["amount"] for line in statement["lines"])
        assert closing == statement["closing"] == 2_000_000 - prices[1] - prices[2]
        table = (await edge.alice.get("/v1/accounts/me/statements", params={"format": "csv"})).text
        rows = list(csv.DictReader(io.StringIO(table)))
        assert [row["kind"] for row in rows] == ["opening", *kinds, "closing"]
        assert (rows[5]["reason"], rows[6]["balance"]) == ("'=true", str(closing))
        listed = (await edge.admin.get("/v1/admin/accounts")).json()["items"]
        assert sum(account["balance"] for account in listed) == 0
        assert list(differences(edge.coordinator.adapters.log, edge.coordinator.adapters.reads)) == []
        middle = statement["lines"][2]["at"]
        parts = [
            (await edge.alice.get("/v1/accounts/me/statements", params=p)).json()
            for p in ({"to": middle}, {"from": middle})
        ]
        assert (parts[0]["closing"], parts[1]["closing"]) == (parts[1]["opening"], closing)
    clean(where)


def settle_nothing(edge: Bench) -> None:
    """From now on its settler knows the ended jobs, and is refused."""

    async def refuse(intents: Sequence[Intent]) -> list[Answer]:
        return [Refused(Code.UNAVAILABLE, "not now")] * len(intents)

    [settler] = [r.follower for r in edge.coordinator.runners if isinstance(r.follower, Settler)]
    settler._handle = refuse


async def test_a_settlement_that_a_stop_prevented_happens_once_after_it(where: dict[str, Any]) -> None:
    """Jobs whose ends nobody has settled yet are settled by the next process, each once."""
    async with an_edge(**where) as edge:
        settle_nothing(edge)
        await deposit(edge, 10 * HOLD)
        await register(edge)
        jobs = [await edge.finish(edge.alice, RESULT, **JOB) for _ in range(3)]
        assert (await money_of(edge, "alice"))[1] == 3 * HOLD
        assert await edge.coordinator.watermarks.reached("settler", edge.coordinator.feed.head, 30)
    for _ in range(2):
        async with an_edge(**where) as edge:
            await settled(edge)
            entries = (await edge.alice.get("/v1/accounts/me/entries")).json()["items"]
            paid = Counter(entry["job_id"] for entry in entries if entry["kind"] == "payment")
            assert paid == dict.fromkeys(jobs, 1)
    clean(where)


async def test_of_many_submits_at_once_as_many_are_accepted_as_there_is_money_for(
    where: dict[str, Any],
) -> None:
    """Two processes, or one, and one account: no more is set aside than there is; keys repeat."""
    async with an_edge(**where) as edge:
        await deposit(edge, 7 * HOLD + HOLD - 1)
        others = [edge]
        two = "database_url" in where

        async def send(number: int) -> httpx.Response:
            bench = others[number % len(others)]
            headers = {"Idempotency-Key": f"job-{number % 20}"}
            return await bench.alice.post("/v1/jobs", json=JOB, headers=headers)

        if two:
            async with an_edge(**where) as other:
                others.append(other)
                answers = await asyncio.gather(*(send(number) for number in range(40)))
        else:
            answers = await asyncio.gather(*(send(number) for number in range(40)))
        assert {a.status_code for a in answers} <= {201, 402, 503}
        ids = {a.json()["job_id"] for a in answers if a.status_code == 201}
        # A conflict that lasts is answered as such, and its repeat finds the money.
        for number in range(20):
            answer = await edge.alice.post("/v1/jobs", json=JOB, headers={"Idempotency-Key": f"job-{number}"})
            ids |= {answer.json()["job_id"]} if answer.status_code == 201 else set()
        assert len(ids) == 7
        await edge.reached(edge.coordinator.feed.head)
        assert await money_of(edge, "alice") == (HOLD - 1, 7 * HOLD, 0, 0)
    clean(where)


HOSTILE: list[Any] = [-1, 0, 1.5, "5", True, None, 10**15 + 1, 2**63, 10**30, [], {}, 1e300]


async def test_nobody_sees_or_moves_what_is_not_its_own(tmp_path: Path) -> None:
    """Clients and miners see their own account alone, only an admin moves money; hostile amounts fail."""
    async with an_edge(tmp_path, settlement="on") as edge:
        await deposit(edge, 5)
        for path in ("accounts", "accounts/alice", "accounts/alice/entries", "accounts/alice/statements"):
            for client in (edge.alice, edge.bob, edge.rig):
                assert (await client.get(f"/v1/admin/{path}")).status_code == 403
        for kind in ("deposits", "withdrawals"):
            for client in (edge.alice, edge.rig):
                body = {"amount": 5, "business_id": "x"}
                assert (await client.post(f"/v1/admin/accounts/alice/{kind}", json=body)).status_code == 403
            for amount in HOSTILE:
                body = {"amount": amount, "business_id": "x"}
                answer = await edge.admin.post(f"/v1/admin/accounts/alice/{kind}", json=body)
                assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD"), amount
        for amount in HOSTILE:
            if amount is not None:  # no budget
                answer = await edge.alice.post("/v1/jobs", json={**JOB, "budget": amount})
                assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD"), amount
        other = await deposit(edge, 6)
        assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_MISMATCH")
        outside = await edge.admin.post(
            "/v1/admin/accounts/@outside/withdrawals", json={"amount": 1, "business_id": "x"}
        )
        assert outside.status_code == 422
        assert (await edge.rig.get("/v1/accounts/me")).json()["party"] == "rig"
        assert (await edge.bob.get("/v1/accounts/me/entries")).json()["items"] == []
        assert await money_of(edge, "alice") == (5, 0, 0, 0)


async def test_a_quote_is_what_the_submit_sets_aside(tmp_path: Path) -> None:
    """At most so much, and at which miners; an invalid job is refused as its submit would be."""
    async with an_edge(tmp_path, settlement="on") as edge:
        await deposit(edge, 10 * HOLD)
        session = await edge.register(capabilities={"services": [SERVICE], "price": "0.2"})
        assert session["state"] == "ONLINE"

        async def seen() -> bool:
            return bool((await edge.alice.post("/v1/quote", json=JOB)).json()["miners"])

        await eventually(seen, "the miner is known")
        quote = (await edge.alice.post("/v1/quote", json=JOB)).json()
        assert quote["miners"] == [{"unit_price": "0.2", "miners": 1, "at_most": 200_000}]
        assert (quote["at_most"], quote["max_units"], quote["price_limit"]) == (HOLD, "1.000", PRICE)
        await edge.submit(edge.alice, **JOB)
        assert (await money_of(edge, "alice"))[1] == quote["at_most"]
        bad = await edge.alice.post("/v1/quote", json={**JOB, "payload": {"words": "hello"}})
        assert (bad.status_code, bad.json()["code"]) == (422, "INVALID_PAYLOAD")
        unknown = await edge.alice.post("/v1/quote", json={**JOB, "service": "nothing"})
        assert unknown.json()["code"] == "SERVICE_NOT_FOUND"


async def test_without_accounts_nothing_changes(edge: Bench) -> None:
    """A submit needs no money and holds none, and the endpoints say what to set."""
    job = await edge.submit(edge.alice, **JOB)
    history = (await edge.alice.get(f"/v1/jobs/{job['job_id']}/history")).json()
    assert history["entries"][0]["event"]["hold"] is None
    for answer in (await edge.alice.get("/v1/accounts/me"), await deposit(edge, 5)):
        assert answer.status_code == 409
        assert "SETTLEMENT=on" in answer.json()["detail"]
    assert "settler" not in [runner.follower.name for runner in edge.coordinator.runners]
