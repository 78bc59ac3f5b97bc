"""The pages of miners, classes, services, audit and admin: who sees them, and nothing of strangers runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coordinator.edge.dashboard.data import admin, audit, classes, miners, services, webhooks
from coordinator.edge.dashboard.sign_in import FORM_FIELD
from coordinator.edge.dashboard.words import a_unit, need
from coordinator.edge.models.keys import KeyView
from coordinator.edge.models.miners import StandingView
from tests.harness.cases import every
from tests.unit.dashboard_fakes import SCRIPT, a_browser, field, hostile, log_in
from tests.unit.edge_fakes import ADMIN, ALICE, JOB, an_app
from tests.unit.test_dashboard_pages import Markup

READERS = ("/miners", "/miners?state=ONLINE", "/miners/rig", "/classes", "/audit")
ADMINS = ("/admin", "/admin/quotas", "/admin/dead", "/admin/settings")
OWNERS = ("/webhooks", f"/webhooks/{JOB}", "/webhooks/callbacks")
EVERYBODY = ("/services", "/services/whisper")


def answering(value: Any) -> Callable[..., Any]:
    async def answer(*_: Any, **__: Any) -> Any:
        return value

    return answer


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data with SCRIPT in every text."""
    key = hostile(KeyView).model_copy(update={"key_id": JOB, "state": "ACTIVE"})
    story = replace(
        hostile(miners.MinerStory),
        standings=(hostile(StandingView),),
        gpu_memory={"at": 1_700_000_000_000, "gpus": [{"name": SCRIPT, "free_mb": 1}]},
    )
    listed = replace(hostile(miners.MinerList), by_state={"ONLINE": 2})
    entry = {
        **dict.fromkeys(("id", "name", "description", "category"), SCRIPT),
        "pricing": {"amount": SCRIPT, "currency": SCRIPT, "unit": SCRIPT},
        "requirements": {"minimum": {"gpu": SCRIPT, "models": [SCRIPT]}, "recommended": {"region": SCRIPT}},
        **{name: [SCRIPT] for name in ("aliases", "capabilities", "tags")},
        **{name: {SCRIPT: SCRIPT} for name in ("input_schema", "output_schema")},
        "timeout_seconds": 5,
        "version": 1,
        "retired": True,
        "private": True,
        "max_units": {"fixed": SCRIPT},
    }
    dead = hostile(admin.DeadLetterPage)
    for module, name, value in (
        (miners, "load", listed),
        (miners, "story", story),
        (classes, "load", hostile(classes.ClassesAndProfiles)),
        (services, "load", hostile(services.ServiceList)),
        (services, "entry", entry),
        (audit, "load", hostile(audit.AuditView)),
        (admin, "keys", admin.KeyList(keys=(key,), next_cursor=SCRIPT)),
        (admin, "quotas", (hostile(admin.QuotaLine),)),
        (admin, "dead_letters", dead),
        (webhooks, "load", hostile(webhooks.WebhookList)),
        (webhooks, "log_of", hostile(webhooks.DeliveryLog)),
        (admin, "settings", (admin.ShownSetting(SCRIPT, SCRIPT, True, False),)),
        (admin, "replay", admin.ReplayOutcome(accepted=1, refused={SCRIPT: 2}, dropped=False)),
    ):
        monkeypatch.setattr(module, name, answering(value))


@pytest.mark.usefixtures("strangers")
async def test_texts_of_strangers_are_texts() -> None:
    """Names, models, GPUs, reasons, schemas, dead letters, settings: each is escaped on every page."""
    async with a_browser(an_app()) as browser:
        await log_in(browser, ADMIN)
        for path in (*READERS, *ADMINS, *OWNERS, *EVERYBODY):
            answer = await browser.get(path)
            assert 200 == answer.status_code, (path, answer.text)
            assert "<script>alert" not in answer.text, path
            assert "&lt;script&gt;alert(1)" in answer.text, path
            assert "60481729" not in answer.text, path
            markup = Markup(answer.text)
            assert [] == markup.dangers, path
            assert 1 == sum(1 for tag, _ in markup.elements if tag == "h1"), path
        form = await browser.get("/admin/dead")
        sent = {FORM_FIELD: field(form.text, FORM_FIELD), "letter": SCRIPT}
        told = await browser.post("/admin/dead/replay", data=sent)
        assert (200, []) == (told.status_code, Markup(told.text).dangers)


async def test_a_client_sees_services_alone() -> None:
    """Miners, classes, the audit and the admin's page are not for clients, by address either."""
    async with a_browser(an_app()) as browser:
        await log_in(browser, ALICE)
        for path in (*READERS, *ADMINS):
            assert 403 == (await browser.get(path)).status_code, path
        page = (await browser.get("/jobs")).text
        assert 'href="/services"' in page
        assert 'href="/admin"' not in page
        assert 'href="/miners"' not in page


async def test_nobody_sees_anything_without_a_session() -> None:
    """Every page leads to the form to log in."""
    async with a_browser(an_app()) as browser:
        for path in (*READERS, *ADMINS, *OWNERS, *EVERYBODY):
            answer = await browser.get(path)
            assert 303 == answer.status_code, path
            assert answer.headers["location"].startswith("/login"), path


@every(
    "path",
    [
        "/miners/rig/drain",
        "/miners/rig/quarantine",
        "/miners/rig/release",
        f"/webhooks/{JOB}/test",
        f"/webhooks/{JOB}/replay",
        "/admin/keys",
        f"/admin/keys/{JOB}/rotate",
        f"/admin/keys/{JOB}/revoke",
        "/admin/dead/replay",
    ],
)
@pytest.mark.usefixtures("strangers")
async def test_nothing_changes_without_the_form_of_this_session(path: str) -> None:
    """Without the form's token, from another site, or read-only, a post changes nothing."""
    app = an_app()
    async with a_browser(app) as browser:
        await log_in(browser, ADMIN)
        token = {FORM_FIELD: field((await browser.get("/admin")).text, FORM_FIELD)}
        assert 403 == (await browser.post(path, data={})).status_code
        assert 403 == (await browser.post(path, data={FORM_FIELD: "x" * 43})).status_code
        other = {"Sec-Fetch-Site": "cross-site"}
        assert 403 == (await browser.post(path, data=token, headers=other)).status_code
    async with a_browser(an_app(settings={"ui_read_only": True})) as browser:
        await log_in(browser, ADMIN)
        sent = {FORM_FIELD: field((await browser.get("/jobs")).text, FORM_FIELD)}
        assert 403 == (await browser.post(path, data=sent)).status_code
    assert [] == app.state.context.gateway.intents


@every("days", ["-1", "1.5", "١", "999999", "x"])
async def test_an_invalid_number_of_days_makes_no_key(days: str) -> None:
    """The form's days are a whole number of at most five digits."""
    app = an_app()
    async with a_browser(app) as browser:
        await log_in(browser, ADMIN)
        token = field((await browser.get("/jobs")).text, FORM_FIELD)
        sent = {FORM_FIELD: token, "name": "bob", "role": "client", "days": days}
        assert 422 == (await browser.post("/admin/keys", data=sent)).status_code
    assert [] == app.state.context.gateway.intents


@every(
    ("name", "value", "told"),
    [
        ("name", "-x", "Invalid name: write 1 to 63 letters"),
        ("name", "a b", "Invalid name"),
        ("role", "king", "Invalid role: choose one of the list"),
        ("label", "a\nb", "Invalid purpose"),
        ("days", "0", "Invalid days"),
    ],
)
async def test_an_invalid_field_is_named_in_words(name: str, value: str, told: str) -> None:
    """The field as the form names it and what to write; no pattern is quoted."""
    app = an_app()
    async with a_browser(app) as browser:
        await log_in(browser, ADMIN)
        token = field((await browser.get("/jobs")).text, FORM_FIELD)
        sent = {FORM_FIELD: token, "name": "bob", "role": "client", name: value}
        answer = await browser.post("/admin/keys", data=sent)
    assert (422, True) == (answer.status_code, told in answer.text), answer.text
    assert "should" not in answer.text.partition("<main")[2]
    assert [] == app.state.context.gateway.intents


def test_needs_and_units_in_words() -> None:
    """Constraints and units read as people say them."""
    assert "24 GB on one GPU" == need("min_vram_gb", 24)
    assert "model a, b" == need("models", ["a", "b"])
    assert "new thing 1" == need("new_thing", 1)
    assert ("an hour", "a frame", "an image", "a second") == tuple(
        map(a_unit, ("hour", "per_frame", "image", "second"))
    )
