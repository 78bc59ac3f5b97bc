"""Faults of settlement: whatever crashes, is late, lost, refused or forked, every payout is paid once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coordinator.application.money import sender as sending
from coordinator.application.ports import Clock, SinkUnavailable
from coordinator.runtime.bootstrap import SYSTEM_CLOCK
from tests.harness.bank import Bank, Behaviour
from tests.integration.edge_bench import an_edge
from tests.integration.settlement_bench import FAST, Killed, SettlementBench, settling

STEPS = (
    "settlement.close",
    "prepare",
    "settlement.prepare",
    "submit",
    "settlement.submit",
    "poll",
    "settlement.confirm",
)


class KillAt:
    """Kills a process at one of its steps."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __call__(self, step: str) -> None:
        if step == self.place:
            raise Killed(step)


async def crash(bench: SettlementBench, place: str, amount: int) -> None:
    """Let a process work until it dies at this place."""
    doomed = bench.sender(pace=FAST._replace(amount=amount), step=KillAt(place))

    async def work() -> None:
        for _ in range(60):
            await doomed.round()
            await bench.caught_up()

    with pytest.raises(Killed):
        await work()


async def outside(bench: SettlementBench) -> int:
    """All money that has left."""
    return 10**9 + await bench.balance("@outside")


@pytest.mark.parametrize("mode", ["embedded", "standard"])
async def test_a_crash_at_every_step_pays_once(
    request: pytest.FixtureRequest, tmp_path: Path, mode: str
) -> None:
    """Before and after each append and each question to the sink; another process goes on from the log."""
    urls: dict[str, Any] = {}
    if mode == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    bank = Bank(confirmations=1)
    async with settling(tmp_path, bank, **urls) as bench:
        expected = 0
        # Without servers every place; on Postgres those around an append, whose commit is another one.
        places = [f"{when} {step}" for step in STEPS for when in ("before", "after")]
        if mode == "standard":
            places = [place for place in places if "settlement." in place and place.startswith("after")]
        for number, place in enumerate(places, 1):
            await bench.earn()
            owed = await bench.balance("rig")
            expected += owed
            await crash(bench, place, 1)
            if await bench.open():
                await bench.run(bench.sender())
            if len(await bench.batches()) < number:  # it died before the close
                assert place == "before settlement.close"
                await bench.close()
                await bench.run(bench.sender())
            assert bank.paid == {"rig": expected}, place
            assert await outside(bench) == expected, place
            assert await bench.balance("rig") == 0
        kinds = await bench.kinds()
        assert kinds == {"payout": len(places), "payout_confirmed": len(places)}


SCRIPTS: list[list[Behaviour]] = [
    ["lose_answer"],
    ["lose_message"],
    ["lose_message", "lose_message", "lose_answer"],
    ["late"],
    ["late", "lose_answer"],
    ["refuse_taken"],
    ["lose_answer", "refuse_taken"],
    ["never"],
    ["never", "never"],
]


async def test_a_sink_that_answers_badly_is_paid_through_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that are lost, late, contradictory, or never come."""
    monkeypatch.setattr(sending, "SINK_SECONDS", 0.05)
    bank = Bank(confirmations=1)
    async with settling(tmp_path, bank) as bench:
        expected = 0
        for number, script in enumerate(SCRIPTS, 1):
            await bench.earn()
            expected += await bench.balance("rig")
            await bench.close()
            bank.script = list(script)
            await bench.run(bench.sender())
            assert bank.paid == {"rig": expected}, script
            assert await outside(bench) == expected, script
            assert len({payment.body for payment in bank.sent}) == number, script
        assert await bench.kinds() == {"payout": len(SCRIPTS), "payout_confirmed": len(SCRIPTS)}


async def test_a_refusal_returns_the_money_and_the_next_batch_pays_it(tmp_path: Path) -> None:
    """One payout after the other: the refused one comes back alone. It takes more than one refusal."""
    bank = Bank(per_payout=True)
    async with settling(tmp_path, bank) as bench:
        await bench.earn("rig")
        await bench.earn("other-rig")
        owed = {name: await bench.balance(name) for name in ("rig", "other-rig")}
        await bench.close()
        bank.script = ["refuse"] * 3
        ticks = [0.0]
        clock = Clock(now=SYSTEM_CLOCK.now, monotonic=lambda: ticks[0])
        sender = bench.sender(pace=FAST._replace(sure_seconds=60), clock=clock)
        await sender.round()
        for now in (0.0, 59.0):
            ticks[0] = now
            assert await sender.round() is False
            assert "the account is closed" in str(bench.part.problem)
        ticks[0] = 60.0
        assert await sender.round() is True
        await bench.run(sender)
        [batch] = await bench.batches()
        assert (batch["confirmed"], batch["refused"]) == (owed["other-rig"], owed["rig"])
        assert batch["reason"] == "the account is closed"
        assert await bench.balance("rig") == owed["rig"]
        assert [history.paid for history in bank.histories] == [{}, {}]
        await bench.close()
        await bench.run(bench.sender())
        assert bank.paid == owed
        lines = (await bench.edge.rig.get("/v1/settlements")).json()["items"]
        assert [(b["number"], b["confirmed"], b["refused"]) for b in lines] == [
            (2, owed["rig"], 0),
            (1, 0, owed["rig"]),
        ]


async def test_a_fork_sends_the_same_bytes_again(tmp_path: Path) -> None:
    """Taken, confirmed once, and then unknown: reverted, sent again, and final; paid once."""
    bank = Bank(confirmations=3)
    async with settling(tmp_path, bank) as bench:
        await bench.earn()
        owed = await bench.balance("rig")
        await bench.close()
        sender = bench.sender()
        for forks in range(3):
            while not bank.polls:
                await sender.round()
            await sender.round()
            bank.fork()
            if forks == 1:  # and the process that comes after a crash goes on
                sender = bench.sender()
        await bench.run(sender)
        assert bank.paid == {"rig": owed}
        assert len({payment.body for payment in bank.sent}) == 1
        assert len(bank.sent) == 4
        assert await outside(bench) == owed


async def test_a_stuck_payment_is_replaced_under_its_nonce(tmp_path: Path) -> None:
    """Other bytes are in the log before they are sent; whichever of the two is taken is confirmed."""
    for taken in (0, 1):
        bank = Bank(confirmations=4)
        bank.replace_after = 0
        async with settling(tmp_path / str(taken), bank) as bench:
            await bench.earn()
            owed = await bench.balance("rig")
            await bench.close()
            if taken == 1:
                bank.script = ["take", "take"]
            sender = bench.sender()
            for _ in range(4):
                await sender.round()
            if taken == 1:  # the chain drops the first one, and takes the second
                bank.fork()
                bank.arriving.clear()
            await bench.run(sender)
            [batch] = await bench.batches()
            assert bank.paid == {"rig": owed}
            [found] = bank.taken
            assert batch["hash"] == found
            assert len({payment.nonce for payment in bank.sent}) == 1


async def test_a_sink_that_is_away_replaces_nothing(tmp_path: Path) -> None:
    """Health says so, and the payment is asked for again."""
    bank = Bank(confirmations=4)
    bank.away = True
    async with settling(tmp_path, bank) as bench:
        await bench.earn()
        owed = await bench.balance("rig")
        number = await bench.close()
        sender = bench.sender()
        for _ in range(3):  # prepared, submitted, pending
            await bench.caught_up()
            went_on = await sender.round()
        assert (went_on, bench.part.problem) == (False, f"batch {number}: the bank is away")
        await bench.run(sender)
        assert (bank.paid, bench.part.ok, bench.part.failures) == ({"rig": owed}, True, 1)


async def test_two_coordinators_settle_a_batch_once(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """Both close and send at once, as if each led: one batch, one set of bytes, one payment."""
    bank = Bank(confirmations=1)
    urls = {"database_url": database_url, "amqp_url": amqp_url}
    async with settling(tmp_path, bank, **urls) as bench:
        terms = {"settlement": "on", "settlement_sink": "file", "settlement_minimum": 1, "fee_bps": 333}
        async with an_edge(tmp_path, **terms, dispute_window_seconds=0, **urls) as edge:
            other = SettlementBench(edge, bank)
            expected = 0
            for number in range(1, 6):
                await bench.earn()
                expected += await bench.balance("rig")
                await other.caught_up()
                senders = [b.sender(pace=FAST._replace(amount=1)) for b in (bench, other)]
                closes = [b.edge.admin.post("/v1/admin/settlements", json={}) for b in (bench, other)]
                await asyncio.gather(*closes, *(sender.round() for sender in senders))
                for _ in range(60):
                    await asyncio.gather(*(sender.round() for sender in senders))
                    await bench.caught_up()
                    if not await bench.open():
                        break
                assert [b["number"] for b in await bench.batches()] == list(range(number, 0, -1))
                assert bank.paid == {"rig": expected}
                assert await outside(bench) == expected
            assert await bench.kinds() == {"payout": 5, "payout_confirmed": 5}


async def test_an_admin_decides_where_the_sink_cannot(tmp_path: Path) -> None:
    """A batch of another sink stops, and says what to do; confirmed or refused by hand it goes on."""
    async with settling(tmp_path, Bank()) as bench:
        admin = bench.edge.admin
        await bench.earn()
        owed = await bench.balance("rig")
        other = Bank()
        other.name = "vault"
        for number in (1, 2):
            await bench.close()
            sender = bench.sender(sink=other)
            assert await sender.round() is False
            assert f"batch {number} was closed for the sink bank" in str(bench.part.problem)
            early = await admin.post(f"/v1/admin/settlements/{number}/confirm", json={"part": 0})
            assert early.json()["code"] == "CONFLICT_STATE"
            if number == 1:
                body = {"part": 0, "reason": "the vault is empty"}
                answer = await admin.post("/v1/admin/settlements/1/refuse", json=body)
                assert (answer.status_code, answer.json()["refused"]) == (200, owed)
                assert await bench.balance("rig") == owed
                again = await admin.post("/v1/admin/settlements/1/refuse", json=body)
                assert again.json()["code"] == "CONFLICT_STATE"
        await bench.sender().round()
        answer = await admin.post("/v1/admin/settlements/2/confirm", json={"part": 0})
        assert (answer.status_code, answer.json()["confirmed"]) == (200, owed)
        assert await outside(bench) == owed
        unknown = await admin.post("/v1/admin/settlements/9/confirm", json={"part": 0})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "BATCH_NOT_FOUND")


async def test_a_sink_that_is_down_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors and hangs while it prepares are told, and the pauses grow up to a bound."""
    bank = Bank()
    async with settling(tmp_path, bank) as bench:
        await bench.earn()
        await bench.close()

        async def broken(*arguments: Any) -> Any:
            raise SinkUnavailable("the node does not answer")

        usual = bank.prepare
        monkeypatch.setattr(bank, "prepare", broken)
        sender = bench.sender()
        for _ in range(5):
            assert await sender.round() is False
        assert "batch 1 can't be prepared: the node does not answer" in str(bench.part.problem)
        assert sender._delay == FAST.retry_seconds
        monkeypatch.setattr(bank, "prepare", usual)
        await bench.run(sender)
        assert bench.part.ok
        assert sender._delay == FAST.poll_seconds
