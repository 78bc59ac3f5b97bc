"""The parent of edge processes: it holds the port, starts again what ended, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coordinator.edge.state.open_connections import ConnectionLimits
from coordinator.runtime.edges.edge import share_of
from coordinator.runtime.edges.parent import ProcessFailed, hold_port, run_parent
from coordinator.runtime.process.ports import listen
from coordinator.runtime.settings import Settings, load_settings
from tests.harness.waiting import eventually

CHILD = """
import json, os, sys, time
ready, role = int(sys.argv[sys.argv.index("--ready") + 1]), sys.argv[2]
with open(sys.argv[1], "a") as notes:
    notes.write(f"{role} {os.getpid()}\\n")
os.write(ready, json.dumps({"role": role}).encode())
os.close(ready)
time.sleep(600)
"""


def settings(folder: Path, **more: Any) -> Settings:
    return load_settings(_env_file=None, data_dir=folder, edges=2, app_port=0, **more)


async def test_what_ends_is_started_again_and_all_ends_with_the_parent(tmp_path: Path) -> None:
    """Each process that ends is replaced by one of its role; a stop ends all of them."""
    notes, ready = tmp_path / "notes", asyncio.Event()
    told: list[tuple[dict[str, Any], int]] = []

    def on_ready(about: dict[str, Any], port: int) -> None:
        told.append((about, port))
        ready.set()

    def started() -> list[tuple[str, int]]:
        lines = notes.read_text().splitlines()
        return [(role, int(pid)) for role, _, pid in (line.partition(" ") for line in lines)]

    def has_started(count: int) -> bool:
        return len(started()) == count

    command = [sys.executable, "-I", "-c", CHILD, str(notes)]
    parent = asyncio.create_task(run_parent(settings(tmp_path), command, on_ready))
    await asyncio.wait_for(ready.wait(), 30)
    assert {"role": "core"} == told[0][0]
    first = dict(started())
    assert ["core", "edge", "edge"] == sorted(role for role, _ in started())
    for n, role in enumerate(("edge", "core"), start=4):
        os.kill(first[role], signal.SIGKILL)
        await eventually(partial(has_started, n), f"another {role}")
        assert role == started()[-1][0]
    parent.cancel()
    await asyncio.gather(parent, return_exceptions=True)
    assert [] == [pid for _, pid in started() if _runs(pid)]


async def test_a_start_that_fails_fails(tmp_path: Path) -> None:
    """If a process ends before all work, the others end, and the parent has its exit code."""
    command = [sys.executable, "-I", "-c", "import sys; sys.exit(7)"]
    with pytest.raises(ProcessFailed) as failed:
        await run_parent(settings(tmp_path), command, lambda about, port: None)
    assert 7 == failed.value.code


def test_the_port_is_held_for_our_processes_alone() -> None:
    """Sockets that share the port may listen while it is held; a server that does not share it may not."""
    with hold_port("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with listen("127.0.0.1", port, shared=True), listen("127.0.0.1", port, shared=True):
            for _ in range(20):
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            with pytest.raises(OSError, match="in use"):
                hold_port("127.0.0.1", port)


def test_connections_are_shared_out() -> None:
    """All edge processes together may have as many connections as one may; a key's limits are the core's."""
    limits = ConnectionLimits(total=101, per_address=0, per_key=7, streams=9, streams_per_key=3)
    share = share_of(limits, 2)
    assert (51, 0, 7, 9, 3) == (
        share.total,
        share.per_address,
        share.per_key,
        share.streams,
        share.streams_per_key,
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
