"""Takes a picture of each page, in light and dark, wide and on a phone: `make screenshots`.

It runs a coordinator with two miners and makes jobs of every kind: some run, some fail, some wait.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, expect

from coordinator.client import Coordinator as Client
from coordinator.edge.dashboard.rendering import NAVIGATION
from tests.acceptance.cli_process import Coordinator, dev
from tests.harness.dashboard import DESKTOP, PHONE, START_MS, chromium, reading
from tests.harness.waiting import PATIENCE_SECONDS

FOLDER = Path("demo-output/screenshots")
JOBS = 30
MINERS = ("--miners", "2")
MONEY = {
    "SETTLEMENT": "on",
    "FEE_BPS": "250",
    "DISPUTE_WINDOW_SECONDS": "20",
    "SETTLEMENT_SINK": "file",
    "SETTLEMENT_MINIMUM": "1",
    "SETTLEMENT_EVERY_SECONDS": "0",
}
OWN_PAGES = {"CLIENT": {"spending": "/spending"}, "MINER": {"earnings": "/earnings"}}
"""Pages that an admin does not see, by role."""
_ENDS = {"job-completed": "Completed", "job-failed": "Failed"}
VIEWS = (
    ("light", "desktop", DESKTOP),
    ("dark", "desktop", DESKTOP),
    ("light", "phone", PHONE),
    ("dark", "phone", PHONE),
)


async def take(folder: Path) -> None:
    """All pictures, into this folder."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, dev(Path(place), *MINERS, **MONEY) as coordinator:
        async with chromium() as browser:
            state = await _signed_in(browser, coordinator)
            pages = await asyncio.to_thread(_stage, coordinator)
            shown = [(state, pages)]
            for role, own in OWN_PAGES.items():
                shown.append((await _logged_in(browser, coordinator, role), own))
            for (scheme, name, viewport), (state, pages) in product(VIEWS, shown):
                options = {"viewport": viewport, "color_scheme": scheme, "storage_state": state}
                async with reading(browser, coordinator.url, **options) as reader:
                    for title, path in pages.items():
                        await reader.go(path)
                        if title in _ENDS:
                            await expect(reader.page.locator("#title")).to_contain_text(_ENDS[title])
                        if await reader.page.locator("#live").count():
                            await reader.live()
                        await reader.page.wait_for_timeout(700)  # charts are drawn after their tables
                        file = folder / f"{title}-{name}-{scheme}.png"
                        await reader.page.screenshot(path=file, full_page=name == "phone")
                        await asyncio.to_thread(_shrink, file)
                        sys.stdout.write(f"{file}\n")
    sys.stdout.write(f"{sum(len(pages) for _, pages in shown) * len(VIEWS)} pictures\n")


async def _signed_in(browser: Browser, coordinator: Coordinator) -> Any:
    async with reading(browser, coordinator.url) as reader:
        await reader.page.goto(str(coordinator.about["dashboard"]))
        await expect(reader.page.locator("#fleet")).to_contain_text("2 miners", timeout=START_MS)
        return await reader.context.storage_state()


async def _logged_in(browser: Browser, coordinator: Coordinator, role: str) -> Any:
    async with reading(browser, coordinator.url) as reader:
        await reader.log_in(_key(coordinator, role))
        return await reader.context.storage_state()


def _key(coordinator: Coordinator, role: str) -> str:
    lines = (coordinator.folder / "coordinator-data" / "dev-keys.env").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith(f"{role}_API_KEYS="))


def _stage(coordinator: Coordinator) -> dict[str, str]:
    """Make jobs; the pages by the names of their pictures."""
    folder = coordinator.folder
    ramp = Image.linear_gradient("L").resize((640, 400))
    Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180))).save(folder / "in.png")
    (folder / "bad.png").write_bytes(b"not a picture")

    def submit(service: str, *arguments: str) -> str:
        ran = coordinator.run("job", "submit", service, "--json", *arguments)
        assert 0 == ran.code, ran.err
        found: str = json.loads(ran.out.splitlines()[-1])["job_id"]
        return found

    def succeeds(*arguments: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (ran := coordinator.run(*arguments)).code:
            assert time.monotonic() < deadline, ran.err

    client = _key(coordinator, "CLIENT").partition(":")[0]
    ran = coordinator.run("account", "deposit", client, "1000000", "--id", "books/2026/17")
    assert 0 == ran.code, ran.err
    with Client(coordinator.url, _key(coordinator, "ADMIN")) as admin:
        for service in ("checksum", "image_processing"):  # they are nearly free
            spec = admin.registry.show(service).spec()
            admin.registry.revise({**spec, "pricing": {**spec["pricing"], "unit": "second", "amount": "5"}})
    for number in range(JOBS):
        submit("checksum", "--payload", json.dumps({"text": f"text {number}"}))
    picture = submit("image_processing", "--file", "images=in.png", "--payload", '{"output_format": "webp"}')
    failed = submit("image_processing", "--file", "images=bad.png", "--max-attempts", "2")
    for _ in range(3):
        waiting = submit(
            "image_processing",
            "--file",
            "images=in.png",
            "--constraints",
            '{"min_vram_gb": 24}',
            "--ttl",
            "86400",
        )
    submit("llm_inference", "--payload", '{"model": "llama-7b", "prompt": "hi"}')
    succeeds("settlement", "close")
    late = submit("image_processing", "--file", "images=in.png", "--payload", '{"output_format": "webp"}')
    succeeds("account", "dispute", late, "--reason", "it is too dark")
    return {
        **{name.lower().replace(" ", "-"): path for name, path, roles in NAVIGATION if "admin" in roles},
        "settlement-batch": "/money/batches/1",
        "job-disputed": f"/jobs/{late}",
        "account": f"/money/accounts/{client}",
        "job-waits": f"/jobs/{waiting}",
        "job-failed": f"/jobs/{failed}",
        "job-completed": f"/jobs/{picture}",
        "miner": "/miners/miner-1@dev-miner",
        "service": "/services/image_processing",
        "settings": "/admin/settings",
        "batch-plan": "/batches/new?kind=cancel&q=state:queued",
    }


def _shrink(file: Path) -> None:
    """Without what a browser leaves in: transparency, and room for a better compression."""
    with Image.open(file) as picture:
        plain = picture.convert("RGB")
    plain.save(file, optimize=True)


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if not re.match("-", argument)]
    asyncio.run(take(Path(given[0]) if given else FOLDER))
