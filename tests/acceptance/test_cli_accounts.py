"""Accounts by command line and by both SDKs, against a real coordinator that keeps them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.client import AsyncCoordinator
from coordinator.client import Coordinator as Client
from coordinator.client.errors import Conflict, NotAuthorised, NotFound, RequestRefused
from coordinator.edge.models.parties.accounts import AccountServices, AccountView, Statement
from coordinator.wire.amounts import units
from tests.acceptance.cli_process import Coordinator, dev, running
from tests.harness.waiting import PATIENCE_SECONDS

NOWHERE = '{"min_vram_gb": 4000}'
"""No miner has that."""
NOBODY = "0190163d-8694-739b-aea5-966c26f8ad91"


def key_of(coordinator: Coordinator, role: str) -> str:
    lines = (coordinator.folder / "coordinator-data" / "dev-keys.env").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith(f"{role}_API_KEYS="))


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """With one miner, whose jobs cost something."""
    folder = tmp_path_factory.mktemp("accounts")
    with dev(folder, SETTLEMENT="on", FEE_BPS="1000") as coordinator:
        found = {"COORDINATOR_URL": coordinator.url, "COORDINATOR_API_KEY": key_of(coordinator, "MINER")}
        options = ("--name", "rig", "--price", "0.5", "--transport", "http", "--key-file", "rig.key")
        with running(folder, "miner", "run", *options, **found):
            yield coordinator


def told(coordinator: Coordinator, *arguments: str) -> Any:
    ran = coordinator.run("account", *arguments, "--json")
    assert ran.code == 0, ran.err
    return ran.json()


def shown(coordinator: Coordinator, *arguments: str) -> str:
    ran = coordinator.run("account", *arguments)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


def test_money_from_its_deposit_to_its_refund(coordinator: Coordinator, tmp_path: Path) -> None:
    """Every subcommand says what happened, to people and to programs, and both say the same."""
    me = key_of(coordinator, "CLIENT").partition(":")[0]
    for _ in range(2):  # the second does nothing
        made = told(coordinator, "deposit", me, "12.5", "--id", "books/17", "--reason", "for a trial")
    assert (me, "deposit", 12_500_000, "books/17") == tuple(
        made[name] for name in ("party", "kind", "amount", "business_id")
    )
    large = tmp_path / "large"
    large.write_bytes(bytes(10**6))
    with Client(coordinator.url, key_of(coordinator, "CLIENT")) as client:
        ref = client.upload(large).ref
    # Work of some milliseconds: less than one may cost nothing.
    payload = json.dumps({"inputs": [ref] * 10, "algorithm": "sha512"})
    ran = coordinator.run(
        *("job", "submit", "checksum", "--payload", payload, "--json", "--wait"),
        *("--constraints", '{"max_price": "0.5"}', "--budget", "12"),
    )
    assert ran.code == 0, ran.err
    job = ran.json()["job_id"]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (account := told(coordinator, "show"))["held"]:
        assert time.monotonic() < deadline, "the job is settled"
    view = AccountView.model_validate(account)
    assert (me, view.balance, 0) == (view.party, view.available, view.pending)
    spent = 12_500_000 - view.balance
    assert spent > 0
    lines = dict(line.split(None, 1) for line in shown(coordinator, "show").splitlines())
    assert (me, units(view.available)) == (lines["party"], lines["available"])

    # On what, with a bar; and every entry, signed for programs.
    services = AccountServices.model_validate(told(coordinator, "services", "--days", "7"))
    assert [("checksum", spent, 1)] == [(one.service, one.amount, one.jobs) for one in services.spent]
    table = shown(coordinator, "services")
    [line] = [line for line in table.splitlines() if "checksum" in line]
    assert ["spent", "checksum", "1", units(spent), f"[{'#' * 20}]"] == line.split()
    statement = told(coordinator, "statement")
    assert Statement.model_validate(statement).closing == view.balance
    table = shown(coordinator, "statement")
    assert ["opening", "deposit", "payment", "closing"] == [r.split()[1] for r in table.splitlines()[1:]]
    amounts = [row.index(".") for row in table.splitlines()[2:4]]
    assert 1 == len({row.split()[2][-7] for row in table.splitlines()[2:4]}), amounts
    assert job in table
    future = ("--from", "2020-01-01T00:00:00Z", "--to", "2020-01-02T00:00:00Z")
    assert [] == told(coordinator, "statement", *future)["lines"]

    # An admin sees all; they sum to zero. Then the dispute, and both of its ends.
    listed = told(coordinator, "list")["items"]
    assert 0 == sum(item["balance"] for item in listed)
    assert {"@fees", "@outside", me} < {item["party"] for item in listed}
    table = shown(coordinator, "list")
    assert {item["party"] for item in listed} == {row.split()[0] for row in table.splitlines()[1:]}
    assert "DISPUTED" == told(coordinator, "dispute", job, "--reason", "it is silent")["payment"]
    assert "PAID" in shown(coordinator, "dismiss", job)
    assert "REFUNDED" in shown(coordinator, "refund", job, "--reason", "it was right")
    assert units(12_500_000) in shown(coordinator, "show", me)
    assert "withdrawal" in shown(coordinator, "withdraw", me, "0.5", "--id", "payout-1")
    assert 12_000_000 == told(coordinator, "show")["balance"]

    # A budget is what is set aside; in units.
    capped = ("job", "submit", "checksum", "--payload", '{"text": "y"}', "--constraints", NOWHERE)
    capped_job = coordinator.run(*capped, "--budget", "0.25", "--json").json()["job_id"]
    assert 250_000 == told(coordinator, "show")["held"]
    assert 0 == coordinator.run("job", "cancel", capped_job).code
    deadline = time.monotonic() + PATIENCE_SECONDS
    while told(coordinator, "show")["held"]:
        assert time.monotonic() < deadline, "the hold returns"
    for amount in ("0", "-1", "x", "0.0000001"):
        ran = coordinator.run(*capped, f"--budget={amount}")
        assert (2, True) == (ran.code, f"invalid amount '{amount}'" in ran.err), ran.err
    assert "earned" not in shown(coordinator, "services", me)


USAGE, REFUSED, NOT_FOUND, AUTH = 2, 3, 4, 5


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        *(
            (("deposit", "bob", amount, "--id", "x"), USAGE, "USAGE")
            for amount in ("0", "1e3", "-5", "1,5", "1.1234567", "9999999999", "")
        ),
        (("deposit", "bob", "5"), USAGE, "USAGE"),
        (("withdraw", "bob"), USAGE, "USAGE"),
        (("deposit", "bob", "5", "--id", "a b"), REFUSED, "INVALID_PAYLOAD"),
        (("deposit", "a b", "5", "--id", "x"), REFUSED, "INVALID_PAYLOAD"),
        (("deposit", "@outside", "5", "--id", "x"), REFUSED, "INVALID_PAYLOAD"),
        (("withdraw", "bob", "5", "--id", "x"), REFUSED, "INSUFFICIENT_FUNDS"),
        (("show", "no such name"), REFUSED, "INVALID_PAYLOAD"),
        (("services", "--days", "0"), USAGE, "USAGE"),
        (("services", "--days", "367"), USAGE, "USAGE"),
        (("services", "a b"), REFUSED, "INVALID_PAYLOAD"),
        (("statement", "--from", "yesterday"), REFUSED, "INVALID_PAYLOAD"),
        (("statement", "--from", "2999-01-01T00:00:00Z"), REFUSED, "INVALID_PAYLOAD"),
        (("dispute", "mine"), USAGE, "USAGE"),
        *(((name, NOBODY), NOT_FOUND, "JOB_NOT_FOUND") for name in ("dispute", "refund", "dismiss")),
    ],
)
def test_mistakes(coordinator: Coordinator, arguments: tuple[str, ...], code: int, expected: str) -> None:
    """Each mistake has its exit code, and its line on stderr."""
    ran = coordinator.run("account", *arguments, "--json")
    assert (code, "") == (ran.code, ran.out)
    assert expected == json.loads(ran.err)["code"]


def test_a_clients_key_moves_nothing(coordinator: Coordinator) -> None:
    """Neither by command line nor by SDK."""
    key = key_of(coordinator, "CLIENT")
    for arguments in (
        ("list",),
        ("show", "bob"),
        ("statement", "bob"),
        ("services", "bob"),
        ("deposit", "bob", "5", "--id", "x"),
        ("withdraw", "bob", "5", "--id", "x"),
        ("refund", NOBODY),
        ("dismiss", NOBODY),
    ):
        ran = coordinator.run("account", *arguments, "--api-key", key, "--json")
        assert (AUTH, "FORBIDDEN") == (ran.code, json.loads(ran.err)["code"]), arguments


def test_the_blocking_sdk(coordinator: Coordinator) -> None:
    """Deposits repeat, quotes answer, entries are iterated, and refusals are exceptions."""
    with (
        Client(coordinator.url, key_of(coordinator, "ADMIN")) as admin,
        Client(coordinator.url, key_of(coordinator, "CLIENT")) as client,
    ):
        for number in range(3):
            admin.accounts.deposit("carol", 7, f"d{number}")
            admin.accounts.deposit("carol", 7, f"d{number}")
        assert 21 == admin.accounts.show("carol")["balance"]
        assert ["d2", "d1", "d0"] == [
            entry["posting"].rpartition("/")[2] for entry in admin.accounts.entries("carol")
        ]
        with pytest.raises(Conflict, match="another id"):
            admin.accounts.deposit("carol", 8, "d0")
        with pytest.raises(RequestRefused) as poor:
            admin.accounts.withdraw("carol", 22, "w0")
        assert "INSUFFICIENT_FUNDS" == poor.value.code
        admin.accounts.withdraw("carol", 21, "w0")
        assert {"carol"} <= {account["party"] for account in admin.accounts.list()}
        quote = client.accounts.quote("checksum", {"text": "x"}, constraints={"max_price": "0.5"}, budget=9)
        assert 9 == quote["at_most"]
        assert [] == admin.accounts.services("carol")["spent"]
        with pytest.raises(NotAuthorised):
            client.accounts.deposit("carol", 1, "mine")
        with pytest.raises(NotFound):
            client.accounts.dispute(NOBODY)


async def test_the_asynchronous_sdk(coordinator: Coordinator) -> None:
    """The same surface, awaited."""
    async with AsyncCoordinator(coordinator.url, key_of(coordinator, "ADMIN")) as admin:
        await admin.accounts.deposit("dave", 5, "d")
        statement = await admin.accounts.statement("dave", since="2020-01-01T00:00:00Z")
        assert [5] == [line["amount"] for line in statement["lines"]]
        assert ["deposit"] == [entry["kind"] async for entry in admin.accounts.entries("dave", limit=5)]
        assert "dave" in [account["party"] async for account in admin.accounts.list()]
        services = await admin.accounts.services("dave")
        assert ("dave", []) == (services["party"], services["earned"])
        for work in (admin.accounts.refund(NOBODY), admin.accounts.dismiss(NOBODY)):
            with pytest.raises(NotFound):
                await work
