"""A log that two versions of the program wrote: the newer one reads all of it, and stored bytes stay.

The example aggregate plays it: its `budget.moved_in.v1` named the client `owner`, v2 names it `client`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from coordinator.application.commands.handler import Handler
from coordinator.application.commands.parsing import parse_command
from coordinator.application.ports import Intent
from coordinator.domain.decision import fold
from coordinator.domain.messages import EVENTS
from coordinator.storage.log.mapping import Columns, UnreadableEvent
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.log.upcasters import Json, upcaster
from coordinator.storage.migrate import migrate
from coordinator.wire.answers import Accepted
from tests.harness.bus import Bench
from tests.harness.deciding import ADMIN
from tests.harness.example import registered
from tests.harness.metadata import STORED_METADATA, TRACEPARENT

GOLDEN = Path(__file__).parents[1] / "golden" / "budgets.jsonl"
OLD, NEW = "budget.moved_in.v1", "budget.moved_in.v2"


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """As the operator has made it: without our tables."""
    return empty_database_url


@pytest.fixture
def newer_version() -> Iterator[Handler[Any]]:
    """This process is the newer version."""
    with registered() as handler:
        from tests.harness.example.budget import BudgetMovedIn

        EVENTS[NEW] = EVENTS.pop(OLD)
        BudgetMovedIn.topic = NEW

        @upcaster(OLD)
        def _moved_in_names_its_client(old: Json) -> tuple[str, Json]:
            owner = old.pop("owner")
            return NEW, {**old, "client": owner}

        yield handler
        BudgetMovedIn.topic = OLD


@pytest.fixture(params=["sqlite", "postgres"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "sqlite":
        migrate(tmp_path / "log.db")
        log: Any = SqliteEventLog(tmp_path / "log.db")
    else:
        url = request.getfixturevalue("database_url")
        migrate(url)
        log = PostgresEventLog(url)
    yield log
    log.close()


def stored(log: Any) -> list[tuple[str, bytes]]:
    """Topic and state of each event, as they are stored."""
    return [(n.topic, bytes(n.state)) for n in log.recorder.select_notifications(start=None, limit=100)]


async def test_a_log_of_two_versions_is_read_and_continued(log: Any, newer_version: Handler[Any]) -> None:
    """Old and new shapes fold to one state, new commands are decided on it, and no stored byte changes."""
    from tests.harness.example.budget import Budget, budget_stream

    lines = [json.loads(line) for line in GOLDEN.read_text("utf-8").splitlines()]
    columns = Columns(
        streams=[budget_stream(line["stream"]) for line in lines],
        versions=[line["version"] for line in lines],
        topics=[line["topic"] for line in lines],
        states=[line["state"].encode() for line in lines],
        metadata=[STORED_METADATA] * len(lines),
    )
    log.recorder.append(columns, [])

    assert [NEW, "budget.moved_out.v1", NEW, NEW] == [r.event.topic for r in log.read(0, 10)]
    streams = log.load([budget_stream("alice"), budget_stream("bob")])
    states = [fold(r.event for r in streams[budget_stream(name)]) for name in ("alice", "bob")]
    assert [Budget("alice", 7), Budget("bob", 4)] == states

    bench = Bench(log, more=[newer_version])
    await bench.bus.start()
    command = parse_command("budget.move", {"to": "bob", "take_from": "alice", "jobs": 7})
    [answer] = await bench.gateway.handle([Intent(command, ADMIN, "message-1", TRACEPARENT)])
    await bench.bus.stop()
    assert isinstance(answer, Accepted)
    assert {"client": "bob", "jobs": 11} == answer.body

    written = stored(log)
    assert [(li["topic"], li["state"].encode()) for li in lines] == written[:4]
    assert ["budget.moved_out.v1", NEW] == [topic for topic, _ in written[4:]]


async def test_the_older_version_stops_at_a_newer_event(log: Any) -> None:
    """A program that meets an event of a later version stops there, and says who can read it."""
    state = b'{"at":1780000002000,"by":"root","client":"alice","jobs":1}'
    log.recorder.append(Columns([uuid4()], [1], ["budget.moved_in.v3"], [state], [STORED_METADATA]), [])
    with pytest.raises(UnreadableEvent, match=r"position 1, .* unknown topic 'budget.moved_in.v3'; a newer"):
        log.read(0, 10)
