"""Open pages in both modes: what happens is on them as it happens, and ends with the right to see it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Route, expect

from tests.harness.dashboard import chromium, reading
from tests.harness.executor import SERVICE
from tests.harness.stage import ALICE, BOB, ROOT, Stage

STRANGE = "<img src=x onerror=document.title='taken'><script>document.title='taken'</script>"


@pytest.mark.parametrize("mode", ["embedded", "standard"])
async def test_pages_follow_what_happens(request: pytest.FixtureRequest, tmp_path: Path, mode: str) -> None:
    """Text as it is written, states as they change, newer jobs behind a line; a revoked key ends all."""
    urls: dict[str, str] = {}
    if mode == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    with Stage(tmp_path, **urls) as stage:
        stage.coordinator(dies=("never", 1))
        await stage.ready()
        stage.miner("rig1")
        await stage.registered("rig1")
        key, key_id = await _new_key(stage)
        url = stage.urls["main"]
        async with (
            chromium() as browser,
            reading(browser, url) as carol,
            reading(browser, url) as root,
            stage.client(key) as client,
        ):
            await carol.log_in(key)
            await root.log_in(ROOT)
            # 1. Text as a miner writes it, and the end, without a reload.
            job = await client.submit(SERVICE, {"tokens": 40, "pause": 0.01, "until": "go", "note": STRANGE})
            await carol.go(f"/jobs/{job.job_id}")
            await root.go(f"/jobs/{job.job_id}")
            for reader in (carol, root):
                await reader.live()
                await expect(reader.page.locator("#title")).to_contain_text("Runs")
                await expect(reader.page.locator("#progress pre")).to_contain_text("token 39")
            stage.release("go")
            for reader in (carol, root):
                await expect(reader.page.locator("#title")).to_contain_text("Completed")
                await expect(reader.page.locator("#result")).to_contain_text("onerror")
                await expect(reader.page.locator("#progress")).to_be_empty()
            assert "taken" not in await carol.page.title()

            # 2. A list stays as it is read; what is newer waits behind a line.
            await carol.go("/jobs")
            await root.go("/jobs")
            await carol.live()
            await root.live()
            held = await client.submit(SERVICE, {"until": "never"})
            async with stage.client(BOB) as bob:
                other = await bob.submit(SERVICE, {"fail": "final"})
            await expect(carol.page.locator("#newer")).to_have_text("1 newer: show")
            await expect(root.page.locator("#newer")).to_have_text("2 newer: show")
            await expect(root.page.locator("tbody tr")).to_have_count(1)
            await root.page.locator("#newer a").click()
            await expect(root.page.locator("tbody tr")).to_have_count(3)
            await expect(root.page.locator(f"#job-{held.job_id}")).to_contain_text("running")
            await root.live()
            await client.job(held.job_id).cancel("enough")
            await expect(root.page.locator(f"#job-{held.job_id}")).to_contain_text("canceled")

            # 3. A client sees nothing of another one's job, not even that it exists.
            answer = await carol.page.goto(f"{url}/jobs/{other.job_id}")
            assert answer is not None
            assert 404 == answer.status
            await expect(carol.page.locator("main p[role=alert]")).to_contain_text("No such job")
            assert [
                "error: Failed to load resource: the server responded with a status of 404 (Not Found)"
            ] == (carol.complaints)
            carol.complaints.clear()

            # 4. The end of a key is the end of its pages.
            await carol.go("/")
            await carol.live()
            await _revoke(stage, key_id)
            await expect(carol.page.get_by_label("API key")).to_be_visible()
            await carol.page.get_by_label("API key").fill(key)
            # The browser tells of the answer in its console, too: before or after the answer itself.
            async with (
                carol.page.expect_event("console"),
                carol.page.expect_response("**/login") as answered,
            ):
                await carol.page.get_by_role("button", name="Log in").click()
            assert 401 == (await answered.value).status
            carol.complaints.clear()

            # 5. A coordinator that restarts: the page says so, and goes on by itself.
            await root.go("/")
            await root.live()
            stage.processes[0].kill()
            await expect(root.page.locator("#live-word")).to_contain_text("not live")
            stage.coordinator()
            await stage.ready()
            await root.live()
            async with stage.client(ALICE) as alice:
                await alice.submit(SERVICE, {"until": "never", "n": 2}, constraints={"min_vram_gb": 99})
            await expect(root.page.locator("#summary")).to_contain_text("1 job waits")
            root.complaints = [told for told in root.complaints if "ERR_" not in told and "sse" not in told]


async def _new_key(stage: Stage) -> tuple[str, str]:
    """A client's key of the log, and its id."""
    made = await _admin(stage, "/v1/admin/keys", {"name": "carol", "role": "client"})
    return str(made["key"]), str(made["key_id"])


async def _revoke(stage: Stage, key_id: str) -> None:
    await _admin(stage, f"/v1/admin/keys/{key_id}/revoke", {"reason": "lost"})


async def _admin(stage: Stage, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=stage.urls["main"], headers={"X-Api-Key": ROOT}) as http:
        answer = await http.post(path, json=body)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("late", ["none", "pages.js", "htmx.js", "uplot.min.js"])
async def test_a_page_is_live_whichever_script_comes_late(tmp_path: Path, late: str) -> None:
    """On a slow line, too, a page opens one connection, and says that it is live."""
    with Stage(tmp_path) as stage:
        stage.coordinator()
        await stage.ready()
        async with chromium() as browser, reading(browser, stage.urls["main"]) as reader:
            await reader.log_in(ROOT)
            await reader.live()
            opened: list[str] = []

            async def hold(route: Route) -> None:
                await asyncio.sleep(0.5)
                await route.continue_()

            await reader.page.route(f"**/{late}", hold)
            reader.page.on(
                "request", lambda asked: opened.append(asked.url) if "/ui/live/miners" in asked.url else None
            )
            await reader.go("/miners")
            await reader.live()
            await reader.page.wait_for_timeout(300)
    assert 1 == len(opened)
