"""Settlement batches in a whole coordinator: closed, sent, confirmed, and shown to their payees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.application.ports import Clock
from coordinator.runtime.bootstrap import SYSTEM_CLOCK
from coordinator.settlement.file import FileSink
from tests.harness.bank import Bank
from tests.harness.waiting import eventually
from tests.integration.edge_bench import an_edge
from tests.integration.settlement_bench import FAST, settling


@pytest.mark.parametrize("mode", ["embedded", "standard"])
async def test_a_batch_pays_what_miners_have_earned(
    request: pytest.FixtureRequest, tmp_path: Path, mode: str
) -> None:
    """Closed by an admin, written to a file, confirmed; the next batch pays what came after it."""
    urls: dict[str, Any] = {}
    if mode == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    folder = tmp_path / "paid"
    async with settling(tmp_path, FileSink(folder), **urls) as bench:
        await bench.earn("rig", 2)
        await bench.earn("other-rig")
        earned = {name: await bench.balance(name) for name in ("rig", "other-rig")}
        fees = await bench.balance("@fees")
        assert min(earned.values()) > 0
        assert await bench.close() == 1
        await bench.caught_up()
        assert [await bench.balance(name) for name in ("rig", "other-rig", "@settlement", "@fees")] == [
            0,
            0,
            sum(earned.values()),
            fees,
        ]
        await bench.run(bench.sender())
        assert await bench.balance("@settlement") == 0
        document = json.loads((folder / "settlement-000001.json").read_text())
        assert {p["party"]: p["amount"] for p in document["payouts"]} == earned

        again = await bench.edge.admin.post("/v1/admin/settlements", json={"number": 1})
        assert (again.status_code, again.json()["number"], again.json()["state"]) == (200, 1, "SETTLED")
        empty = await bench.edge.admin.post("/v1/admin/settlements", json={})
        assert (empty.status_code, empty.json()["code"]) == (409, "CONFLICT_STATE")
        await bench.earn("rig")
        later = await bench.balance("rig")
        assert await bench.close() == 2
        await bench.run(bench.sender())
        [second, first] = await bench.batches()
        assert (second["previous"], second["after"]) == (first["digest"], first["until"])
        assert (first["receipts"], second["receipts"]) == (3, 1)
        assert (second["total"], second["confirmed"], second["in_transit"]) == (later, later, 0)
        assert sorted(path.name for path in folder.iterdir()) == [
            "settlement-000001.json",
            "settlement-000002.json",
        ]


async def test_a_party_sees_its_own_payouts(tmp_path: Path) -> None:
    """An admin sees whole batches; a miner those that pay it, with its own amounts; a client none."""
    async with settling(tmp_path, Bank()) as bench:
        edge = bench.edge
        await bench.earn("rig")
        assert await bench.close() == 1
        await bench.run(bench.sender())
        await bench.earn("rig")
        await bench.earn("other-rig")
        assert await bench.close() == 2
        await bench.caught_up()
        whole = (await edge.admin.get("/v1/settlements/2")).json()
        assert [line["party"] for line in whole["lines"]] == ["rig", "other-rig"]
        assert whole["total"] == sum(line["amount"] for line in whole["lines"])
        own = (await edge.other_rig.get("/v1/settlements")).json()["items"]
        assert [(b["number"], b["payouts"], b["total"], b["in_transit"]) for b in own] == [
            (2, 1, whole["lines"][1]["amount"], whole["lines"][1]["amount"])
        ]
        shown = (await edge.other_rig.get("/v1/settlements/2")).json()
        assert [line["party"] for line in shown["lines"]] == ["other-rig"]
        for client, number in ((edge.other_rig, 1), (edge.alice, 1), (edge.admin, 3)):
            answer = await client.get(f"/v1/settlements/{number}")
            assert (answer.status_code, answer.json()["code"]) == (404, "BATCH_NOT_FOUND")
        assert (await edge.alice.get("/v1/settlements")).json()["items"] == []
        page = (await edge.admin.get("/v1/settlements?limit=1")).json()
        assert [b["number"] for b in page["items"]] == [2]
        page = (await edge.admin.get("/v1/settlements", params={"cursor": page["next_cursor"]})).json()
        assert ([b["number"] for b in page["items"]], page["next_cursor"]) == ([1], None)
        for path in ("", "/2/confirm", "/2/refuse"):
            for client in (edge.alice, edge.rig):
                answer = await client.post(
                    f"/v1/admin/settlements{path}", json={"part": 0, "reason": ""} if path else {}
                )
                assert answer.status_code == 403
        assert (await edge.rig.get("/v1/admin/settlements/secret")).status_code == 403
        secret = (await edge.admin.get("/v1/admin/settlements/secret")).json()
        assert secret["secret"].startswith("whsec_")
        await bench.run(bench.sender())


async def test_a_party_says_where_it_is_paid(tmp_path: Path) -> None:
    """The sink says which addresses are valid; without one, money waits."""
    async with settling(tmp_path, Bank(needs_address=True)) as bench:
        edge = bench.edge
        await bench.earn("rig")
        await bench.earn("other-rig")
        answer = await edge.admin.post("/v1/admin/settlements", json={})
        assert answer.json()["code"] == "CONFLICT_STATE"
        for bad in ("street 7", "", "x" * 201, 7, "=cmd()"):
            answer = await edge.rig.put("/v1/accounts/me/payout_address", json={"address": bad})
            assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD"), bad
        answer = await edge.rig.put("/v1/accounts/me/payout_address", json={"address": "house-1"})
        assert "it begins with bank-" in answer.json()["detail"]
        for _ in range(2):
            answer = await edge.rig.put("/v1/accounts/me/payout_address", json={"address": "bank-1"})
            assert (answer.json()["sink"], answer.json()["address"]) == ("bank", "bank-1")
        at_least = {"X-At-Least": str(answer.json()["position"])}
        shown = await edge.rig.get("/v1/accounts/me/payout_address", headers=at_least)
        assert shown.json() == {"sink": "bank", "address": "bank-1"}
        assert await bench.close() == 1
        await bench.run(bench.sender())
        [line] = (await edge.admin.get("/v1/settlements/1")).json()["lines"]
        assert (line["party"], line["address"], line["state"]) == ("rig", "bank-1", "PAID")
        assert await bench.balance("other-rig") > 0


async def test_batches_close_by_amount_and_by_time(tmp_path: Path) -> None:
    """A sum that is reached closes one at once; a period closes one when it is over, also after a clock that
    was set back."""
    bank = Bank()
    async with settling(tmp_path, bank) as bench:
        await bench.earn("rig")
        owed = await bench.balance("rig")
        sender = bench.sender(pace=FAST._replace(amount=owed + 1))
        assert await sender.round() is False
        sender = bench.sender(pace=FAST._replace(amount=owed))
        assert await sender.round() is True
        await bench.run(sender)
        assert bank.paid == {"rig": owed}
        now, ticks = [SYSTEM_CLOCK.now()], [0.0]
        clock = Clock(now=lambda: now[0], monotonic=lambda: ticks[0])
        sender = bench.sender(pace=FAST._replace(every_seconds=60), clock=clock)
        await bench.earn("rig")
        assert await sender.round() is False
        now[0] -= 10**9
        assert await sender.round() is False
        ticks[0] = 59.0
        assert await sender.round() is False
        ticks[0] = 60.0
        assert await sender.round() is True
        await bench.run(sender)
        assert len(await bench.batches()) == 2


async def test_a_coordinator_sends_by_itself(tmp_path: Path) -> None:
    """Nothing but settings: the file is there a moment after the money, and health and metrics know it."""
    settings: dict[str, Any] = {
        "settlement": "on",
        "settlement_sink": "file",
        "settlement_amount": 1,
        "settlement_minimum": 1,
        "settlement_file_format": "csv",
        "dispute_window_seconds": 0,
    }
    folder = tmp_path / "settlements"
    folder.mkdir(0o700)
    (folder / "settlement-000001.csv").write_text("of another coordinator")
    async with an_edge(tmp_path, **settings) as edge:
        from tests.integration.settlement_bench import SettlementBench

        bench = SettlementBench(edge, FileSink(folder))
        deposit = {"amount": 10**9, "business_id": "d1"}
        answer = await edge.admin.post("/v1/admin/accounts/alice/deposits", json=deposit)
        await edge.reached(answer.json()["position"])
        await edge.register(capabilities={"services": ["checksum"], "price": "0.5"})
        await bench.earn()

        async def told() -> bool:
            parts = (await edge.admin.get("/health")).json()["parts"]
            return "other bytes" in str(parts["settlement"])

        await eventually(told, "health shows the file that is in the way")
        text = (await edge.admin.get("/metrics")).text
        assert "coordinator_settlement_batches_open 1.0" in text
        (folder / "settlement-000001.csv").unlink()

        async def paid() -> bool:
            return bool((await bench.account("@settlement"))["balance"] == 0)

        await eventually(paid, "the batch is settled")
        assert "rig" in (folder / "settlement-000001.csv").read_text()


async def test_without_a_sink_nobody_is_paid_out(tmp_path: Path) -> None:
    """The endpoints and the commands say what to set."""
    async with an_edge(tmp_path, settlement="on") as edge:
        for answer in (
            await edge.admin.get("/v1/settlements"),
            await edge.admin.post("/v1/admin/settlements", json={}),
            await edge.rig.get("/v1/accounts/me/payout_address"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT_STATE")
            assert "SETTLEMENT_SINK" in answer.json()["detail"]
        answer = await edge.rig.put("/v1/accounts/me/payout_address", json={"address": "x"})
        assert "no settlement sink" in answer.json()["detail"]
        names = [runner.follower.name for runner in edge.coordinator.runners]
        assert "settlements" not in names
