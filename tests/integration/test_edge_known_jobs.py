"""A job is read from memory as it is in the tables, and at its commit: no read waits for the projector."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from uuid import UUID

import pytest

from coordinator.edge.state.job_states import row_of_state
from coordinator.edge.state.tables.rows import JobRow
from tests.harness.waiting import eventually
from tests.integration.edge_bench import SERVICE, Bench


def known_row(edge: Bench, job: str) -> JobRow | None:
    found = edge.app.state.context.known(UUID(job))
    assert found is not None
    return row_of_state(*found)


async def table_row(edge: Bench, job: str) -> JobRow:
    await edge.reached(edge.coordinator.feed.head)
    row: JobRow | None = await edge.app.state.context.reads.job(job)
    assert row is not None
    return row


async def test_memory_and_tables_show_the_same(any_edge: Bench) -> None:
    """Every column, of a queued job, a running one, one that was released, and a completed one."""
    edge = any_edge
    session = await edge.register()
    limits = {"priority": 3, "constraints": {"max_price": "0.5"}, "max_attempts": 2}
    job = (await edge.submit(edge.alice, **limits))["job_id"]
    assert await table_row(edge, job) == known_row(edge, job)
    offer = await edge.poll()
    running = await table_row(edge, job)
    assert ("RUNNING", "rig") == (running.state, running.miner_id)
    assert running == known_row(edge, job)
    body = {"attempt": 1, "session_id": session["session_id"]}
    assert 200 == (await edge.rig.post(f"/v1/miners/{job}/release", json=body)).status_code
    again = await table_row(edge, job)
    assert ("QUEUED", 2, None) == (again.state, again.attempt, again.miner_id)
    assert again == known_row(edge, job)
    offer = await edge.poll()
    await asyncio.sleep(0.01)  # the paid time begins after the claim
    done = await edge.complete(offer, {"text": "done"})
    assert 200 == done.status_code, done.text
    completed = await table_row(edge, job)
    assert ("COMPLETED", 2) == (completed.state, completed.attempt)
    assert completed == known_row(edge, job)


async def test_an_end_without_a_result_is_read_from_the_tables(any_edge: Bench) -> None:
    """Its state does not tell all of its row, so the read waits for the tables: it is never out of date."""
    edge = any_edge
    job = (await edge.submit(edge.alice))["job_id"]
    assert 200 == (await edge.alice.post(f"/v1/jobs/{job}/cancel", json={"reason": "enough"})).status_code
    shown = (await edge.alice.get(f"/v1/jobs/{job}")).json()
    assert ("CANCELED", "enough") == (shown["state"], shown["error"]["message"])
    assert None is known_row(edge, job)


@pytest.fixture
async def unprojected(any_edge: Bench) -> Bench:
    """With a miner, and from now on without a projector."""
    await any_edge.register()
    [projector] = [r for r in any_edge.coordinator.runners if r.follower.name == "projector"]
    await projector.stop()
    return any_edge


async def complete(edge: Bench, job: str, offer: dict[str, Any]) -> None:
    miner = edge.app.state.context.gateway
    session = (await miner.state(UUID(job))).started.session_id
    edge.reached = _at_once  # type: ignore[method-assign]
    answer = await edge.complete(offer, {"salt": os.urandom(4).hex()}, session_id=session)
    assert 200 == answer.status_code, answer.text


async def _at_once(position: int) -> None:
    """The tables stay where they are."""


async def is_watching(edge: Bench) -> bool:
    return bool(edge.app.state.context.job_watch.is_watching)


async def test_a_result_is_readable_at_its_commit(unprojected: Bench) -> None:
    """Also by its client alone, and by a request that waits for it already."""
    edge = unprojected
    body = {"service": SERVICE, "payload": {"text": "hello"}}
    job = (await edge.alice.post("/v1/jobs", json=body)).json()["job_id"]
    shown = await edge.alice.get(f"/v1/jobs/{job}")
    assert (200, "QUEUED") == (shown.status_code, shown.json()["state"])
    assert 404 == (await edge.bob.get(f"/v1/jobs/{job}")).status_code
    offer = await edge.poll()
    assert 425 == (await edge.alice.get(f"/v1/jobs/{job}/result")).status_code
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(edge.alice.get(f"/v1/jobs/{job}/result", params={"wait": "30"}))
        await eventually(lambda: is_watching(edge), "the request")
        began = asyncio.get_running_loop().time()
        await complete(edge, job, offer)
    assert asyncio.get_running_loop().time() - began < 4  # the watch looks at the tables every five seconds
    at_once = await edge.alice.get(f"/v1/jobs/{job}/result")
    assert (200, 200) == (waiting.result().status_code, at_once.status_code)
    assert at_once.json()["result"] == waiting.result().json()["result"]
    assert int(at_once.headers["x-position"]) == edge.coordinator.feed.head
