"""What changes something: from our own forms alone, of the session that sends them, and never by a GET."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from coordinator.domain.errors import Code, Refusal
from coordinator.edge.dashboard.data import job as job_data
from coordinator.edge.dashboard.pages import ROUTERS
from coordinator.edge.dashboard.sign_in import FORM_FIELD, FORM_HEADER, MAX_FORM_BYTES
from tests.harness.cases import every
from tests.unit.dashboard_fakes import COOKIE, a_browser, log_in
from tests.unit.edge_fakes import ADMIN, ALICE, JOB, FakeGateway, an_app

CANCEL = f"/jobs/{JOB}/cancel"


def a_cancelable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of those whose cancelations reach the data functions."""
    canceled: list[str] = []

    async def cancel(context: Any, viewer: Any, job_id: Any, reason: str = "") -> int:
        canceled.append(f"{viewer.name}: {reason}")
        return 7

    monkeypatch.setattr(job_data, "cancel", cancel)
    return canceled


def token_of(app: Any, browser: httpx.AsyncClient) -> str:
    sessions = app.state.context.sessions
    return str(sessions.form_token(sessions.read(browser.cookies[COOKIE])[0].id))


async def test_a_form_of_ours_is_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the session's token, as a field or in a header; the page that follows shows the effect."""
    canceled, app = a_cancelable(monkeypatch), an_app()
    async with a_browser(app) as browser:
        await log_in(browser, ALICE)
        token = token_of(app, browser)
        plain = await browser.post(
            CANCEL,
            data={FORM_FIELD: token, "reason": "a <b>"},
            headers={"Sec-Fetch-Site": "same-origin", "Origin": "http://edge"},
        )
        assert (303, f"/jobs/{JOB}") == (plain.status_code, plain.headers["location"])
        live = await browser.post(CANCEL, headers={FORM_HEADER: token, "HX-Request": "true"})
        assert (204, f"/jobs/{JOB}") == (live.status_code, live.headers["hx-redirect"])
    assert ["alice: a <b>", "alice: "] == canceled


@every(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-origin, cross-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://edge.evil.example"},
        {"Origin": "http://edge:81"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://edge"},
    ],
)
async def test_other_sites_send_nothing(monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]) -> None:
    """A request that a browser marks as another site's is refused, even with the right token."""
    canceled, app = a_cancelable(monkeypatch), an_app()
    async with a_browser(app) as browser:
        await log_in(browser)
        token = token_of(app, browser)
        answer = await browser.post(CANCEL, data={FORM_FIELD: token}, headers=headers)
        assert 403 == answer.status_code
        assert 403 == (await browser.post("/logout", data={FORM_FIELD: token}, headers=headers)).status_code
        assert 403 == (await browser.post("/login", data={"key": ADMIN}, headers=headers)).status_code
    assert [] == canceled


async def test_a_token_is_of_its_own_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, a made-up one, another session's and that of a form to log in are all refused."""
    canceled, app = a_cancelable(monkeypatch), an_app()
    sessions = app.state.context.sessions
    async with a_browser(app) as other, a_browser(app) as browser:
        await log_in(other)
        await log_in(browser)
        strange = [None, "", "x", token_of(app, other), sessions.form_token("log in x"), "\udcff"]
        for token in strange:
            sent = {} if token is None else {FORM_FIELD: token.encode(errors="surrogateescape")}
            answer = await browser.post(CANCEL, data=sent)
            assert (403, True) == (answer.status_code, "another session" in answer.text), token
        large = await browser.post(CANCEL, data={FORM_FIELD: "x" * MAX_FORM_BYTES})
        assert 413 == large.status_code
    assert [] == canceled


async def test_no_form_brings_a_nul(monkeypatch: pytest.MonkeyPatch) -> None:
    """No event gets a text that PostgreSQL can't store."""
    canceled, app = a_cancelable(monkeypatch), an_app()
    async with a_browser(app) as browser:
        await log_in(browser)
        answer = await browser.post(CANCEL, data={FORM_FIELD: token_of(app, browser), "reason": "a\0b"})
    assert (422, True) == (answer.status_code, "NUL character" in answer.text)
    assert [] == canceled


async def test_a_read_only_dashboard_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """UI_READ_ONLY refuses every form, also an admin's, and says what to do instead."""
    canceled, app = a_cancelable(monkeypatch), an_app(settings={"ui_read_only": True})
    async with a_browser(app) as browser:
        await log_in(browser)
        answer = await browser.post(CANCEL, data={FORM_FIELD: token_of(app, browser)})
    assert (403, True) == (answer.status_code, "UI_READ_ONLY" in answer.text)
    assert [] == canceled


async def test_every_route_that_is_no_form_only_reads() -> None:
    """What a GET reaches sends no command, so no link and no picture of another site does."""
    gateway = FakeGateway()
    app = an_app(gateway=gateway)
    reads = [(r.path, r.methods) for router in ROUTERS for r in router.routes if r.methods == {"GET"}]  # type: ignore[attr-defined]
    writes = {r.path for router in ROUTERS for r in router.routes if r.methods != {"GET"}}  # type: ignore[attr-defined]
    async with a_browser(app) as browser:
        await log_in(browser)
        for path, _ in reads:
            url = (
                path.replace("{job_id}", str(JOB))
                .replace("{batch_id}", str(JOB))
                .replace("{sha256}", "a" * 64)
            )
            if "/ui/live/" not in url:
                await browser.get(url, params={"kind": "cancel", "reason": "x", "q": ""})
        for path in writes - {"/login", "/logout"}:
            url = path.replace("{job_id}", str(JOB)).replace("{batch_id}", str(JOB))
            assert (await browser.get(url)).status_code in (200, 404, 405, 409, 503, 500), url
    assert [] == gateway.intents


async def test_a_refusal_is_shown_where_the_form_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """For htmx it is a line with its code, and otherwise a page with it and the next step."""

    async def cancel(context: Any, viewer: Any, job_id: Any, reason: str = "") -> int:
        raise Refusal(Code.CONFLICT_STATE, "the job is <final>")

    monkeypatch.setattr(job_data, "cancel", cancel)
    app = an_app()
    async with a_browser(app) as browser:
        await log_in(browser)
        token = token_of(app, browser)
        live = await browser.post(CANCEL, headers={FORM_HEADER: token, "HX-Request": "true"})
        page = await browser.post(CANCEL, data={FORM_FIELD: token})
    for answer in (live, page):
        assert 409 == answer.status_code
        assert "he job is &lt;final&gt;" in answer.text
        assert "CONFLICT_STATE" in answer.text
    assert "<html" not in live.text
    assert "<h1>" in page.text
