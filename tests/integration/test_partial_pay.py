"""Work on a cancelled job: paid by its miner's partial statement where the operator wants it, else free."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from coordinator.crypto.keys import SigningKey
from coordinator.crypto.statement import sign_statement
from coordinator.domain.messages import Millis
from coordinator.projections.projector import differences
from tests.harness.waiting import eventually
from tests.integration.edge_bench import Bench, an_edge
from tests.integration.test_money import (
    HOLD,
    JOB,
    MODES,
    clean,
    deposit,
    money_of,
    register,
    settled,
    work,
)

WORKED = 200
"""Milliseconds of work before a cancellation."""


@pytest.fixture(params=MODES)
async def where(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    urls: dict[str, Any] = {}
    if request.param == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    terms = {"settlement": "on", "fee_bps": 1000, "partial_pay_seconds": 60}
    return {"directory": tmp_path, **terms, **urls}


async def cancelled_at_work(edge: Bench) -> dict[str, Any]:
    """A job that was cancelled while its miner worked on it: its offer."""
    job = await edge.submit(edge.alice, **JOB)
    offer = await edge.poll()
    session = (await edge.admin.get("/v1/miners/rig")).json()["session_id"]
    await asyncio.sleep(WORKED / 1000)
    assert (await edge.alice.post(f"/v1/jobs/{job['job_id']}/cancel")).status_code == 200
    return {**offer, "session_id": session}


def partial(edge: Bench, offer: dict[str, Any], worked: Millis, **changes: Any) -> dict[str, Any]:
    """The body of a bill for so much work."""
    stopped = 1_769_860_800_000
    statement = {
        "version": "1 partial",
        "job_id": offer["job_id"],
        "attempt": offer["attempt"],
        "miner_id": "rig",
        "session_id": offer["session_id"],
        "service": offer["service"],
        "payload_digest": offer["payload_digest"],
        "started_at_ms": stopped - worked,
        "stopped_at_ms": stopped,
    }
    key = changes.pop("key", edge.keys["rig"])
    signed = sign_statement(key, {**statement, **changes})
    return {"attempt": offer["attempt"], "statement": signed}


async def bill(edge: Bench, offer: dict[str, Any], body: dict[str, Any]) -> tuple[int, str]:
    """The answer, once the job is settled: its status, and what became of the payment, or the code."""
    for _ in range(100):
        answer = await edge.rig.post(f"/v1/miners/{offer['job_id']}/bill", json=body)
        if answer.json().get("code") != "JOB_NOT_FOUND":
            break
        await asyncio.sleep(0.1)
    told = answer.json()
    if answer.status_code == 200:
        await edge.reached(told["position"])
    return answer.status_code, told.get("payment") or told["code"]


async def test_the_work_is_paid_once_within_what_the_coordinator_saw(where: dict[str, Any]) -> None:
    """A miner that states a year is paid for what it could have done; a repeat pays nothing; all adds up."""
    async with an_edge(**where) as edge:
        await deposit(edge, 10 * HOLD)
        await register(edge)
        offer = await cancelled_at_work(edge)
        assert await bill(edge, offer, partial(edge, offer, 365 * 86_400_000)) == (200, "PAID")
        for _ in range(2):
            assert await bill(edge, offer, partial(edge, offer, 7)) == (200, "PAID")
        available, held, pending, disputed = await money_of(edge, "alice")
        price = 10 * HOLD - available
        assert (held, pending, disputed) == (0, 0, 0)
        assert WORKED * 500 <= price < HOLD
        fee = price // 10
        assert await money_of(edge, "rig") == (0, 0, price - fee, 0)
        assert await money_of(edge, "@fees") == (0, 0, fee, 0)

        less = await cancelled_at_work(edge)
        assert await bill(edge, less, partial(edge, less, 10)) == (200, "PAID")
        assert (await money_of(edge, "alice"))[0] == available - 5_000
        statement = (await edge.alice.get("/v1/accounts/me/statements")).json()
        lines = [line for line in statement["lines"] if line["kind"] == "payment"]
        assert [line["amount"] for line in lines] == [-price, -5_000]
        assert [(line["job_id"], line["units"], line["receipt_id"]) for line in lines][1:] == [
            (less["job_id"], "0.010", None)
        ]

        # The client may dispute it, and an admin gives its money back, as for any payment.
        disputed_one = await edge.alice.post(f"/v1/jobs/{offer['job_id']}/dispute", json={"reason": "idle"})
        assert disputed_one.json()["payment"] == "DISPUTED"
        refunded = await edge.admin.post(f"/v1/admin/jobs/{offer['job_id']}/refund", json={})
        assert refunded.json()["payment"] == "REFUNDED"
        await edge.reached(refunded.json()["position"])
        assert (await money_of(edge, "alice"))[0] == 10 * HOLD - 5_000
        assert await money_of(edge, "rig") == (0, 0, 4_500, 0)
        assert list(differences(edge.coordinator.adapters.log, edge.coordinator.adapters.reads)) == []
    clean(where)


async def test_only_the_signed_statement_of_the_cancelled_attempt_counts(where: dict[str, Any]) -> None:
    """Other keys, names and jobs, statements of results, other shapes: refused, and the hold waits."""
    async with an_edge(**where) as edge:
        await deposit(edge, 10 * HOLD)
        await register(edge)
        done = await work(edge, 20)
        offer = await cancelled_at_work(edge)
        good = partial(edge, offer, 50)
        wrong: Sequence[tuple[dict[str, Any], str]] = [
            (partial(edge, offer, 50, key=SigningKey.generate()), "INVALID_STATEMENT"),
            (partial(edge, offer, 50, job_id=done), "INVALID_STATEMENT"),
            (partial(edge, offer, 50, attempt=2), "INVALID_STATEMENT"),
            (partial(edge, offer, 50, payload_digest="0" * 64), "INVALID_STATEMENT"),
            (partial(edge, offer, 50, version="1"), "INVALID_STATEMENT"),
            (partial(edge, offer, 50, result_digest="0" * 64), "INVALID_STATEMENT"),
            (
                {**good, "statement": {**good["statement"], "stopped_at_ms": 1_769_860_900_000}},
                "INVALID_STATEMENT",
            ),
            ({**good, "statement": {}}, "INVALID_STATEMENT"),
            ({**good, "statement": {"signature": 7}}, "INVALID_STATEMENT"),
            ({**good, "attempt": 2}, "STALE_ATTEMPT"),
            ({**good, "session_id": "another-session"}, "STALE_ATTEMPT"),
        ]
        for body, code in wrong:
            status, told = await bill(edge, offer, body)
            assert (status >= 400, told) == (True, code), body
        completed = await edge.rig.post(f"/v1/miners/{done}/bill", json=good)
        assert completed.json()["code"] == "STALE_ATTEMPT"
        assert (await money_of(edge, "alice"))[1] == HOLD

        async def waits() -> bool:
            holds = (await edge.alice.get("/v1/accounts/me/statements")).json()["holds"]
            return [hold["job_id"] for hold in holds] == [offer["job_id"]]

        await eventually(waits, "the hold waits for a statement")
        # Nothing was done: the hold ends, and nobody is paid.
        assert await bill(edge, offer, partial(edge, offer, 0)) == (200, "RELEASED")
        await settled(edge)
        status, told = await bill(edge, offer, good)
        assert (status, told) == (409, "CONFLICT_STATE")
        # A job that nobody worked on is settled at once.
        unclaimed = await edge.submit(edge.alice, **JOB)
        await edge.alice.post(f"/v1/jobs/{unclaimed['job_id']}/cancel")
        await settled(edge)
    clean(where)


async def test_a_hold_waits_no_longer_than_it_is_told(where: dict[str, Any]) -> None:
    """No statement comes, and the process that kept the hold is gone: the next one ends it."""
    async with an_edge(**{**where, "partial_pay_seconds": 2}) as edge:
        await deposit(edge, 10 * HOLD)
        await register(edge)
        offer = await cancelled_at_work(edge)
        body = partial(edge, offer, 50)
        assert await edge.coordinator.watermarks.reached("settler", edge.coordinator.feed.head, 30)
        assert (await money_of(edge, "alice"))[1] == HOLD
    async with an_edge(**{**where, "partial_pay_seconds": 2}) as edge:
        await settled(edge)
        assert await money_of(edge, "alice") == (10 * HOLD, 0, 0, 0)
        late = await edge.rig.post(
            f"/v1/miners/{offer['job_id']}/bill", json={**body, "session_id": body["statement"]["session_id"]}
        )
        assert late.json()["code"] == "CONFLICT_STATE"
    clean(where)


async def test_without_the_setting_work_on_cancelled_jobs_is_free(where: dict[str, Any]) -> None:
    async with an_edge(**{**where, "partial_pay_seconds": 0}) as edge:
        await deposit(edge, 10 * HOLD)
        await register(edge)
        offer = await cancelled_at_work(edge)
        await settled(edge)
        assert await bill(edge, offer, partial(edge, offer, 50)) == (409, "CONFLICT_STATE")
        assert await money_of(edge, "alice") == (10 * HOLD, 0, 0, 0)
    clean(where)
