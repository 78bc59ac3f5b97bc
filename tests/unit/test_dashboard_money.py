"""The pages about money: who sees which account, what only an admin does, and nothing of strangers runs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from coordinator.domain.account import AccountDispute
from coordinator.edge.dashboard.data import job
from coordinator.edge.dashboard.data.money import account, books, payment, payouts
from coordinator.edge.dashboard.sign_in import FORM_FIELD
from coordinator.wire.amounts import micros_of, short_units, units
from tests.harness.cases import every
from tests.unit.dashboard_fakes import SCRIPT, a_browser, field, hostile, log_in
from tests.unit.edge_fakes import ADMIN, ALICE, JOB, RIG, FakeDatabase, FakeGateway, an_app
from tests.unit.test_dashboard_fleet import answering
from tests.unit.test_dashboard_pages import Markup

KEPT = {
    "settlement": "on",
    "viewer_api_keys": "vera:secret-of-vera",
    "operator_api_keys": "opal:secret-of-opal",
}
VIEWER, OPERATOR = "vera:secret-of-vera", "opal:secret-of-opal"
PLAN = {"kind": "deposit", "party": "alice", "amount": "12.5", "business_id": "i/17", "reason": SCRIPT}
ENDINGS = (f"/money/jobs/{JOB}/refund", f"/money/jobs/{JOB}/dismiss")


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data with SCRIPT in every text."""
    flow = replace(hostile(account.Flow), days=((1_700_000_000_000, 1.5),), series=(SCRIPT,))
    states = [
        replace(hostile(account.EntryLine), state=state) for state in ("pending", "disputed", "refunded", "")
    ]
    transfer = replace(states[0], job_id=None)
    page = replace(
        hostile(account.AccountPageData), spent=flow, earned=flow, entries=(*states, transfer), days=30
    )
    found = hostile(books.Books)

    async def one(context: Any, viewer: Any, party: str, *_: Any) -> Any:
        account._check(context, viewer, party)
        return page

    async def everybody(context: Any, viewer: Any, *_: Any) -> Any:
        viewer.require_all("see all accounts")
        return found

    async def batch(context: Any, viewer: Any, *_: Any) -> Any:
        viewer.require_all("see settlement batches")
        return hostile(payouts.BatchPageData)

    monkeypatch.setattr(account, "load", one)
    monkeypatch.setattr(books, "load", everybody)
    monkeypatch.setattr(books, "plan", answering(hostile(books.TransferPlan)))
    monkeypatch.setattr(payouts, "one", batch)


@pytest.mark.usefixtures("strangers")
async def test_texts_of_strangers_are_texts() -> None:
    """Services, reasons, ids of transfers and the unit's name: each is escaped on every page about money."""
    pages = {
        ALICE: ["/spending"],
        RIG: ["/earnings"],
        ADMIN: [
            "/money",
            "/money/accounts/alice",
            "/money/accounts/@fees",
            "/money/transfer?kind=deposit",
            "/money/batches/3",
        ],
    }
    for key, paths in pages.items():
        async with a_browser(an_app(settings=KEPT)) as browser:
            await log_in(browser, key)
            for path in paths:
                answer = await browser.get(path)
                assert 200 == answer.status_code, (path, answer.text)
                assert "<script>alert" not in answer.text, path
                assert "&lt;script&gt;alert(1)" in answer.text, path
                assert "60481729" not in answer.text, path
                markup = Markup(answer.text)
                assert [] == markup.dangers, path
                assert 1 == sum(1 for tag, _ in markup.elements if tag == "h1"), path


@pytest.mark.usefixtures("strangers")
async def test_each_role_sees_its_own_page() -> None:
    """Clients see what they spent, miners what they earned and nothing else, readers the accounts of all."""
    for key, own, others in (
        (ALICE, "/spending", {"/earnings": 303, "/money": 403, "/money/accounts/bob": 403}),
        (RIG, "/earnings", {"/spending": 303, "/money": 403, "/jobs": 403, "/services": 403, "/audit": 403}),
        (VIEWER, "/money", {"/spending": 303, "/earnings": 303, "/money/accounts/bob": 200}),
        (OPERATOR, "/money", {"/spending": 303, "/money/accounts/bob": 200}),
        (ADMIN, "/money", {"/spending": 303, "/money/accounts/bob": 200}),
    ):
        async with a_browser(an_app(settings=KEPT)) as browser:
            await log_in(browser, key)
            batch = await browser.get("/money/batches/3")
            assert (403 if key in (ALICE, RIG) else 200) == batch.status_code, key
            page = await browser.get(own)
            assert 200 == page.status_code, (key, page.text)
            assert f'href="{own}" aria-current="page"' in page.text
            links = {path for path in ("/spending", "/earnings", "/money") if f'href="{path}"' in page.text}
            assert {own} == links, key
            acts = key == ADMIN
            assert acts == ("/refund" in page.text), key
            assert acts == ('action="/money/transfer"' in page.text), key
            for path, status in others.items():
                answer = await browser.get(path)
                assert status == answer.status_code, (key, path)
                if status == 303:
                    assert own == answer.headers["location"], (key, path)


async def test_a_miner_begins_at_its_earnings_and_changes_nothing() -> None:
    """The overview leads a miner's key to its own page, and no form takes its word."""
    gateway = FakeGateway()
    app = an_app(settings=KEPT, gateway=gateway)
    async with a_browser(app) as browser:
        await log_in(browser, RIG)
        assert "/earnings" == (await browser.get("/")).headers["location"]
        sessions = app.state.context.sessions
        token = sessions.form_token(sessions.read(browser.cookies["coordinator_session"])[0].id)
        for path in (*ENDINGS, "/money/transfer", f"/jobs/{JOB}/cancel", "/miners/rig/drain"):
            assert 403 == (await browser.post(path, data={FORM_FIELD: token})).status_code, path
        for path in ("overview", "jobs", f"jobs/{JOB}", "miners"):
            assert 403 == (await browser.get(f"/ui/live/{path}")).status_code, path
    assert [] == gateway.intents


async def test_without_accounts_there_is_nothing_about_money() -> None:
    """The header has no such page, the address says what the operator sets, and miners see no pages."""
    async with a_browser(an_app()) as browser:
        await log_in(browser, ADMIN)
        for path in ("/money", "/money/accounts/alice", "/money/transfer?" + "kind=deposit"):
            answer = await browser.get(path)
            assert (409, True) == (answer.status_code, "the operator sets SETTLEMENT=on" in answer.text)
            assert 'href="/money"' not in answer.text
    async with a_browser(an_app()) as browser:
        await log_in(browser, ALICE)
        answer = await browser.get("/spending")
        assert (409, False) == (answer.status_code, 'href="/spending"' in answer.text)
    async with a_browser(an_app()) as browser:
        assert 403 == (await log_in(browser, RIG)).status_code


@every("path", ["/money/transfer", *ENDINGS])
async def test_money_moves_by_a_form_of_this_session_alone(path: str) -> None:
    """Without the form's token, from another site, read-only, or by another role, nothing is sent."""
    app = an_app(settings=KEPT)
    async with a_browser(app) as browser:
        await log_in(browser, ADMIN)
        token = {FORM_FIELD: field((await browser.get("/admin/settings")).text, FORM_FIELD), **PLAN}
        assert 403 == (await browser.post(path, data=PLAN)).status_code
        assert 403 == (await browser.post(path, data={**PLAN, FORM_FIELD: "x" * 43})).status_code
        other = {"Sec-Fetch-Site": "cross-site"}
        assert 403 == (await browser.post(path, data=token, headers=other)).status_code
    for key, settings in (
        (ADMIN, {**KEPT, "ui_read_only": True}),
        (ALICE, KEPT),
        (VIEWER, KEPT),
        (OPERATOR, KEPT),
    ):
        async with a_browser(an_app(settings=settings)) as browser:
            await log_in(browser, key)
            sent = {FORM_FIELD: field((await browser.get("/services")).text, FORM_FIELD), **PLAN}
            assert 403 == (await browser.post(path, data=sent)).status_code, key
    assert [] == app.state.context.gateway.intents


async def test_a_deposit_is_shown_before_it_is_made() -> None:
    """The first form only reads; the second sends what the first has shown, once."""
    gateway = FakeGateway()
    row = {"party": "alice", "balance": 5, "held": 0, "disputed": 0, "pending": 0, "position": 1}
    database = FakeDatabase(accounts_one=lambda **_: [row])
    app = an_app(settings=KEPT, gateway=gateway, database=database)
    async with a_browser(app) as browser:
        await log_in(browser, ADMIN)
        plan = await browser.get("/money/transfer", params={**PLAN, "amount": " 12.5 "})
        assert (200, []) == (plan.status_code, Markup(plan.text).dangers)
        assert "Deposit 12.5 credits" in plan.text
        assert "12.500005 credits" in plan.text
        assert [] == gateway.intents
        sent = {
            name: field(plan.text, name) for name in (FORM_FIELD, "kind", "party", "amount", "business_id")
        }
        await browser.post("/money/transfer", data=sent)
        [intent] = gateway.intents
        assert ("root", "alice", 12_500_000, "i/17") == (
            intent.principal.name,
            *(getattr(intent.command, name) for name in ("party", "amount", "business_id")),
        )
        much = await browser.get("/money/transfer", params={**PLAN, "kind": "withdrawal"})
        assert "12.499995 are missing" in much.text
        assert 'name="business_id"' not in much.text


@every(
    ("name", "value", "told"),
    [
        *(
            ("amount", text, "invalid amount")
            for text in ("", "0", "-1", "1e3", "1,5", "1.1234567", "9" * 10, "١")
        ),
        *(("party", text, "invalid account") for text in ("", "@outside", "a b", "x" * 64, "../x")),
        *(("business_id", text, "invalid id") for text in ("", " ", "a b", "/x", "x" * 129, SCRIPT)),
        ("kind", "gift", "invalid kind"),
        ("reason", "x" * 2001, "invalid reason"),
    ],
)
async def test_an_invalid_field_is_named_in_words(name: str, value: str, told: str) -> None:
    """A refusal says what to write, and quotes no pattern."""
    app = an_app(settings=KEPT)
    async with a_browser(app) as browser:
        await log_in(browser, ADMIN)
        answer = await browser.get("/money/transfer", params={**PLAN, name: value})
        assert (422, True) == (answer.status_code, told.capitalize() in answer.text), answer.text
        assert "pattern" not in answer.text.split("<main")[1]
        token = field((await browser.get("/admin/settings")).text, FORM_FIELD)
        again = await browser.post("/money/transfer", data={**PLAN, name: value, FORM_FIELD: token})
        assert 422 == again.status_code
    assert [] == app.state.context.gateway.intents


def a_batch(**fields: Any) -> dict[str, Any]:
    """A row of the table of batches; closed two hours ago."""
    closed_at = time.time_ns() // 1_000_000 - 7_200_000
    texts = {"sink": "file", "state": "SUBMITTED", "reason": ""}
    amounts = {"payouts": 2, "total": 9_000_000, "confirmed": 2_000_000, "refused": 1_000_000}
    return {
        "number": 3,
        "part": 1,
        "closed_at": closed_at,
        "changed_at": closed_at,
        **texts,
        **amounts,
        **fields,
    }


def a_payout(party: str, **fields: Any) -> dict[str, Any]:
    values = {"address": "", "amount": 4_500_000, "state": "PAID", "hash": "ab" * 32, "changed_at": 7}
    return {"number": 3, "party": party, "sink": "file", **values, **fields}


async def test_a_batch_that_is_late_says_what_to_do() -> None:
    """The page of a batch has its payouts and, if it does not go on, the commands that end it."""
    settings = {**KEPT, "settlement_sink": "file"}
    row, lines = a_batch(), [a_payout("rig"), a_payout("other-rig", state="IN_TRANSIT", hash=None)]
    database = FakeDatabase(
        settlements_one=lambda number: [row] if number == 3 else [],
        settlements_payouts=lambda numbers: lines if numbers == [3] else [],
    )
    async with a_browser(an_app(settings=settings, database=database)) as browser:
        await log_in(browser, VIEWER)
        page = await browser.get("/money/batches/3")
        assert (200, []) == (page.status_code, Markup(page.text).dangers)
        assert "coordinator settlement confirm 3 --part 1" in page.text
        assert 'href="/money/accounts/other-rig"' in page.text
        assert "6 credits" in page.text  # in transit
        row.update(state="SETTLED")
        assert "coordinator settlement" not in (await browser.get("/money/batches/3")).text
        assert 404 == (await browser.get("/money/batches/4")).status_code
        assert 422 == (await browser.get("/money/batches/0")).status_code


@every(
    ("state", "sink", "late", "told"),
    [
        ("SETTLED", "webhook", True, ""),
        ("OPEN", "file", False, ""),
        ("OPEN", "file", True, "Nothing is sent"),
        ("PREPARED", "file", True, "The sink has not taken it"),
        ("SUBMITTED", "file", True, "coordinator settlement refuse 3 --part 1"),
        ("PREPARED", "webhook", False, "set SETTLEMENT_SINK=webhook"),
    ],
)
def test_the_advice_follows_from_state_and_sink(state: Any, sink: str, late: bool, told: str) -> None:
    """Nothing is to be done for a batch that goes on; another sink's never goes on by itself."""
    found = payouts.advice(state, sink, "file", 3, 1, is_late=late)
    assert found.startswith(told) if not told else told in found
    assert bool(told) == bool(found)


async def test_a_dispute_is_a_form_of_the_client_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The button is there while the payment may be disputed; the command is its client's own."""
    line = payment.PaymentLine(
        unit="credits", amount=1_500_000, status="PAID", available_at=2**41, is_pending=True, may_dispute=True
    )
    story = replace(hostile(job.JobStory), payment=line)
    story = replace(story, job=replace(story.job, job_id=str(JOB), state="COMPLETED"), request=None)
    monkeypatch.setattr(job, "story", answering(story))
    gateway, path = FakeGateway(), f"/jobs/{JOB}/dispute"
    async with a_browser(an_app(settings=KEPT, gateway=gateway)) as browser:
        await log_in(browser, ALICE)
        page = (await browser.get(f"/jobs/{JOB}")).text
        assert (True, True) == (f'action="{path}"' in page, "1.5 credits" in page)
        token = field((await browser.get("/services")).text, FORM_FIELD)
        assert 403 == (await browser.post(path, data={"reason": "x"})).status_code
        long = await browser.post(path, data={FORM_FIELD: token, "reason": "x" * 2001})
        assert (422, True) == (long.status_code, "Invalid reason" in long.text)
        assert [] == gateway.intents
        await browser.post(path, data={FORM_FIELD: token, "reason": SCRIPT})
        [intent] = gateway.intents
        command = intent.command
        assert isinstance(command, AccountDispute)
        assert ("alice", JOB, SCRIPT) == (intent.principal.name, command.job_id, command.reason)
    for key, settings in ((VIEWER, KEPT), (OPERATOR, KEPT), (ALICE, {**KEPT, "ui_read_only": True})):
        gateway = FakeGateway()
        async with a_browser(an_app(settings=settings, gateway=gateway)) as browser:
            await log_in(browser, key)
            token = field((await browser.get("/services")).text, FORM_FIELD)
            assert 403 == (await browser.post(path, data={FORM_FIELD: token})).status_code, key
            if key != OPERATOR:
                assert f'action="{path}"' not in (await browser.get(f"/jobs/{JOB}")).text, key
        assert [] == gateway.intents, key


@every("path", ["/money/accounts/a b", "/money/accounts/@nobody", "/money/accounts/" + "x" * 64])
async def test_no_other_name_has_an_account(path: str) -> None:
    async with a_browser(an_app(settings=KEPT)) as browser:
        await log_in(browser, ADMIN)
        for tail in ("", "/statement"):
            answer = await browser.get(path + tail)
            assert (422, True) == (answer.status_code, "Invalid account" in answer.text)


@every("query", ["from=x", "to=2026-13-01", "from=2026-02-02&to=2026-02-01", "from=9999-12-31", "format=pdf"])
async def test_an_invalid_period_is_refused(query: str) -> None:
    """A statement is of whole days that have begun."""
    async with a_browser(an_app(settings=KEPT)) as browser:
        await log_in(browser, ALICE)
        assert 422 == (await browser.get(f"/spending/statement?{query}")).status_code


def test_spending_is_summed_by_day_and_service() -> None:
    """Every day of the period has a row, two services a line of their own, and all others one together."""
    rows = [(10, "whisper", 3_000_000, 2), (12, "whisper", -1_000_000, 0), (10, "llm", 5_000_000, 1)]
    found = account._flow([*rows, (11, "ffmpeg", 1, 1), (11, "blender", 2, 1)], 10, 12)
    assert ("llm", "whisper", account.OTHERS) == found.series
    assert 7_000_003 == found.total
    assert [("llm", 5_000_000, 1), ("whisper", 2_000_000, 2), ("blender", 2, 1), ("ffmpeg", 1, 1)] == [
        (line.service, line.amount, line.jobs) for line in found.services
    ]
    assert [(5.0, 3.0, 0.0), (0.0, 0.0, 0.000003), (0.0, -1.0, 0.0)] == [day[1:] for day in found.days]
    assert ((), ()) == (account._flow([], 10, 12).days, account._flow([(10, "x", 0, 0)], 10, 12).services)


def test_amounts_are_written_and_read_as_people_do() -> None:
    """Without zeros at the end; and only what has six decimals at most is an amount."""
    shown: dict[int, str] = {
        0: "0",
        1: "0.000001",
        12_500_000: "12.5",
        -3 * 10**12: "-3,000,000",
        10**7: "10",
    }
    assert shown == {micros: short_units(micros) for micros in shown}
    assert "12.500000" == units(12_500_000)
    read: dict[str, Any] = {
        "12.5": 12_500_000,
        "0.000001": 1,
        "007": 7_000_000,
        "": None,
        "0.0": None,
        "1.": None,
    }
    assert read == {text: micros_of(text) for text in read}
