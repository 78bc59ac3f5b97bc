"""Submits that are committed together: one hold for neighbours, as if each had its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from coordinator.domain.account import (
    AccountCarried,
    AccountDeposit,
    AccountHeld,
    AccountSettle,
    AccountWithdraw,
    PaymentsSettled,
    Terms,
    account_stream,
    books,
)
from coordinator.domain.decision import fold
from coordinator.domain.job import JobCancel, JobSubmitted, job_stream
from coordinator.domain.messages import SYSTEM, Event
from coordinator.domain.service import ServiceRegister
from coordinator.wire.answers import Accepted, Answer
from tests.harness.bus import ALICE, BOB, Bench, WatchedLog, codes, submit
from tests.harness.deciding import ADMIN, a_spec

HELD = ("alice holds 1 for 1",)
ACCOUNT = account_stream("alice")
HOLD = 40_000
"""Of each job: 20 seconds at 0.002."""


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(WatchedLog(), terms=Terms())
    await bench.bus.start()
    await bench.send(ServiceRegister(spec=a_spec(max_units="20")), by=SYSTEM)
    for party in ("alice", "bob"):
        await bench.send(AccountDeposit(party=party, amount=10 * HOLD, business_id="d1"), by=ADMIN)
    bench.committed.clear()
    yield bench
    await bench.bus.stop()


def withdrawal(number: int = 1, amount: int = HOLD) -> AccountWithdraw:
    return AccountWithdraw(party="alice", amount=amount, business_id=f"w{number}")


async def together(bench: Bench, *commands: Any) -> list[Answer]:
    """One batch: a withdrawal is an admin's, a submit with a key of B's is Bob's, the others are Alice's."""
    prepared = []
    for command in commands:
        is_bobs = getattr(command, "idempotency_key", None) in ("B1", "B2")
        by = ADMIN if isinstance(command, AccountWithdraw) else BOB if is_bobs else ALICE
        prepared += await bench.prepare(command, by=by)
    return await bench.bus.submit(prepared)


def events(bench: Bench) -> list[Event]:
    return [recorded.event for appended in bench.committed for recorded in appended.events]


def story(found: Sequence[Event]) -> list[str]:
    """Holds with their jobs and amounts in holds, jobs, and the other events of Alice's account."""
    lines = []
    for event in found:
        match event:
            case AccountHeld():
                lines.append(f"{event.party} holds {event.amount / HOLD:g} for {event.jobs}")
            case JobSubmitted():
                lines.append("job")
            case _ if getattr(event, "party", "") == "alice" and event.noun == "account":
                lines.append(event.topic.split(".")[1])
            case _:
                pass
    return lines


async def same_as_the_log(bench: Bench) -> None:
    """The state that the next decision is made on is that of the log, with its version."""
    recorded = bench.log.load([ACCOUNT])[ACCOUNT]
    assert [one.version for one in recorded] == list(range(1, len(recorded) + 1))
    state = fold(one.event for one in recorded)
    assert bench.bus.known(ACCOUNT) == (state, recorded[-1].position)
    assert state.events == len(recorded)


async def test_submits_of_a_batch_have_one_hold(bench: Bench) -> None:
    """It is before their jobs, and each command is told the place of its own job."""
    answers = await together(bench, submit("1"), submit("2"), submit("3"))
    assert story(events(bench)) == ["alice holds 3 for 3", "job", "job", "job"]
    [appended] = bench.committed
    jobs = [r.position for r in appended.events if isinstance(r.event, JobSubmitted)]
    assert [answer.position for answer in answers if isinstance(answer, Accepted)] == jobs
    await same_as_the_log(bench)
    await together(bench, submit("4"))
    assert story(events(bench))[4:] == ["alice holds 1 for 1", "job"]
    await same_as_the_log(bench)


async def test_each_client_has_its_own_hold(bench: Bench) -> None:
    """Submits of others in between change nothing: only neighbours in one account are merged."""
    await together(bench, submit("1"), submit("B1"), submit("2"), submit("B2"))
    assert story(events(bench)) == ["alice holds 2 for 2", "job", "bob holds 2 for 2", "job", "job", "job"]
    await same_as_the_log(bench)


async def test_an_event_in_between_makes_two_holds(bench: Bench) -> None:
    """The events of an account stay in the order of its commands."""
    answers = await together(bench, submit("1"), submit("2"), withdrawal(), submit("3"), submit("4"))
    assert codes(answers) == ["accepted"] * 5
    expected = ["alice holds 2 for 2", "job", "job", "posted", "alice holds 2 for 2", "job", "job"]
    assert story(events(bench)) == expected
    await same_as_the_log(bench)


async def test_a_refused_command_changes_no_hold(bench: Bench) -> None:
    """The sum of the holds before it counts, and is no less or more after it."""
    refused = [withdrawal(1, 9 * HOLD), submit("too dear", budget=9 * HOLD)]
    answers = await together(bench, submit("1"), submit("2"), *refused, submit("3"), submit("1"))
    assert codes(answers) == ["accepted"] * 2 + ["INSUFFICIENT_FUNDS"] * 2 + ["accepted"] * 2
    assert answers[5] == answers[0]
    assert story(events(bench)) == ["alice holds 3 for 3", "job", "job", "job"]
    await same_as_the_log(bench)


async def test_a_command_that_fails_changes_no_hold(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hold was merged already when its answer failed."""
    prepared = [(await bench.prepare(submit(key)))[0] for key in ("1", "2", "3")]
    handler = prepared[0].handler
    answer = type(handler).answer

    def fails(self: Any, one: Any, state: Any) -> Any:
        if one.stream == prepared[1].stream:
            raise RuntimeError("no answer")
        return answer(self, one, state)

    monkeypatch.setattr(type(handler), "answer", fails)
    answers = await bench.bus.submit(prepared)
    assert codes(answers) == ["accepted", "INTERNAL", "accepted"]
    assert story(events(bench)) == ["alice holds 2 for 2", "job", "job"]
    await same_as_the_log(bench)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (0, [*HELD, "job", *HELD, "carried", "job", "alice holds 2 for 2", "job", "job"]),
        (1, [*HELD, "carried", "job", "alice holds 3 for 3", *["job"] * 3]),
        (2, ["alice holds 4 for 4", *["job"] * 4]),
    ],
)
async def test_the_whole_state_comes_at_its_number_also_in_a_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, before: int, expected: list[str]
) -> None:
    """Each fourth event carries the state on; the hold before it has one job."""
    monkeypatch.setattr(books, "CARRIED_EVERY", 4)
    for number in range(before):
        await together(bench, withdrawal(number, 1))
    known = len(story(events(bench)))
    await together(bench, *(submit(str(number)) for number in range(4)))
    assert story(events(bench))[known:] == expected
    for one in bench.log.load([ACCOUNT])[ACCOUNT]:
        assert isinstance(one.event, AccountCarried) == (one.version % 4 == 0)
    await same_as_the_log(bench)


async def test_after_a_conflict_the_holds_are_merged_anew(bench: Bench) -> None:
    """Another process changed the account meanwhile: the batch is decided again, on the state of now."""
    await together(bench, submit("1"))
    other = Bench(bench.log, terms=Terms())
    await other.bus.start()
    await together(other, submit("2"))
    await other.bus.stop()
    bench.committed.clear()
    answers = await together(bench, submit("3"), submit("4"))
    assert codes(answers) == ["accepted"] * 2
    assert bench.bus.stats.conflicts == 1
    assert story(events(bench)) == ["alice holds 2 for 2", "job", "job"]
    await same_as_the_log(bench)


async def test_settlements_of_stale_lists_settle_each_job_once(bench: Bench) -> None:
    """Two lists that overlap, and a repeat, in one batch: the second settlement has what was left."""
    keys = ("1", "2", "3")
    await together(bench, *map(submit, keys))
    answers = await together(bench, *(JobCancel(job_id=job_stream("alice", key)) for key in keys))
    ends = [answer.position for answer in answers if isinstance(answer, Accepted)]
    jobs = [(job_stream("alice", key), end) for key, end in zip(keys, ends, strict=True)]
    first, second = AccountSettle(after=0, jobs=tuple(jobs[:2])), AccountSettle(after=0, jobs=tuple(jobs))
    bench.committed.clear()
    answers = await bench.send(first, second, first, by=SYSTEM)
    assert [answer.body for answer in answers if isinstance(answer, Accepted)] == [
        {"number": 1, "until": ends[1]},
        {"number": 2, "until": ends[2]},
        {"number": 2, "until": ends[2]},
    ]
    settled = [event for event in events(bench) if isinstance(event, PaymentsSettled)]
    assert [event.jobs for event in settled] == [[job for job, _ in jobs[:2]], [jobs[2][0]]]
    assert (await bench.bus.state(ACCOUNT)).held == 0


async def test_a_job_that_has_not_ended_is_not_settled(bench: Bench) -> None:
    """The whole command is refused, and is sent again later."""
    await together(bench, submit("1"), submit("2"))
    [ended] = await together(bench, JobCancel(job_id=job_stream("alice", "1")))
    assert isinstance(ended, Accepted)
    jobs = ((job_stream("alice", "1"), ended.position), (job_stream("alice", "2"), ended.position + 1))
    answers = await bench.send(AccountSettle(after=0, jobs=jobs), by=SYSTEM)
    assert codes(answers) == ["CONFLICT_STATE"]
    assert (await bench.bus.state(ACCOUNT)).held == 2 * HOLD
