"""The pages about money in a browser: for everybody, and with the keyboard alone."""

from __future__ import annotations

from pathlib import Path

import httpx
from playwright.async_api import expect

from tests.harness.dashboard import Reader, check_keyboard, check_pages, chromium, reading
from tests.harness.executor import SERVICE
from tests.harness.stage import ALICE, ROOT, Stage
from tests.harness.waiting import eventually

STRANGE = "<script>document.title='taken'</script>"


async def test_money_is_read_and_moved_by_keyboard_alone(tmp_path: Path) -> None:
    """A deposit, and a refund of a disputed payment; each page reads well in both schemes and on a phone."""
    with Stage(tmp_path) as stage:
        stage.coordinator(dies=("never", 1), settlement="on", fee_bps=1000)
        await stage.ready()
        stage.miner("rig1")
        await stage.registered("rig1")
        async with chromium() as browser, reading(browser, stage.urls["main"]) as reader:
            await reader.log_in(ROOT)
            await _deposits(reader)
            job = await _dispute(stage)
            pages = ["/money", "/money/accounts/alice", "/money/accounts/@fees"]
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
            assert "taken" not in await page.title()


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


async def _dispute(stage: Stage) -> str:
    body = {"service": SERVICE, "payload": {"seconds": 0.2}, "budget": 2_000_000}
    async with httpx.AsyncClient(base_url=stage.urls["main"], headers={"X-Api-Key": ALICE}) as http:
        answer = await http.post("/v1/jobs", json=body)
        assert answer.is_success, answer.text
        job = str(answer.json()["job_id"])

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
