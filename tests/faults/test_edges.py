"""Edge processes before one core: nothing is lost with any of them, and limits hold over all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.crypto.mac import request_to_sign, sign_message
from coordinator.dev.servers.processes import family
from tests.harness.executor import SERVICE, SPEC
from tests.harness.processes import Process
from tests.harness.stage import ALICE, ROOT, Stage
from tests.harness.waiting import eventually

JOBS = 12
LIMIT = 15
HMAC = "a second secret of them"


def parts(parent: Process, role: str) -> set[int]:
    """The process ids of the core, or of the edge processes."""
    found = set()
    for pid in family([parent.pid]):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve-process" in words and role.encode() in words:
            found.add(pid)
    return found


def alive(pids: Iterable[int]) -> list[int]:
    """Those of the processes that still run."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("mode", ["embedded", "standard"])
async def test_no_process_is_needed_for_long(
    tmp_path: Path, mode: str, request: pytest.FixtureRequest
) -> None:
    """An edge process and then the core are killed while jobs run: each comes back, and no job is lost."""
    servers = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    given = servers if mode == "standard" else {}
    with Stage(
        tmp_path, edges=2, heartbeat_interval_seconds=0.5, heartbeat_timeout_seconds=4, **given
    ) as stage:
        parent = stage.coordinator()
        await stage.ready()
        async with stage.client(ROOT) as root:
            await root.http.ask_json("POST", "/v1/registry/services", json=SPEC)
        stage.miner("rig1", concurrency=3, transport="http")
        await stage.registered("rig1")
        edges, [core] = parts(parent, "edge"), parts(parent, "core")
        assert 2 == len(edges)
        async with stage.client(tries=60) as client:

            async def one(number: int) -> str:
                job = await client.submit(SERVICE, {"seconds": 0.05}, idempotency_key=f"job-{number}")
                stage.accepted.add(job.job_id)
                assert "COMPLETED" == (await job.wait(90)).state
                return job.job_id

            first = asyncio.gather(*map(one, range(JOBS)))
            await eventually(lambda: len(stage.accepted) >= 2, "jobs under way")
            os.kill(next(iter(edges)), signal.SIGKILL)
            await eventually(lambda: len(parts(parent, "edge") - edges) == 1, "the edge process is back")
            await first
            second = asyncio.gather(*map(one, range(JOBS, 2 * JOBS)))
            await eventually(lambda: len(stage.accepted) >= JOBS + 2, "more jobs under way")
            os.kill(core, signal.SIGKILL)
            jobs = [*await first, *await second]
        await stage.ended(jobs)
        await stage.ready()
        assert {core} != parts(parent, "core")
        await eventually(lambda: set(stage.log.positions().values()) == {stage.log.head()}, "caught up")
        running = family([parent.pid])
        assert 0 == parent.stop()
        assert not alive(running)
        checked = await stage.check()
        assert {"COMPLETED": 2 * JOBS} == checked.states()


async def test_limits_hold_over_all_edge_processes(tmp_path: Path) -> None:
    """Whichever process gets a request: a signature is valid once, and a key's budget is spent together."""
    settings: dict[str, Any] = {
        "rate_limit_requests": LIMIT,
        "rate_limit_window_seconds": 3600,
        "hmac_secret": HMAC,
    }
    with Stage(tmp_path, edges=2, **settings) as stage:
        stage.coordinator()
        await stage.ready()

        async def ask(headers: dict[str, str]) -> int:
            async with httpx.AsyncClient() as fresh:  # the kernel chooses a process for each connection
                return (await fresh.get(f"{stage.urls['main']}/v1/jobs", headers=headers)).status_code

        same = signed(time.time())
        statuses = await asyncio.gather(*(ask(same) for _ in range(8)))
        assert [200] + 7 * [401] == sorted(statuses)
        moments = [time.time() - n for n in range(1, LIMIT + 8)]
        statuses = await asyncio.gather(*(ask(signed(moment)) for moment in moments))
        assert (LIMIT - 1, 8) == (statuses.count(200), statuses.count(429))


async def test_edge_processes_end_with_their_parent(tmp_path: Path) -> None:
    """A parent that is killed leaves no process behind, and its port is free."""
    with Stage(tmp_path, edges=2) as stage:
        parent = stage.coordinator()
        await stage.ready()
        running = parts(parent, "edge") | parts(parent, "core")
        os.kill(parent.pid, signal.SIGKILL)
        await eventually(lambda: not alive(running), "all have ended")
        stage.coordinator()
        await stage.ready()


def signed(moment: float) -> dict[str, str]:
    """The headers of a signed list of jobs."""
    text = f"{moment:.3f}"
    message = request_to_sign("GET", "/v1/jobs", "", text, hashlib.sha256().hexdigest())
    return {"X-Api-Key": ALICE, "X-Timestamp": text, "X-Signature": sign_message(HMAC, message)}
