"""The pages about money over a whole coordinator, in both modes, and with many entries."""

from __future__ import annotations

import html
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from coordinator.application.figures import attention
from coordinator.crypto.canonical import canonical_json
from coordinator.crypto.receipt import receipt_id
from coordinator.crypto.signature import matches
from coordinator.domain.account import MAX_SETTLED
from coordinator.domain.errors import Refusal
from coordinator.domain.messages import Role
from coordinator.edge.dashboard.data import overview
from coordinator.edge.dashboard.data.money import account, books, payouts
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.sign_in import FORM_FIELD
from coordinator.wire.amounts import short_units
from tests.harness.bank import Bank
from tests.harness.waiting import eventually
from tests.integration.edge_bench import an_edge, key_of
from tests.integration.settlement_bench import settling
from tests.integration.test_dashboard_data import ALICE, BOB, EVE, RIG, ROOT, context_of
from tests.integration.test_money import HOLD, JOB, deposit, money_of, register, settled, work
from tests.unit.dashboard_fakes import a_browser, field, log_in

MODES = ["embedded", "standard"]


@pytest.fixture(params=MODES)
async def where(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of a mode, with accounts."""
    urls: dict[str, Any] = {}
    if request.param == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    return {"directory": tmp_path, "settlement": "on", "fee_bps": 1000, **urls}


def text_of(page: str) -> str:
    """The words of a page's main part."""
    main = page.partition("<main")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", main)).split())


async def test_the_pages_say_what_the_statements_say(where: dict[str, Any]) -> None:
    """A deposit, a payment, a dispute and its refund: on the client's, the miner's and the admin's pages."""
    async with an_edge(**where) as edge:
        context = context_of(edge)
        await deposit(edge, 2_000_000, "books/17")
        await register(edge)
        first, second = await work(edge, 40), await work(edge, 40)
        held = (await edge.submit(edge.alice, **JOB))["job_id"]
        async with a_browser(edge.app) as browser:
            await log_in(browser, key_of("alice"))
            page = (await browser.get(f"/jobs/{first}")).text
            assert "credits; may be disputed until" in text_of(page)
            sent = {
                FORM_FIELD: field((await browser.get("/services")).text, FORM_FIELD),
                "reason": "<b>silent",
            }
            for path, status in ((first, 303), (first, 303), (held, 404), (str(UUID(int=5)), 404)):
                answer = await browser.post(f"/jobs/{path}/dispute", data=sent)
                assert status == answer.status_code, answer.text
            page = (await browser.get(f"/jobs/{first}")).text
            assert "disputed until an admin decides" in text_of(page)
            assert f"/jobs/{first}/dispute" not in page
        async with a_browser(edge.app) as browser:
            await log_in(browser, key_of("bob"))
            sent[FORM_FIELD] = field((await browser.get("/services")).text, FORM_FIELD)
            assert 404 == (await browser.post(f"/jobs/{second}/dispute", data=sent)).status_code
        await edge.reached(edge.coordinator.feed.head)
        assert await edge.coordinator.watermarks.reached("settler", edge.coordinator.feed.head, 30)
        available, hold, _, _ = await money_of(edge, "alice")
        assert HOLD == hold
        statement = (await edge.alice.get("/v1/accounts/me/statements")).json()
        prices = {line["job_id"]: -line["amount"] for line in statement["lines"] if line["job_id"]}
        earned = await money_of(edge, "rig")

        # 1. The client: what it has, on what it spent, what is held, and every entry.
        async with a_browser(edge.app) as browser:
            await log_in(browser, key_of("alice"))
            page = (await browser.get("/spending")).text
            words = text_of(page)
            assert f"{short_units(available)} credits are available; 0.5 are held for jobs" in words
            assert f"{short_units(sum(prices.values()))} credits spent, by service" in words
            assert f'href="/jobs/{held}"' in page
            assert "books/17" in words
            found = await account.load(context, ALICE, "alice", 7)
            assert [("checksum", sum(prices.values()), 2)] == [
                (line.service, line.amount, line.jobs) for line in found.spent.services
            ]
            assert sum(prices.values()) / 1e6 == pytest.approx(sum(day[1] for day in found.spent.days))
            assert 7 == len(found.spent.days)
            assert [(held, HOLD, "QUEUED")] == [(one.job_id, one.amount, one.state) for one in found.holds]
            kinds = [(line.kind, line.job_id, line.business_id) for line in found.entries]
            assert [("payment", second, ""), ("payment", first, ""), ("deposit", None, "books/17")] == kinds
            file = await browser.get("/spending/statement")
            assert 'attachment; filename="statement-alice.json"' == file.headers["content-disposition"]
            document = file.json()
            signature = document.pop("signature")
            signed = b"coordinator statement 1\n" + canonical_json(document)
            assert matches(signature["key_id"], signature["sig"], signed)
            today = time.strftime("%Y-%m-%d", time.gmtime())
            table = await browser.get(f"/spending/statement?from={today}&to={today}&format=csv")
            assert 3 + 2 + 1 == table.text.count("\r\n") - 1  # opening, lines, closing, and the hold
            before = (await browser.get("/spending/statement?to=2020-01-01")).json()
            assert ([], 0) == (before["lines"], before["closing"])

        # 2. The miner: what is pending and until when, what is disputed, and the receipts.
        async with a_browser(edge.app) as browser:
            await log_in(browser, key_of("rig"))
            page = (await browser.get("/earnings")).text
            words = text_of(page)
            assert f"{short_units(earned[2])} are pending" in words
            assert f"{short_units(earned[3])} are disputed" in words
            assert f"/jobs/{first}" not in page
            receipt = (await browser.get(f"/earnings/receipts/{second}")).json()
            assert (receipt_id(second, 1), second) == (receipt["receipt_id"], receipt["job_id"])
            for other in (held, str(UUID(int=5))):
                assert 404 == (await browser.get(f"/earnings/receipts/{other}")).status_code
            found = await account.load(context, RIG, "rig", 30)
            states = {line.job_id: line.state for line in found.entries}
            assert {first: "disputed", second: "pending"} == states
            assert found.earned.total == earned[2] + earned[3]
            until = found.pending_until[0]
            assert until is not None
            assert time.time() * 1000 < until <= time.time() * 1000 + 86_400_000 * 65 / 64
        for viewer in (BOB, RIG, Viewer("alice", Role.MINER)):
            with pytest.raises(Refusal, match="another account"):
                await account.load(context, viewer, "alice" if viewer.name != "alice" else "rig", 30)
        with pytest.raises(Refusal, match="all accounts"):
            await books.load(context, ALICE)

        # 3. The admin: the dispute in the client's words; a refund ends it, and is on every page.
        [told] = (await books.load(context, EVE)).disputes
        assert (first, "alice", "rig", prices[first], "<b>silent") == (
            told.dispute.job_id,
            told.dispute.client,
            told.dispute.miner,
            told.dispute.price,
            told.reason,
        )

        async def asked() -> Any:
            lines = (await overview.load(context, ROOT)).attention
            return [line for line in lines if line.subject == "dispute"]

        [line] = await eventually(asked, "the overview asks for a decision")
        assert ("1 payment is disputed", "money") == (line.sentence[:21], line.link)
        async with a_browser(edge.app) as browser:
            await log_in(browser, key_of("root"))
            page = (await browser.get("/money")).text
            assert "sum to 0" in text_of(page)
            token = field(page, FORM_FIELD)
            sent = {FORM_FIELD: token, "reason": "it is silent"}
            answer = await browser.post(f"/money/jobs/{first}/refund", data=sent)
            assert (303, "/money") == (answer.status_code, answer.headers["location"])
            assert "No payment is disputed" in text_of((await browser.get("/money")).text)
            again = await browser.post(f"/money/jobs/{first}/dismiss", data=sent)
            assert (409, True) == (again.status_code, "The payment is not disputed" in again.text)
            listed = {one.party: one.balance for one in (await books.load(context, ROOT)).accounts}
            assert {"@fees", "@outside", "alice", "rig"} == set(listed)
            assert 0 == sum(listed.values())
            plan = {"kind": "withdrawal", "party": "alice", "amount": "0.25", "business_id": "payout-1"}
            shown = (await browser.get("/money/transfer", params=plan)).text
            for _ in range(2):  # the second has no effect
                made = await browser.post(
                    "/money/transfer", data={**plan, FORM_FIELD: field(shown, FORM_FIELD)}
                )
                assert "/money/accounts/alice" == made.headers["location"]
            assert 2 == text_of((await browser.get("/money/accounts/alice")).text).count("payout-1") + 1
        states = {line.job_id: line.state for line in (await account.load(context, RIG, "rig", 30)).entries}
        assert {first: "refunded", second: "pending"} == states
        async with a_browser(edge.app) as browser:
            await log_in(browser, key_of("alice"))
            page = (await browser.get(f"/jobs/{first}")).text
            assert (True, False) == ("refunded" in text_of(page), f"/jobs/{first}/dispute" in page)
        left, _, _, _ = await money_of(edge, "alice")
        assert available + prices[first] - 250_000 == left
        await edge.alice.post(f"/v1/jobs/{held}/cancel")
        await settled(edge)
        assert await edge.coordinator.watermarks.reached("settler", edge.coordinator.feed.head, 30)
        assert () == (await account.load(context, ALICE, "alice", 90)).holds


async def test_a_batch_is_on_the_pages_of_those_whom_it_concerns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An admin sees whole batches, a miner its own payouts; a late one needs attention."""
    async with settling(tmp_path, Bank()) as bench:
        edge = bench.edge
        context = context_of(edge)
        await bench.earn("rig")
        assert 1 == await bench.close()
        await bench.run(bench.sender())
        paid = (await account.load(context, RIG, "rig", 7)).payouts
        assert paid is not None
        await bench.earn("rig")
        await bench.earn("other-rig")
        earned = {name: await bench.balance(name) for name in ("rig", "other-rig")}
        assert 2 == await bench.close()
        await bench.caught_up()

        # 1. The miner: its own amounts alone.
        found = (await account.load(context, RIG, "rig", 7)).payouts
        assert found is not None
        [second, first] = found.lines
        assert (2, earned["rig"], "IN_TRANSIT") == (second.number, second.amount, second.state)
        assert ((first,), "PAID") == (paid.lines, first.state)
        lines = (await account.load(context, RIG, "rig", 7)).entries
        assert [("payout", "batch 2"), ("payout", "batch 1")] == [
            (line.kind, line.business_id) for line in lines if not line.job_id
        ]
        async with a_browser(edge.app) as browser:
            await log_in(browser, key_of("other-rig"))
            words = text_of((await browser.get("/earnings")).text)
            assert f"in transit 2 {short_units(earned['other-rig'])}" in words
            assert 403 == (await browser.get("/money/batches/2")).status_code

        # 2. Those who see all: the batch, and the advice once it is late.
        listed = (await books.load(context, EVE)).batches
        assert listed is not None
        assert [(2, "OPEN", 2, sum(earned.values())), (1, "SETTLED", 1, first.amount)] == [
            (line.number, line.state, line.payouts, line.total) for line in listed.lines
        ]
        monkeypatch.setattr(payouts, "LATE_BATCH_MILLIS", 0)
        monkeypatch.setattr(attention, "LATE_BATCH_MILLIS", 0)

        async def asked() -> Any:
            lines = (await overview.load(context, ROOT)).attention
            return [line for line in lines if line.subject == "batch"]

        [line] = await eventually(asked, "the overview tells of the batch")
        assert "money/batches/2" == line.link
        async with a_browser(edge.app) as browser:
            await log_in(browser, key_of("root"))
            words = text_of((await browser.get("/money")).text)
            assert "closed for the sink bank: set SETTLEMENT_SINK=bank" in words
            page = await browser.get(f"/{line.link}")
            assert f"other-rig {short_units(earned['other-rig'])} in transit" in text_of(page.text)
            await bench.run(bench.sender())
            assert "settled" in text_of((await browser.get(f"/{line.link}")).text)
            assert (0, 0) == await payouts.open_batch(context)


async def test_many_entries_take_a_moment(where: dict[str, Any]) -> None:
    """A page of 10,000 lines does not read them all, as a chart of 90,000 does; the pages follow on."""
    async with an_edge(**where) as edge:
        context = context_of(edge)
        now = time.time_ns() // 1_000_000
        many = 100_000
        with context.database.transaction() as tables:
            settlements = range(many // MAX_SETTLED)
            tables.put("entries", [entry for number in settlements for entry in _entries(number, now)])
            tables.put("payments", [_payment(number, now) for number in range(many)])
            tables.put("jobs", [_job(number, now) for number in range(many)])
        took = []
        cursor, seen = None, 0
        for _ in range(5):
            begun = time.perf_counter()
            await context.reads.lines("alice", (2**53, 2**53), 51)
            took.append(time.perf_counter() - begun)
            found = await account.load(context, ALICE, "alice", 90, cursor)
            cursor, seen = found.next_cursor, seen + len(found.entries)
        assert (5 * account.PAGE_SIZE, True) == (seen, cursor is not None)
        charted = time.perf_counter()
        flows = await context.money_reads.by_day("bob", now - 90 * 86_400_000)
        charted = time.perf_counter() - charted
        assert 90_000 == sum(row.paid_jobs for row in flows)
        # A ninth of the chart's time is what all lines of the page's account would take.
        assert min(took) < charted / 12, (took, charted)


def _client(number: int) -> str:
    """Of the number-th job: each tenth one is Alice's."""
    return "bob" if number % 10 else "alice"


def _settled_at(settlement: int, now: int) -> int:
    return now - settlement * MAX_SETTLED * 60_000 % (80 * 86_400_000)


def _entries(settlement: int, now: int) -> list[dict[str, Any]]:
    """Of a settlement of `MAX_SETTLED` jobs: one for each client."""
    of = Counter(_client(number) for number in range(MAX_SETTLED))
    return [
        {
            "entry_id": f"payments/{settlement + 1}|{party}|-",
            "party": party,
            "posting": f"payments/{settlement + 1}",
            "kind": "payment",
            "amount": -1000 * of[party],
            "balance": 0,
            "job_id": None,
            "attempt": None,
            "available_at": None,
            "units": None,
            "unit_type": None,
            "settlement": settlement + 1,
            "reason": "",
            "posted_at": _settled_at(settlement, now),
            "posted_position": 3 * settlement + place,
            "position": 3 * settlement + place,
        }
        for place, party in enumerate(of, 1)
    ]


def _payment(number: int, now: int) -> dict[str, Any]:
    settlement, place = divmod(number, MAX_SETTLED)
    return {
        "job_id": str(UUID(int=number)),
        "number": settlement + 1,
        "place": place,
        "client": _client(number),
        "miner": "rig",
        "attempt": 1,
        "amount": 1000,
        "fee": 0,
        "units": None,
        "unit_type": None,
        "available_at": now,
        "settled_at": _settled_at(settlement, now),
        "kept_until": None,
        "position": 3 * settlement + 3,
    }


def _job(number: int, now: int) -> dict[str, Any]:
    return {
        "job_id": str(UUID(int=number)),
        "client": _client(number),
        "service": f"service_{number % 7}",
        "service_version": 1,
        "state": "COMPLETED",
        "constraints_json": "{}",
        "priority": 0,
        "attempt": 1,
        "max_attempts": 3,
        "requested_at": now,
        "expires_at": now,
        "payload_digest": "a" * 64,
        "hold": 1000,
        "position": number + 1,
        **dict.fromkeys(("error_code", "error_message", "miner_id", "price", "result_digest", "units")),
        **dict.fromkeys(("started_at", "finished_at"), now),
    }
