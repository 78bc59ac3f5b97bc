"""A coordinator that is killed between any two steps of a settlement batch pays it once."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.audit.run import AuditOptions, audit
from coordinator.audit.sources.database import open_sqlite
from coordinator.storage.connections.data_directory import DATABASE_FILE
from tests.harness.executor import SERVICE
from tests.harness.stage import ALICE, ROOT, Stage
from tests.harness.waiting import eventually

STEPS = (
    "after-batch-closed",
    "after-batch-prepared",
    "after-batch-file",
    "after-batch-taken",
    "after-batch-paid",
)


@pytest.mark.timeout(300)
async def test_a_killed_coordinator_pays_each_batch_once(tmp_path: Path) -> None:
    """Killed for good after each append and after the file; the next process ends the batch that it finds."""
    folder = tmp_path / "paid"
    terms: dict[str, Any] = {"settlement": "on", "settlement_sink": "file", "settlement_dir": folder}
    terms |= {"settlement_amount": 1, "settlement_minimum": 1, "dispute_window_seconds": 0}
    with Stage(tmp_path, **terms) as stage:

        async def asked(method: str, path: str, body: Any = None, key: str = ROOT) -> Any:
            async with httpx.AsyncClient(base_url=stage.urls["main"], timeout=30) as http:
                answer = await http.request(method, path, json=body, headers={"X-Api-Key": key})
            assert answer.is_success, answer.text
            return answer.json()

        for place, step in enumerate(STEPS):
            # The batch that the process before left takes this step first, but for those that it has taken.
            process = stage.coordinator(dies=(step, 1 if place == 0 else 2))
            await stage.ready()
            if place == 0:
                money = {"amount": 10**9, "business_id": "d1"}
                await asked("POST", "/v1/admin/accounts/alice/deposits", money)
                stage.miner("rig1", transport="http")
            else:
                await eventually(partial(settled, asked, place), f"batch {place} is settled")
            await asked("POST", "/v1/jobs", {"service": SERVICE, "payload": {"seconds": 0.1}}, ALICE)
            assert await asyncio.to_thread(process.wait, 60) == -9, step
        process = stage.coordinator("main")
        await stage.ready()
        await eventually(partial(settled, asked, len(STEPS)), "the last batch is settled")
        accounts = (await asked("GET", "/v1/admin/accounts"))["items"]
        balances = {account["party"]: account["balance"] for account in accounts}
        assert sum(balances.values()) == 0
        assert balances["@settlement"] == 0
        files = sorted(folder.iterdir())
        assert [file.name for file in files] == [f"settlement-{n:06}.json" for n in range(1, len(STEPS) + 1)]
        paid = sum(json.loads(file.read_text())["total"] for file in files)
        assert paid == 10**9 + balances["@outside"] > 0
        assert 0 == process.stop()
    with open_sqlite(tmp_path / "data-main" / DATABASE_FILE) as source:
        found = audit(source, AuditOptions(processes=0), lambda done, total: None)
    assert found.divergence is None


async def settled(asked: Any, number: int) -> bool:
    return bool((await asked("GET", f"/v1/settlements/{number}"))["state"] == "SETTLED")
