"""What the way in writes to the operator's log about commands."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest
import structlog

from coordinator.application.commands import gateway
from coordinator.application.ports import Intent
from coordinator.domain.job import JobCancel
from coordinator.domain.messages import SYSTEM
from coordinator.domain.service import ServiceRegister
from tests.harness.bus import ALICE, Bench, WatchedLog, submit
from tests.harness.deciding import a_spec


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(WatchedLog())
    await bench.bus.start()
    await bench.send(ServiceRegister(spec=a_spec()), by=SYSTEM)
    yield bench
    await bench.bus.stop()


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (logging.INFO, ["info refused SERVICE_NOT_FOUND", "info accepted job.cancel"]),
        (
            logging.DEBUG,
            ["debug accepted job.submit", "info refused SERVICE_NOT_FOUND", "info accepted job.cancel"],
        ),
    ],
)
async def test_the_usual_course_of_a_job_is_said_at_debug_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, level: int, expected: list[str]
) -> None:
    """A refusal, and what is not usual, is one line each at info, with where it is in the log."""
    lines = structlog.testing.LogCapture()
    logger = structlog.wrap_logger(
        None, processors=[lines], wrapper_class=structlog.make_filtering_bound_logger(level)
    )
    monkeypatch.setattr(gateway, "log", logger)
    [job] = await bench.prepare(submit("job"))
    commands = [submit("job"), submit("b", service="unknown"), JobCancel(job_id=job.stream)]
    await bench.gateway.handle([Intent(command, ALICE) for command in commands])
    told = [f"{e['log_level']} {e['event']} {e.get('code', e['command'])}" for e in lines.entries]
    assert expected == told
    assert ["alice"] * len(expected) == [entry["by"] for entry in lines.entries]
    assert 4 == lines.entries[-1]["position"]
