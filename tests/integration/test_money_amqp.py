"""Commands about money over RabbitMQ: as over HTTP, and from nobody who may not send them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.integration.edge_bench import Bench, an_edge
from tests.integration.test_inbox import Sender
from tests.integration.test_money import HOSTILE, JOB, deposit, money_of, register, work

DEPOSIT = {"party": "alice", "amount": 2_000_000, "business_id": "d1"}
NOBODY = str(UUID(int=5))


@pytest.fixture
async def edge(tmp_path: Path, database_url: str, amqp_url: str) -> AsyncIterator[Bench]:
    async with an_edge(tmp_path, settlement="on", database_url=database_url, amqp_url=amqp_url) as bench:
        yield bench


@pytest.fixture
async def sender(edge: Bench, amqp_url: str) -> AsyncIterator[Sender]:
    sender = Sender(amqp_url)
    await sender.start()
    yield sender
    await sender.stop()


async def ask(sender: Sender, who: str, kind: str, body: Any, **options: Any) -> Any:
    return await sender.ask(body, kind, who=who, secret=f"secret-of-{who}", **options)


async def test_money_moves_by_message(edge: Bench, sender: Sender) -> None:
    """A deposit, a dispute and both of its ends, and withdrawals; a repeat has no second effect."""
    for number in range(2):
        made = await ask(sender, "root", "account.deposit", DEPOSIT, message_id=f"m{number}")
        assert ("accepted", 2_000_000) == (made["status"], made["amount"])
    await edge.reached(made["position"])
    assert (2_000_000, 0, 0, 0) == await money_of(edge, "alice")
    await register(edge)
    job = await work(edge, 20)
    told = await ask(sender, "alice", "account.dispute", {"job_id": job, "reason": "silent"})
    assert ("accepted", "DISPUTED") == (told["status"], told["payment"])
    told = await ask(sender, "root", "account.dismiss", {"job_id": job})
    assert ("accepted", "PAID") == (told["status"], told["payment"])
    told = await ask(sender, "root", "account.refund", {"job_id": job})
    assert ("accepted", "REFUNDED") == (told["status"], told["payment"])
    answers = await ask(
        sender,
        "root",
        "account.withdraw",
        [{**DEPOSIT, "business_id": "w1"}, {**DEPOSIT, "business_id": "w2"}],
    )
    assert ["accepted", "refused"] == [answer["status"] for answer in answers]
    assert "INSUFFICIENT_FUNDS" == answers[1]["code"]
    await edge.reached(edge.coordinator.feed.head)
    assert (0, 0, 0, 0) == await money_of(edge, "alice")
    assert "INSUFFICIENT_FUNDS" == (await ask(sender, "alice", "job.submit", JOB, message_id="poor"))["code"]


async def test_nobody_moves_money_that_may_not(edge: Bench, sender: Sender) -> None:
    """Clients, miners and strangers are refused, and nobody settles by message; no account has changed."""
    await deposit(edge, 5)
    for who in ("alice", "rig"):
        for kind in ("deposit", "withdraw"):
            answer = await ask(sender, who, f"account.{kind}", DEPOSIT)
            assert "FORBIDDEN" == answer["code"], (who, kind)
        for kind in ("refund", "dismiss"):
            assert "FORBIDDEN" == (await ask(sender, who, f"account.{kind}", {"job_id": NOBODY}))["code"]
    for who in ("alice", "root"):
        assert (
            "FORBIDDEN"
            == (await ask(sender, who, "account.settle", {"after": 0, "jobs": [[NOBODY, 1]]}))["code"]
        )
    assert "FORBIDDEN" == (await ask(sender, "rig", "account.dispute", {"job_id": NOBODY}))["code"]
    assert "JOB_NOT_FOUND" == (await ask(sender, "bob", "account.dispute", {"job_id": NOBODY}))["code"]
    forged = await sender.ask(DEPOSIT, "account.deposit", who="root", secret="secret-of-alice")
    assert "UNAUTHORIZED_KEY" == forged["code"]
    assert (5, 0, 0, 0) == await money_of(edge, "alice")


async def test_malformed_commands_are_refused(edge: Bench, sender: Sender) -> None:
    """Hostile amounts, names, ids and members: each with its code, and an array fails singly."""
    bodies: list[Any] = [{**DEPOSIT, "amount": amount} for amount in HOSTILE]
    bodies += [{**DEPOSIT, "party": party} for party in ("", "a b", "@outside", "@nobody", None, 5, "x" * 64)]
    ids: list[Any] = ["", " ", "a\nb", "x" * 129, None, []]
    bodies += [{**DEPOSIT, "business_id": one} for one in ids]
    bodies += [{}, {"party": "alice"}, {**DEPOSIT, "more": 1}, {**DEPOSIT, "reason": "x" * 2001}]
    for kind in ("account.deposit", "account.withdraw"):
        for body in bodies:
            answer = await ask(sender, "root", kind, body)
            assert ("refused", "INVALID_PAYLOAD") == (answer["status"], answer["code"]), body
    for kind in ("account.dispute", "account.refund", "account.dismiss"):
        answers = await ask(sender, "root", kind, [{}, {"job_id": "mine"}, {"job_id": NOBODY, "more": 1}])
        assert ["INVALID_PAYLOAD"] * 3 == [answer["code"] for answer in answers]
    mixed = await ask(sender, "root", "account.deposit", [{}, DEPOSIT, {**DEPOSIT, "amount": 1}])
    assert ["refused", "accepted", "refused"] == [answer["status"] for answer in mixed]
    assert "IDEMPOTENCY_MISMATCH" == mixed[2]["code"]
    for raw in (b"", b"[]", b"{", b"5", b'"text"', b'{"party":"alice","amount":1e400,"business_id":"x"}'):
        answer = await ask(sender, "root", "account.deposit", raw)
        assert ("refused", "INVALID_PAYLOAD") == (answer["status"], answer["code"]), raw
    await edge.reached(edge.coordinator.feed.head)
    assert (2_000_000, 0, 0, 0) == await money_of(edge, "alice")
