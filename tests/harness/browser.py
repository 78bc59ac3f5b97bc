"""A headless Chromium, and the page that verifies passports in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CHECK_MS = 30_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of its own. Fails with words where there is no Chromium."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.fail("no Chromium here: `make browser` installs it as root on Debian, or says what to do")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


class Told(NamedTuple):
    """What the page shows."""

    kind: str
    """`good`, `bad` or `open`: the colour of the verdict."""
    verdict: str
    checks: dict[str, bool]
    details: dict[str, str]
    proven: list[str]
    unproven: list[str]


class ProofPage:
    """The page, driven as its reader would."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        self._folder = folder
        self._given = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def give(self, field: str, document: Any) -> None:
        """Choose a file with this document (or these bytes)."""
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self._given += 1
        file = self._folder / f"{field}-{self._given}.json"
        file.write_bytes(content)
        self.page.set_input_files(f"#{field}", file)

    def fill(self, **fields: str) -> None:
        """Write into the fields of keys."""
        for name, text in fields.items():
            self.page.fill(f"#{name}", text)

    def told(self) -> Told:
        """The outcome, once it is there."""
        settled = "() => /^(good|bad|open)$/.test(document.getElementById('verdict').className)"
        self.page.wait_for_function(settled, timeout=CHECK_MS)
        found: dict[str, Any] = self.page.evaluate(_READ)
        return Told(**found)

    def verify(self, document: Any) -> Told:
        """The outcome for a passport."""
        self.give("file", document)
        taken = "(name) => document.getElementById('name').textContent === name"
        self.page.wait_for_function(taken, arg=f"file-{self._given}.json", timeout=CHECK_MS)
        return self.told()


_READ = """() => {
    const texts = (id) => [...document.querySelectorAll(`#${id} li`)].map((item) => item.textContent);
    const hidden = document.getElementById('found').hidden;
    const items = hidden ? [] : [...document.querySelectorAll('#checks li')];
    const verdict = document.getElementById('verdict');
    return {
        kind: verdict.className,
        verdict: verdict.textContent,
        checks: Object.fromEntries(items.map((item) => [item.dataset.check, item.className === 'good'])),
        details: Object.fromEntries(
            items.map((item) => [item.dataset.check, item.querySelector('.detail').textContent])),
        proven: hidden ? [] : texts('proven'),
        unproven: hidden ? [] : texts('unproven'),
    };
}"""
