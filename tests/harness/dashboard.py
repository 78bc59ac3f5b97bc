"""The dashboard in a headless Chromium, as its reader sees it; and what is wrong with a page."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.harness.browser import ARGUMENTS, PROGRAMS

DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
SERIOUS = ("serious", "critical")
WAIT_MS = 30_000
START_MS = 90_000
"""For miners to start and register, on a busy machine."""
expect.set_options(timeout=WAIT_MS)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser of its own. Fails with words where there is no Chromium."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.fail("no Chromium here: `make browser` installs it as root on Debian, or says what to do")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        await browser.close()


class Reader:
    """One person's browser, with all that it has asked for and complained about."""

    def __init__(self, context: BrowserContext, page: Page, url: str) -> None:
        self.context, self.page, self.url = context, page, url
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(f"{kind}: {text}")

    @property
    def strange_requests(self) -> list[str]:
        """The requests that left the origin."""
        own = urlsplit(self.url).netloc
        return [
            url for url in self.requests if urlsplit(url).scheme != "data" and urlsplit(url).netloc != own
        ]

    async def go(self, path: str) -> Page:
        await self.page.goto(self.url + path)
        return self.page

    async def log_in(self, key: str) -> None:
        await self.go("/login")
        await self.page.get_by_label("API key").fill(key)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.wait_for_url(re.compile(r"^(?!.*/login)"))

    async def live(self) -> None:
        """Until the page's stream is open."""
        await expect(self.page.locator("#live-word")).to_have_text("live")

    async def faults(self) -> list[str]:
        """What axe finds serious on the page as it is."""
        await self.page.evaluate(axe())
        found: dict[str, Any] = await self.page.evaluate(
            "(tags) => axe.run(document, {runOnly: tags, resultTypes: ['violations']})", list(TAGS)
        )
        return [
            f"{fault['id']}: {node['html'][:160]} ({node.get('failureSummary', '')[:300]})"
            for fault in found["violations"]
            if fault["impact"] in SERIOUS
            for node in fault["nodes"]
        ]

    async def overflows(self) -> bool:
        """Whether the page has to be scrolled sideways."""
        wide: bool = await self.page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        return wide

    async def tab_to(self, name: str, most: int = 60) -> list[str]:
        """Press Tab until the focus is on what has this text or label; the texts on the way."""
        way: list[str] = []
        for _ in range(most):
            await self.page.keyboard.press("Tab")
            way.append(await self.page.evaluate(_FOCUSED))
            if name in way[-1]:
                return way
        raise AssertionError(f"{name} is not reached by Tab: {way}")

    async def focus_is_visible(self) -> bool:
        """Whether what has the focus shows it by an outline."""
        shown: bool = await self.page.evaluate(
            "(() => { const s = getComputedStyle(document.activeElement);"
            " return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2; })()"
        )
        return shown


@asynccontextmanager
async def reading(browser: Browser, url: str, **options: Any) -> AsyncIterator[Reader]:
    """A reader of the dashboard at `url`. At the end nothing may have left the origin or gone wrong."""
    context = await browser.new_context(viewport=options.pop("viewport", DESKTOP), **options)
    context.set_default_timeout(WAIT_MS)
    reader = Reader(context, await context.new_page(), url)
    try:
        yield reader
    finally:
        await context.close()
    assert [] == reader.strange_requests, reader.strange_requests
    assert [] == reader.complaints, reader.complaints


@cache
def axe() -> str:
    """axe-core as its project publishes it; `scripts/vendor-dashboard.sh` fetches it."""
    return gzip.decompress((Path(__file__).parent / "axe" / "axe.min.js.gz").read_bytes()).decode()


async def check_pages(reader: Reader, paths: Sequence[str]) -> None:
    """Each page reads well for everybody: in both colour schemes, and on a phone."""
    for path in paths:
        for scheme in ("light", "dark"):
            for viewport in (DESKTOP, PHONE):
                await reader.page.emulate_media(color_scheme=scheme)
                await reader.page.set_viewport_size(viewport)  # type: ignore[arg-type]
                await reader.go(path)
                faults = await reader.faults()
                assert not faults, "\n".join([f"{path}, {scheme}, {viewport['width']} pixels wide", *faults])
                assert not await reader.overflows(), (path, viewport["width"])
    await reader.page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]


async def check_keyboard(reader: Reader, paths: Sequence[str]) -> None:
    """Tab reaches all that can be used on each page, shows where it is, and gets out again at the end."""
    for path in paths:
        page = await reader.go(path)
        await page.evaluate("document.activeElement.blur()")
        seen: set[str] = set()
        hidden: set[str] = set()
        wanted: list[str] = await page.evaluate(_USABLE)
        for _ in range(4 * len(wanted) + 40):
            await page.keyboard.press("Tab")
            focused: dict[str, Any] | None = await page.evaluate(_FOCUS)
            if focused is None:  # out of the page: round once
                break
            seen.add(focused["name"])
            if not focused["shown"]:
                hidden.add(focused["name"])
        else:
            raise AssertionError(f"{path}: Tab does not get out of the page again: {sorted(seen)}")
        # A live page may have got other elements meanwhile: those that are still there count.
        missed = set(wanted) & set(await page.evaluate(_USABLE)) - seen
        assert not missed, f"{path}: Tab does not reach {sorted(missed)}"
        assert not hidden, f"{path}: the focus is not seen on {sorted(hidden)}"


_NAME = """const name = (e) => [e.tagName, ...["href", "name", "aria-label"].map((n) => e.getAttribute(n)),
    (e.textContent || "").replace(/[0-9]+/g, "0").trim().slice(0, 60)].join("|");"""
_USABLE = (
    "(() => {"
    + _NAME
    + """
    const all = document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, '
        + 'summary, audio[controls], video[controls], [tabindex="0"]');
    return [...all].filter((e) => !e.disabled && e.checkVisibility()).map(name);
})()"""
)
_FOCUS = (
    "(() => {"
    + _NAME
    + """
    const e = document.activeElement;
    if (!e || e === document.body || e === document.documentElement) return null;
    const s = getComputedStyle(e), box = e.getBoundingClientRect();
    const outlined = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1;
    return {name: name(e), shown: outlined && box.width > 0 && box.height > 0};
})()"""
)
_FOCUSED = """(() => {
    const element = document.activeElement;
    if (element.getAttribute("role") === "region") return element.getAttribute("aria-label");
    const label = element.labels && element.labels.length ? element.labels[0].textContent : "";
    const texts = [element.getAttribute("aria-label"), label, element.textContent];
    return texts.filter(Boolean).join(" ").trim().slice(0, 80);
})()"""
