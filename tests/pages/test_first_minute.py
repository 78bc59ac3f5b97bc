"""The first minute with `coordinator dev`: the link, a job that runs, one that fails, one that waits."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from tests.acceptance.cli_process import Coordinator, dev
from tests.harness.dashboard import START_MS, Reader, check_keyboard, check_pages, chromium, reading

MINER = "/miners/miner-1@dev-miner"
OTHERS = (
    *("/miners", "/miners?state=OFFLINE", MINER, "/classes", "/services", "/services/checksum", "/audit"),
    *("/webhooks", "/admin", "/admin/quotas", "/admin/dead", "/admin/settings"),
)


@pytest.mark.timeout(600)  # one long visit, on a machine that is busy with other tests
async def test_the_first_minute(tmp_path: Path) -> None:
    """One link and no key: results, errors, and why a job waits are on the pages as they come."""
    with dev(tmp_path, "--miners", "2") as coordinator:
        async with chromium() as browser, reading(browser, coordinator.url) as reader:
            await _sees_jobs_as_they_come(coordinator, reader)
            await _acts_by_keyboard_alone(reader)
            await _drains_and_holds_a_miner(reader)
            await _makes_a_key(reader)
            await _logs_out(reader)
            page = await reader.go("/jobs")
            await expect(page.get_by_label("API key")).to_be_focused()


async def _content(receiving: Any) -> str:
    path = await (await receiving.value).path()
    return await asyncio.to_thread(Path(path).read_text)


async def _run(coordinator: Coordinator, *arguments: str) -> Any:
    ran = await asyncio.to_thread(coordinator.run, *arguments)
    return json.loads(ran.out.splitlines()[-1]) if ran.out.startswith("{") else ran


async def _sees_jobs_as_they_come(coordinator: Coordinator, reader: Reader) -> None:
    link = str(coordinator.about["dashboard"])
    page = reader.page
    # 1. The link of the terminal, and a page that says what to do.
    await page.goto(link)
    await expect(page).to_have_url(f"{coordinator.url}/")
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await reader.live()  # also at the first visit, whose scripts arrive one after another
    await reader.go("/jobs")
    await expect(page.get_by_text("There are no jobs yet")).to_be_visible()
    await reader.go("/")
    await reader.live()
    # Once both have registered:
    await expect(page.locator("#fleet")).to_contain_text("2 miners", timeout=START_MS)
    await expect(page.locator("#summary")).to_contain_text("Nothing waits")

    # 2. A job that runs, one that fails, and one that nobody can run: the open page tells, without a reload.
    good = await asyncio.to_thread(coordinator.submit, "hello")
    (coordinator.folder / "bad.png").write_bytes(b"not a picture")
    options = ("--json", "--max-attempts", "1")
    submitted = await _run(
        coordinator, "job", "submit", "image_processing", "--file", "images=bad.png", *options
    )
    waiting = await _run(
        coordinator,
        *("job", "submit", "checksum", "--payload", '{"text": "big"}'),
        *("--constraints", '{"min_vram_gb": 24}', "--json"),
    )
    bad, stuck = submitted["job_id"], waiting["job_id"]
    await expect(page.locator("#summary")).to_contain_text("1 job waits")
    await expect(page.locator("#attention")).to_contain_text("24 GB")
    await expect(page.locator("#figures")).to_contain_text("Failed")

    # 3. Each of them.
    await reader.go(f"/jobs/{good}")
    await expect(page.locator("#title")).to_contain_text("Completed")
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    await expect(page.locator("#result")).to_contain_text(digest)
    await expect(page.locator("#events")).to_contain_text("job.completed.v1")
    async with page.expect_download() as receiving:
        await page.get_by_role("link", name="Receipt").click()
    receipt = await _content(receiving)
    assert good == json.loads(receipt)["job_id"]
    async with page.expect_download() as receiving:
        await page.get_by_role("link", name="Passport").click()
    passport = await (await receiving.value).path()
    verified = await asyncio.to_thread(
        coordinator.run,
        "passport",
        "verify",
        str(passport),
        "--trusted",
        str(coordinator.about["signing_key_id"]),
    )
    assert 0 == verified.code, verified.err

    await reader.go(f"/jobs/{bad}")
    await expect(page.locator("#title")).to_contain_text("Failed (INVALID_PAYLOAD)")
    await expect(page.locator("#attempts")).to_contain_text("is not a whole image")
    await reader.go(f"/jobs/{stuck}")
    await expect(page.locator("#title")).to_contain_text("no miner has 24 GB for it")
    await expect(page.locator("#why")).to_contain_text("without a limit of memory")

    # 4. Every page, for everybody.
    jobs = [f"/jobs/{job}" for job in (good, bad, stuck)]
    lists = ["/jobs", "/jobs?q=state:queued", "/batches", "/batches/new?kind=cancel&q=state:queued"]
    await check_pages(reader, ["/", *lists, "/jobs?q=state:nonsense", *jobs, *OTHERS])
    await check_keyboard(reader, ["/", *lists, *jobs, *OTHERS])


async def _acts_by_keyboard_alone(reader: Reader) -> None:
    """From the overview to a canceled job, and all that match submitted again, without a mouse."""
    page = reader.page
    await reader.go("/")
    await reader.tab_to("To the content", most=1)
    await page.keyboard.press("Enter")
    await reader.tab_to("1 job waits", most=3)
    assert await reader.focus_is_visible()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Query")).to_have_value("state:queued")
    job = await page.locator("tbody a").first.get_attribute("title")
    await reader.tab_to(str(job)[:18])
    await page.keyboard.press("Enter")
    await expect(page.locator("#title")).to_contain_text(str(job))
    await reader.live()
    await reader.tab_to("Cancel…")
    assert await reader.focus_is_visible()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Reason")).to_be_focused()
    await page.keyboard.type("only a trial")
    await page.keyboard.press("Enter")
    await expect(page.locator("#title")).to_contain_text("Canceled")
    await expect(page.locator("#events")).to_contain_text("only a trial")

    await reader.go("/jobs?q=state:canceled")
    await reader.tab_to("Submit all again")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("would reach 1 job")).to_be_visible()
    await reader.tab_to("Submit again: 1 job")
    await page.keyboard.press("Enter")
    await expect(page.locator("#batch")).to_contain_text("done")
    await expect(page.locator("#batch")).to_contain_text("1 of 1 jobs")
    assert [] == await reader.faults()
    await reader.go("/jobs?q=state:queued")
    await expect(page.locator("tbody tr")).to_have_count(1)


async def _drains_and_holds_a_miner(reader: Reader) -> None:
    """An operator's actions are on the pages of the fleet: here, and in the list."""
    page = reader.page
    await reader.go(MINER)
    await reader.live()
    await page.get_by_text("Drain…").click()
    await page.get_by_role("button", name="Drain").click()
    # A drained miner without work leaves at once.
    await expect(page.locator("#head")).to_contain_text(re.compile("draining|offline"))
    await page.get_by_text("Quarantine…").click()
    await page.get_by_label("Service").select_option("checksum")
    await page.get_by_label("Reason").fill("wrong digests")
    await page.get_by_role("button", name="Quarantine").click()
    await expect(page.locator("#standing")).to_contain_text("wrong digests")
    await reader.go("/miners")
    await expect(page.locator("#miners")).to_contain_text("wrong digests")
    await reader.go(MINER)
    await page.get_by_text("Release…").click()
    await page.get_by_role("button", name="Release").click()
    await expect(page.locator("#standing")).not_to_contain_text("wrong digests")


async def _makes_a_key(reader: Reader) -> None:
    """A new key's secret is shown once, and never again."""
    page = reader.page
    await reader.go("/admin")
    await page.get_by_label("Name").fill("newcomer")
    await page.get_by_role("button", name="Create").click()
    key = await page.locator("#new-key").text_content()
    assert str(key).startswith("newcomer:")
    await reader.go("/admin")
    await expect(page.locator("main")).to_contain_text("newcomer")
    assert str(key) not in await page.content()
    await page.get_by_text("Revoke…").click()
    await page.get_by_role("button", name="Revoke").click()
    await expect(page.locator("main")).to_contain_text("None yet")


async def _logs_out(reader: Reader) -> None:
    page = reader.page
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_label("API key")).to_be_visible()
    assert [] == [c for c in await reader.context.cookies() if c.get("name") == "coordinator_session"]
