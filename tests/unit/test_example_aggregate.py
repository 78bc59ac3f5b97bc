"""A new aggregate goes the whole way: its file, its handler, and one line where the handlers are listed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.application.commands.handler import Handler
from coordinator.application.commands.parsing import parse_command
from coordinator.application.ports import Intent
from coordinator.domain.errors import Code
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.migrate import migrate
from coordinator.wire.answers import Accepted, Answer, Refused
from tests.harness.bus import Bench
from tests.harness.deciding import ADMIN, ALICE
from tests.harness.example import registered
from tests.harness.metadata import TRACEPARENT


@pytest.fixture(scope="module")
def budgets() -> Iterator[Handler[Any]]:
    with registered() as handler:
        yield handler


@pytest.fixture
async def bench(budgets: Handler[Any], tmp_path: Path) -> AsyncIterator[Bench]:
    migrate(tmp_path / "log.db")
    log = SqliteEventLog(tmp_path / "log.db")
    bench = Bench(log, more=[budgets])
    await bench.bus.start()
    yield bench
    await bench.bus.stop()
    log.close()


async def move(bench: Bench, by: Any = ADMIN, **fields: Any) -> Answer:
    """As an edge sends it: by name, with the fields of a message."""
    command = parse_command("budget.move", fields)
    [answer] = await bench.gateway.handle([Intent(command, by, f"message-{fields['jobs']}", TRACEPARENT)])
    return answer


async def test_a_decision_over_two_streams_goes_the_whole_way(bench: Bench, budgets: Handler[Any]) -> None:
    """Command, decision over two streams, one append, states, and what another process reads back."""
    from tests.harness.example.budget import Budget, budget_stream

    assert Accepted(1, {"client": "alice", "jobs": 10}) == await move(bench, to="alice", jobs=10)
    assert Accepted(3, {"client": "bob", "jobs": 4}) == await move(bench, to="bob", take_from="alice", jobs=4)

    recorded = bench.log.read(0, 10)
    expected = [
        ("budget.moved_in.v1", budget_stream("alice"), 1, "message-10"),
        ("budget.moved_out.v1", budget_stream("alice"), 2, "message-4"),
        ("budget.moved_in.v1", budget_stream("bob"), 1, "message-4"),
    ]
    assert expected == [(r.event.topic, r.stream, r.version, r.metadata.command_id) for r in recorded]
    assert {TRACEPARENT} == {r.metadata.traceparent for r in recorded}
    assert [1, 2] == [len(appended.events) for appended in bench.committed]  # one transaction a decision

    other = Bench(bench.log, more=[budgets])
    states = [await other.bus.state(budget_stream(name)) for name in ("alice", "bob", "carol")]
    assert [Budget("alice", 6), Budget("bob", 4), None] == states


async def test_a_refusal_leaves_both_streams_alone(bench: Bench) -> None:
    """A move of too much is refused, and so is a client's: nothing is appended to either stream."""
    await move(bench, to="alice", jobs=1)
    refused = await move(bench, to="bob", take_from="alice", jobs=2)
    assert Refused(Code.CONFLICT_STATE, "alice has not that much") == refused
    answer = await move(bench, ALICE, to="alice", jobs=5)
    assert isinstance(answer, Refused)
    assert Code.FORBIDDEN == answer.code
    assert 1 == bench.log.head()


async def test_both_streams_are_guarded(bench: Bench, budgets: Handler[Any]) -> None:
    """Another process that moved the giver's budget meanwhile is noticed: nothing is given twice."""
    await move(bench, to="alice", jobs=5)
    other = Bench(bench.log, more=[budgets])
    await other.bus.start()
    try:
        assert isinstance(await move(other, to="bob", take_from="alice", jobs=4), Accepted)
        assert isinstance(await move(bench, to="carol", take_from="alice", jobs=4), Refused)
        assert isinstance(await move(bench, to="carol", take_from="alice", jobs=1), Accepted)
    finally:
        await other.bus.stop()
