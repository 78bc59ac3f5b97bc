"""Accounts with long histories, on both engines: the state is read from a few events at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from coordinator.application.ports import EventLog, NewEvent
from coordinator.domain import account
from coordinator.domain.account import (
    CARRIED_EVERY,
    PAYMENTS_STREAM,
    AccountCarried,
    PaymentsSettled,
    Settlements,
    Unpaid,
    account_stream,
)
from coordinator.domain.decision import fold
from coordinator.domain.job import JobCanceled
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.migrate import migrate
from tests.harness.deciding import ADMIN, ALICE, T0
from tests.harness.metadata import METADATA

ACCOUNT = account_stream("alice")


@pytest.fixture(params=["sqlite", "postgres"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    target: Any = tmp_path / "coordinator.db"
    if request.param == "postgres":
        target = request.getfixturevalue("database_url")
    migrate(target)
    log = SqliteEventLog(target) if request.param == "sqlite" else PostgresEventLog(target)
    yield log
    log.close()


def history(length: int) -> list[NewEvent]:
    """A deposit, and then holds and releases of an account, as the rules write them."""
    transfer = account.TransferContext(T0, ADMIN, None, None)
    deposit = account.AccountDeposit(party="alice", amount=100, business_id="d1")
    events = [e for stream, e in account.decide(None, deposit, transfer) if stream == ACCOUNT]
    state: Any = fold(events)
    settlements: Any = None
    while len(events) < length:
        job_id = UUID(int=len(events))
        for _, event in account.hold(state, "alice", 7, T0 + len(events), ALICE):
            events.append(event)
            state = fold([event], state)
        ended = account.EndedJob(job_id, len(events), "alice", 7)
        accounts = {"alice": state, "@fees": None}
        settle = account.SettleContext(T0 + len(events), ADMIN, (ended,), accounts, account.Terms())
        command = account.AccountSettle(after=0, jobs=((job_id, len(events)),))
        for stream, event in account.decide(settlements, command, settle):
            if stream == ACCOUNT:
                events.append(event)
                state = fold([event], state)
            else:
                settlements = fold([event], settlements)
    return [NewEvent(ACCOUNT, n, event, METADATA) for n, event in enumerate(events[:length], start=1)]


@pytest.mark.parametrize("more", [-1, 0, 1, CARRIED_EVERY - 1, CARRIED_EVERY, CARRIED_EVERY + 5])
def test_a_long_account_is_read_from_its_last_whole_state(log: EventLog, more: int) -> None:
    """The read events give the state of all of them, and their version; others' streams are read as well."""
    events = history(CARRIED_EVERY + more)
    log.append([*events, NewEvent(UUID(int=5), 1, canceled(), METADATA)])
    loaded = log.load([ACCOUNT, UUID(int=5)])
    assert fold(r.event for r in loaded[ACCOUNT]) == fold(e.event for e in events)
    assert loaded[ACCOUNT][-1].version == CARRIED_EVERY + more
    begun = max(1, (CARRIED_EVERY + more) // CARRIED_EVERY * CARRIED_EVERY)
    assert loaded[ACCOUNT][0].version == begun
    assert isinstance(loaded[ACCOUNT][0].event, AccountCarried) == (more >= 0)
    assert [r.event for r in loaded[UUID(int=5)]] == [canceled()]


def test_of_settlements_the_last_one_is_read(log: EventLog) -> None:
    """It has the whole state; an empty stream is absent, and others are read beside it as a whole."""
    assert log.load([PAYMENTS_STREAM, UUID(int=5)]) == {}
    log.append([NewEvent(UUID(int=5), n, canceled(), METADATA) for n in (1, 2)])
    for number in range(1, 4):
        log.append([NewEvent(PAYMENTS_STREAM, number, settled(number), METADATA)])
        loaded = log.load([UUID(int=5), PAYMENTS_STREAM])
        assert [r.event for r in loaded[PAYMENTS_STREAM]] == [settled(number)]
        assert loaded[PAYMENTS_STREAM][0].version == number
        assert fold(r.event for r in loaded[PAYMENTS_STREAM]) == Settlements(number, 10 * number)
        assert [r.version for r in loaded[UUID(int=5)]] == [1, 2]
    assert log.load([PAYMENTS_STREAM]).keys() == {PAYMENTS_STREAM}


@pytest.mark.parametrize("length", [CARRIED_EVERY, 2 * CARRIED_EVERY + 3])
def test_another_long_stream_is_read_as_a_whole(log: EventLog, length: int) -> None:
    """No event of it has the whole state."""
    stream = UUID(int=7)
    log.append([NewEvent(stream, n, canceled(), METADATA) for n in range(1, length + 1)])
    assert [r.version for r in log.load([stream])[stream]] == list(range(1, length + 1))


def settled(number: int) -> PaymentsSettled:
    return PaymentsSettled(
        at=1,
        by="coordinator",
        number=number,
        after=10 * (number - 1),
        until=10 * number,
        available_at=1,
        payments=(),
        unpaid=(Unpaid(job_id=UUID(int=number), client="alice", hold=7),),
    )


def canceled() -> JobCanceled:
    return JobCanceled(at=1, by="alice", job_id=UUID(int=5), client="alice", attempt=1, reason="")
