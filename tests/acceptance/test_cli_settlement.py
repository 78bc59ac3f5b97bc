"""Settlement batches by command line and by both SDKs, against a real coordinator whose sink are files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.client import AsyncCoordinator
from coordinator.client import Coordinator as Client
from coordinator.client.errors import Conflict, NotAuthorised, NotFound, RequestRefused
from coordinator.edge.models.parties.settlements import SettlementDetail
from coordinator.wire.amounts import units
from tests.acceptance.cli_process import Coordinator, Ran, call, dev, running
from tests.harness.waiting import LOOK_EVERY_SECONDS, PATIENCE_SECONDS

FAILED, USAGE, REFUSED, NOT_FOUND, AUTH = 1, 2, 3, 4, 5
SETTINGS = {
    "SETTLEMENT": "on",
    "SETTLEMENT_SINK": "file",
    "SETTLEMENT_EVERY_SECONDS": "0",
    "SETTLEMENT_MINIMUM": "1",
    "DISPUTE_WINDOW_SECONDS": "0",
}
MONEY = ("total", "confirmed", "refused", "in_transit")


def key_of(coordinator: Coordinator, role: str) -> str:
    lines = (coordinator.folder / "coordinator-data" / "dev-keys.env").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith(f"{role}_API_KEYS="))


def name_of(coordinator: Coordinator, role: str) -> str:
    return key_of(coordinator, role).partition(":")[0]


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """With one miner, whose jobs cost something, and a client that can pay."""
    folder = tmp_path_factory.mktemp("settlements")
    with dev(folder, **SETTINGS) as coordinator:
        deposit = ("account", "deposit", name_of(coordinator, "CLIENT"), "100", "--id", "d")
        assert coordinator.run(*deposit).code == 0
        found = {"COORDINATOR_URL": coordinator.url, "COORDINATOR_API_KEY": key_of(coordinator, "MINER")}
        options = ("--name", "rig", "--price", "0.5", "--transport", "http", "--key-file", "rig.key")
        with running(folder, "miner", "run", *options, **found):
            yield coordinator


def file_of(coordinator: Coordinator, number: int) -> Path:
    return coordinator.folder / "coordinator-data" / "settlements" / f"settlement-{number:06}.json"


def run(coordinator: Coordinator, *arguments: str, role: str | None = None) -> Ran:
    key = () if role is None else ("--api-key", key_of(coordinator, role))
    return coordinator.run("settlement", *arguments, *key)


def told(coordinator: Coordinator, *arguments: str, role: str | None = None) -> Any:
    ran = run(coordinator, *arguments, "--json", role=role)
    assert ran.code == 0, ran.err
    return ran.json()


def shown(coordinator: Coordinator, *arguments: str, role: str | None = None) -> str:
    ran = run(coordinator, *arguments, role=role)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


def until(found: Callable[[], Any], what: str) -> Any:
    """The first result that is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (result := found()):
        assert time.monotonic() < deadline, what
        time.sleep(LOOK_EVERY_SECONDS)
    return result


def next_batch(coordinator: Coordinator, *, stuck: bool) -> int:
    """The number of a new batch, which pays the miner.

    `stuck`: its file is there with other bytes, so that it waits for an admin.
    """
    with (
        Client(coordinator.url, key_of(coordinator, "ADMIN")) as admin,
        Client(coordinator.url, key_of(coordinator, "CLIENT")) as client,
    ):
        number = 1 + max((batch["number"] for batch in admin.settlements.list()), default=0)
        if stuck:
            file_of(coordinator, number).parent.mkdir(mode=0o700, exist_ok=True)
            file_of(coordinator, number).write_text("of another coordinator")
        file = coordinator.folder / "input"
        file.write_bytes(b"x" * 2**20)
        # Work of some milliseconds: less than one may cost nothing.
        payload = {"inputs": [client.upload(file).ref] * 10, "algorithm": "sha512"}
        client.submit("checksum", payload, constraints={"max_price": "0.5"}).result()
        until(lambda: not client.accounts.show()["held"], "the job is paid")

        def closed() -> Any:
            try:
                return admin.settlements.close(number)
            except Conflict:  # the tables of batches don't know its payment yet
                return None

        assert until(closed, "the batch is closed")["total"] > 0
        wanted = "PREPARED" if stuck else "SETTLED"
        until(lambda: admin.settlements.show(number)["state"] == wanted, f"the batch is {wanted}")
    return number


@pytest.fixture
def stuck(coordinator: Coordinator) -> int:
    """The number of a new batch that waits for an admin."""
    return next_batch(coordinator, stuck=True)


def fields(text: str) -> dict[str, str]:
    return dict(line.split(None, 1) for line in text.splitlines() if len(line.split(None, 1)) == 2)


def test_batches_from_their_close_to_their_end(coordinator: Coordinator) -> None:
    """A batch is paid, refused or confirmed, and people and programs read the same of it."""
    miner = name_of(coordinator, "MINER")
    first = next_batch(coordinator, stuck=False)
    whole = told(coordinator, "show", str(first))
    SettlementDetail.model_validate(whole)
    [line] = whole["lines"]
    assert (line["party"], line["state"], whole["confirmed"]) == (miner, "PAID", whole["total"])
    paid = json.loads(file_of(coordinator, first).read_text())["payouts"]
    assert [(payout["party"], payout["amount"]) for payout in paid] == [(miner, whole["total"])]
    text = shown(coordinator, "show", str(first))
    assert [miner, units(line["amount"]), "PAID", line["hash"]] == text.splitlines()[-1].split()
    assert {name: units(whole[name]) for name in MONEY}.items() <= fields(text).items()
    again = fields(shown(coordinator, "close", "--number", str(first)))
    assert (again["state"], again["total"]) == ("SETTLED", units(whole["total"]))

    # An admin ends those that can't go on.
    second = next_batch(coordinator, stuck=True)
    reason = "the bank lost it"
    refused = fields(shown(coordinator, "refuse", str(second), "--part", "0", "--reason", reason))
    back = told(coordinator, "show", str(second))
    assert (refused["state"], refused["refused"]) == ("SETTLED", units(back["total"]))
    assert (back["lines"][0]["state"], back["reason"]) == ("RETURNED", reason)
    third = next_batch(coordinator, stuck=True)
    confirmed = fields(shown(coordinator, "confirm", str(third), "--part", "0"))
    last = told(coordinator, "show", str(third))
    assert (confirmed["state"], confirmed["confirmed"]) == ("SETTLED", units(last["total"]))
    assert (last["confirmed"], last["in_transit"]) == (last["total"], 0)
    assert last["total"] > back["total"], "the money that returned is paid with what came later"

    listed = told(coordinator, "list", "--limit", "3")["items"]
    assert [batch["number"] for batch in listed] == [third, second, first]
    rows = [row.split() for row in shown(coordinator, "list", "--limit", "3").splitlines()[1:]]
    assert [row[:8] for row in rows] == [
        [str(batch["number"]), "SETTLED", "file", "1", *(units(batch[name]) for name in MONEY)]
        for batch in listed
    ]
    none = run(coordinator, "list", role="CLIENT")
    assert (none.code, none.out, none.err) == (0, "", "No batches.\n")


def test_where_a_name_is_paid(coordinator: Coordinator) -> None:
    """Each key says it for its own name, and for no other."""
    assert told(coordinator, "address", "--none")["address"] is None
    assert fields(shown(coordinator, "address", "account-17")).items() >= {
        ("sink", "file"),
        ("address", "account-17"),
    }
    until(lambda: told(coordinator, "address")["address"] == "account-17", "the address is in the tables")
    assert told(coordinator, "address", role="CLIENT") == {"sink": None, "address": None}
    told(coordinator, "address", "account-18", role="CLIENT")
    until(lambda: told(coordinator, "address", role="CLIENT")["address"] == "account-18", "so is another one")
    assert told(coordinator, "address")["address"] == "account-17"
    assert told(coordinator, "address", "--none")["address"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("show", "0"), USAGE, "USAGE"),
        (("show", "first"), USAGE, "USAGE"),
        (("show", "99"), NOT_FOUND, "BATCH_NOT_FOUND"),
        (("show", str(2**53)), REFUSED, "INVALID_PAYLOAD"),
        (("list", "--limit", "0"), USAGE, "USAGE"),
        (("close", "--number", "0"), USAGE, "USAGE"),
        (("close", "--number", "99"), REFUSED, "CONFLICT_STATE"),
        (("close", "--number", str(2**53)), REFUSED, "INVALID_PAYLOAD"),
        (("confirm", "1"), USAGE, "USAGE"),
        (("confirm", "1", "--part", "-1"), USAGE, "USAGE"),
        (("confirm", "1", "--part", "100"), REFUSED, "INVALID_PAYLOAD"),
        (("confirm", "99", "--part", "0"), NOT_FOUND, "BATCH_NOT_FOUND"),
        (("refuse", "1", "--part", "0"), USAGE, "USAGE"),
        (("refuse", "99", "--part", "0", "--reason", "x"), NOT_FOUND, "BATCH_NOT_FOUND"),
        (("refuse", "1", "--part", "0", "--reason", "x" * 2001), REFUSED, "INVALID_PAYLOAD"),
        (("address", "account-1", "--none"), USAGE, "USAGE"),
        (("address", ""), REFUSED, "INVALID_PAYLOAD"),
        (("address", "=cmd()"), REFUSED, "INVALID_PAYLOAD"),
        (("address", "x" * 201), REFUSED, "INVALID_PAYLOAD"),
        (("proof",), REFUSED, "CONFLICT_STATE"),
        (("proof", "rig"), REFUSED, "CONFLICT_STATE"),
        (("proof", "no such name"), REFUSED, "INVALID_PAYLOAD"),
    ],
)
def test_mistakes(coordinator: Coordinator, arguments: tuple[str, ...], code: int, expected: str) -> None:
    """Each mistake has its exit code, and its line on stderr."""
    ran = run(coordinator, *arguments, "--json")
    assert (code, "") == (ran.code, ran.out)
    assert expected == json.loads(ran.err)["code"]


@pytest.mark.parametrize("role", ["CLIENT", "MINER"])
def test_only_an_admins_key_moves_batches(coordinator: Coordinator, role: str) -> None:
    """Nor does another one show the sink's secret, or a proof of another name."""
    secret = told(coordinator, "secret")
    assert secret["secret"].startswith("whsec_")
    assert secret["secret"] in shown(coordinator, "secret")
    for arguments in (
        ("close",),
        ("confirm", "1", "--part", "0"),
        ("refuse", "1", "--part", "0", "--reason", "mine"),
        ("secret",),
        ("proof", "rig"),
    ):
        ran = run(coordinator, *arguments, "--json", role=role)
        assert (AUTH, "FORBIDDEN") == (ran.code, json.loads(ran.err)["code"]), arguments
        assert secret["secret"] not in ran.out + ran.err


KEY = "46" * 32
"""Of nobody."""
CHAIN = {"EVM_RPC_URL": "http://127.0.0.1:9", "EVM_CHAIN_ID": "1337", "EVM_PRIVATE_KEY": KEY}
TOKEN = "0x" + "ab" * 20


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "text"),
    [
        ((), CHAIN, USAGE, "TOKEN"),
        ((TOKEN,), {}, USAGE, "EVM_RPC_URL"),
        ((TOKEN,), {**CHAIN, "EVM_CHAIN_ID": "0"}, USAGE, "EVM_CHAIN_ID"),
        ((TOKEN,), {**CHAIN, "EVM_PRIVATE_KEY": KEY[:-1]}, USAGE, "EVM_PRIVATE_KEY"),
        ((TOKEN,), {**CHAIN, "EVM_PRIVATE_KEY": "00" * 32}, USAGE, "EVM_PRIVATE_KEY"),
        (("token",), CHAIN, FAILED, "address"),
        ((TOKEN[:-1],), CHAIN, FAILED, "address"),
        ((TOKEN, "--owner", "me"), CHAIN, FAILED, "address"),
        ((TOKEN,), CHAIN, FAILED, "EVM_RPC_URL"),
    ],
)
def test_mistakes_of_a_deploy(
    tmp_path: Path, arguments: tuple[str, ...], settings: dict[str, str], code: int, text: str
) -> None:
    """Nothing is sent, the error names what is wrong, and nothing shows the key."""
    ran = call(tmp_path, "settlement", "deploy", *arguments, "--json", **settings)
    assert (code, "") == (ran.code, ran.out), ran.err
    error = json.loads(ran.err)
    assert text in error["detail"]
    assert error["next_step"]
    assert KEY[:16] not in ran.err


def test_the_blocking_sdk(coordinator: Coordinator, stuck: int) -> None:
    """Batches close once, are iterated, and end by an admin's word; refusals are exceptions."""
    with (
        Client(coordinator.url, key_of(coordinator, "ADMIN")) as admin,
        Client(coordinator.url, key_of(coordinator, "MINER")) as miner,
        Client(coordinator.url, key_of(coordinator, "CLIENT")) as client,
    ):
        total = admin.settlements.show(stuck)["total"]
        [own] = miner.settlements.list(limit=1)
        assert (own["number"], own["payouts"], own["total"]) == (stuck, 1, total)
        assert list(client.settlements.list()) == []
        with pytest.raises(NotFound):
            client.settlements.show(stuck)
        assert admin.settlements.close(stuck)["total"] == total
        with pytest.raises(Conflict):
            admin.settlements.close(stuck + 1)
        with pytest.raises(Conflict):
            admin.settlements.confirm(stuck, 1)
        with pytest.raises(NotAuthorised):
            miner.settlements.refuse(stuck, 0, "mine")
        assert admin.settlements.confirm(stuck, 0)["confirmed"] == total
        with pytest.raises(Conflict):
            admin.settlements.refuse(stuck, 0, "too late")
        for work in (miner.settlements.close, client.settlements.secret):
            with pytest.raises(NotAuthorised):
                work()
        assert admin.settlements.secret()["secret"].startswith("whsec_")
        with pytest.raises(Conflict, match="pays by itself"):
            miner.settlements.proof()
        assert miner.settlements.set_address("account-1")["address"] == "account-1"
        until(lambda: miner.settlements.address()["address"] == "account-1", "the address is in the tables")
        assert miner.settlements.set_address(None)["address"] is None
        with pytest.raises(RequestRefused) as bad:
            miner.settlements.set_address("")
        assert bad.value.code == "INVALID_PAYLOAD"


async def test_the_asynchronous_sdk(coordinator: Coordinator, stuck: int) -> None:
    """The same surface, awaited."""
    async with (
        AsyncCoordinator(coordinator.url, key_of(coordinator, "ADMIN")) as admin,
        AsyncCoordinator(coordinator.url, key_of(coordinator, "MINER")) as miner,
    ):
        [batch] = [batch async for batch in admin.settlements.list(limit=1)]
        shown = await miner.settlements.show(stuck)
        assert (batch["number"], batch["digest"]) == (stuck, shown["digest"])
        assert (await admin.settlements.close(stuck))["number"] == stuck
        for work in (miner.settlements.confirm(stuck, 0), miner.settlements.close()):
            with pytest.raises(NotAuthorised):
                await work
        assert (await admin.settlements.refuse(stuck, 0, "lost"))["refused"] == batch["total"]
        with pytest.raises(NotFound):
            await admin.settlements.show(stuck + 1)
        assert (await miner.settlements.set_address(None))["address"] is None
        assert (await miner.settlements.address()).keys() == {"sink", "address"}
