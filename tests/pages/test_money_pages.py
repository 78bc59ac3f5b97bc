"""The pages about money in a browser: for everybody, and with the keyboard alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import expect

from tests.harness.dashboard import Reader, check_keyboard, check_pages, chromium, reading
from tests.harness.executor import SERVICE
from tests.harness.stage import ALICE, ROOT, Stage, key_of
from tests.harness.waiting import eventually

PAYS_OUT: dict[str, Any] = {
    "dispute_window_seconds": 30,
    "settlement_sink": "file",
    "settlement_minimum": 1,
    "settlement_every_seconds": 0,
}
STRANGE = "<script>document.title='taken'</script>"


async def test_money_is_read_and_moved_by_keyboard_alone(tmp_path: Path) -> None:
    """A deposit, a dispute, a refund and a payout; each page reads well in both schemes and on a phone."""
    with Stage(tmp_path) as stage:
        stage.coordinator(dies=("never", 1), settlement="on", fee_bps=1000, **PAYS_OUT)
        await stage.ready()
        stage.miner("rig1")
        await stage.registered("rig1")
        async with chromium() as browser, reading(browser, stage.urls["main"]) as reader:
            await reader.log_in(ROOT)
            await _deposits(reader)
            job = await _dispute(stage)
            await _is_paid(stage, await _submit(stage))
            pages = ["/money/accounts/alice", "/money/accounts/@fees"]
            await check_pages(reader, pages)
            await check_keyboard(reader, pages)
            await _pays_out(stage)
            pages = ["/money", "/money/batches/1", "/money/accounts/rig1"]
            await check_pages(reader, pages)
            await check_keyboard(reader, pages)
            await _refunds(reader, job)
        async with chromium() as browser, reading(browser, stage.urls["main"]) as reader:
            await reader.log_in(ALICE)
            await check_pages(reader, ["/spending"])
            await check_keyboard(reader, ["/spending"])
            page = await reader.go("/spending")
            await expect(page.get_by_role("navigation")).to_contain_text("Spending")
            await expect(page.locator(".plot canvas")).to_be_visible()
            async with page.expect_download() as receiving:
                await page.get_by_role("button", name="As a table").click()
            assert "statement-alice.csv" == (await receiving.value).suggested_filename
            await _disputes(reader, stage)
            assert "taken" not in await page.title()
        async with chromium() as browser, reading(browser, stage.urls["main"]) as reader:
            await reader.log_in(key_of("rig1"))
            await check_pages(reader, ["/earnings"])
            await check_keyboard(reader, ["/earnings"])
            page = await reader.go("/earnings")
            await expect(page.get_by_role("region", name="Paid out")).to_contain_text("file")
            await expect(page.get_by_role("region", name="Entries")).to_contain_text("batch 1")
            await expect(page.locator("main")).to_contain_text("are disputed, until an admin decides")


async def _deposits(reader: Reader) -> None:
    page = reader.page
    await reader.go("/money")
    await reader.tab_to("Direction")
    await reader.tab_to("Account:", most=1)
    await page.keyboard.type("alice")
    await reader.tab_to("Amount", most=1)
    await page.keyboard.type("12.5")
    await reader.tab_to("Id in your own books", most=1)
    await page.keyboard.type("invoice-17")
    await reader.tab_to("Reason", most=1)
    await page.keyboard.type(STRANGE)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Deposit 12.5 credits")).to_be_visible()
    await expect(page.locator("main")).to_contain_text("Nothing has happened yet")
    assert [] == await reader.faults()
    await reader.tab_to("Deposit 12.5 credits")
    assert await reader.focus_is_visible()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Account alice")).to_be_visible()
    await expect(page.get_by_role("region", name="Entries")).to_contain_text("invoice-17")
    await expect(page.get_by_role("region", name="Entries")).to_contain_text("document.title")


def _as(stage: Stage, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=stage.urls["main"], headers={"X-Api-Key": key})


async def _submit(stage: Stage) -> str:
    body = {"service": SERVICE, "payload": {"seconds": 0.2}, "budget": 2_000_000}
    async with _as(stage, ALICE) as http:
        answer = await http.post("/v1/jobs", json=body)
        assert answer.is_success, answer.text
        return str(answer.json()["job_id"])


async def _is_paid(stage: Stage, job: str) -> None:
    async with _as(stage, ALICE) as http:

        async def paid() -> bool:
            entries = (await http.get("/v1/accounts/me/entries")).json()["items"]
            return any(entry["job_id"] == job for entry in entries)

        await eventually(paid, "the job is paid")


async def _pays_out(stage: Stage) -> None:
    """Close a batch as soon as the time for disputes of a payment is over, and wait until it is paid."""
    async with _as(stage, ROOT) as http:

        async def closed() -> bool:
            return (await http.post("/v1/admin/settlements", json={"number": 1})).is_success

        async def settled() -> bool:
            answer = await http.get("/v1/settlements/1")
            return answer.is_success and answer.json()["state"] == "SETTLED"

        await eventually(closed, "the batch is closed")
        await eventually(settled, "the batch is paid")


async def _disputes(reader: Reader, stage: Stage) -> None:
    """A client disputes from the page of its job."""
    job = await _submit(stage)
    await _is_paid(stage, job)
    page = await reader.go(f"/jobs/{job}")
    await expect(page.locator("#facts")).to_contain_text("may be disputed until")
    await reader.tab_to("Dispute…")
    assert await reader.focus_is_visible()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Reason", exact=True).first).to_be_focused()
    assert [] == await reader.faults()
    await page.keyboard.type(STRANGE)
    await page.keyboard.press("Enter")
    await expect(page.locator("#facts")).to_contain_text("disputed until an admin decides")
    await expect(page.locator("#actions")).not_to_contain_text("Dispute")


async def _dispute(stage: Stage) -> str:
    job = await _submit(stage)
    async with _as(stage, ALICE) as http:

        async def disputed() -> bool:
            return (await http.post(f"/v1/jobs/{job}/dispute", json={"reason": STRANGE})).is_success

        await eventually(disputed, "the payment is disputed")
    return job


async def _refunds(reader: Reader, job: str) -> None:
    page = reader.page
    await reader.go("/")
    await expect(page.locator("#attention")).to_contain_text("1 payment is disputed")
    await reader.go("/money")
    await expect(page.get_by_role("region", name="Open disputes")).to_contain_text("document.title")
    await reader.tab_to(f"Refund… {job[:18]}")
    assert await reader.focus_is_visible()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Reason", exact=True).first).to_be_focused()
    await page.keyboard.type("it is silent")
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_contain_text("No payment is disputed")
    await expect(page.locator("main")).to_contain_text("sum to 0")
