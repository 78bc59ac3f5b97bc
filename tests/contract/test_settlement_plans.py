"""The plan of a settlement batch from its tables, on SQLite and Postgres alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.application.money import plans
from coordinator.application.money.plans import BatchPlans, Payable
from coordinator.application.ports import Database
from coordinator.domain.settlement import MAX_PAYOUTS, SinkTerms
from coordinator.runtime.bootstrap import SYSTEM_CLOCK
from coordinator.storage.migrate import migrate
from coordinator.storage.tables.postgres import PostgresDatabase
from coordinator.storage.tables.sqlite import SqliteDatabase

BLOCKING = MAX_PAYOUTS + 20


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    target = str(tmp_path / "c.db") if request.param == "sqlite" else request.getfixturevalue("database_url")
    migrate(target)
    made = SqliteDatabase(Path(target)) if request.param == "sqlite" else PostgresDatabase(target)
    yield made
    made.close()


def fault_of(address: str) -> str | None:
    return None if address.startswith("bank-") else "it begins with bank-"


def bank(*, needs_address: bool = True, minimum: int = 1, quantum: int = 1) -> SinkTerms:
    return SinkTerms("bank", needs_address, fault_of, minimum, quantum)


def add(database: Database, party: str, address: str, sink: str = "bank", earned: int = 7) -> None:
    """A payee with this much money, all of it earned; it waits since its number of the payees."""
    with database.transaction() as tables:
        payee = {"party": party, "sink": sink, "address": address, "earned": earned, "since": int(party[-3:])}
        tables.put("settlement_payees", [payee])
        account = {
            "party": party,
            "balance": earned,
            "held": 0,
            "disputed": 0,
            "changed_at": 1,
            "position": 1,
        }
        tables.put("accounts", [account])


async def read(database: Database, sink: SinkTerms) -> tuple[tuple[str, ...], Payable]:
    made = BatchPlans(database, SYSTEM_CLOCK, sink)
    return (await made.plan()).parties, await made.payable()


@pytest.mark.parametrize("page", [1, 7, 500])
async def test_payees_without_a_valid_address_block_nobody(
    database: Database, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """More of them than a batch has payouts wait for longer than the one that can be paid."""
    monkeypatch.setattr(plans, "PAGE_PAYEES", page)
    for number in range(BLOCKING):
        sink, address = ("bank", f"house-{number}") if number % 2 else ("another", f"bank-{number}")
        add(database, f"farm{number:03}", address, sink)
    assert await read(database, bank()) == ((), Payable(0, 0))
    add(database, f"farm{BLOCKING}", "bank-1")
    assert await read(database, bank()) == ((f"farm{BLOCKING}",), Payable(1, 7))
    everybody = tuple(f"farm{number:03}" for number in range(MAX_PAYOUTS))
    assert await read(database, bank(needs_address=False)) == (
        everybody,
        Payable(BLOCKING + 1, 7 * BLOCKING + 7),
    )


async def test_payees_that_wait_as_long_are_all_planned(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may end between two payees with the same position."""
    monkeypatch.setattr(plans, "PAGE_PAYEES", 2)
    names = tuple(f"{letter}-001" for letter in "abcde")
    for name in reversed(names):
        add(database, name, "bank-1")
    assert await read(database, bank()) == (names, Payable(5, 35))


async def test_an_amount_that_the_sink_does_not_have_is_not_planned(database: Database) -> None:
    """A sink pays multiples of its quantum: those below the minimum then are of no batch."""
    for number, earned in enumerate((9, 10, 19, 20, 29)):
        add(database, f"farm{number:03}", "bank-1", earned=earned)
    assert await read(database, bank(quantum=10)) == (
        tuple(f"farm{number:03}" for number in (1, 2, 3, 4)),
        Payable(4, 60),
    )
    assert await read(database, bank(minimum=11, quantum=10)) == (("farm003", "farm004"), Payable(2, 40))
