"""Programs that take all they can get: they end with a code, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from coordinator.miner.executors import Workspace
from coordinator.miner.executors.base import (
    UNLOCKED_PREFIX,
    WORKSPACE_PREFIX,
    YOUNG_SECONDS,
    remove_left_workspaces,
)
from coordinator.miner.executors.errors import (
    EXECUTOR_FAILED,
    OUTPUT_TOO_LARGE,
    RESOURCE_LIMIT,
    ExecutorError,
)
from coordinator.miner.executors.limits import Bound
from coordinator.miner.executors.process import MAX_OUTPUT_BYTES, run_program
from coordinator.miner.executors.usage import MAX_PROCESSES, disk_usage
from tests.harness.waiting import eventually
from tests.harness.works import processes_in

MIB = 2**20


async def breach(folder: Path, script: str, **limits: Any) -> tuple[str, bool, list[str]]:
    """Code, retryability and the lines of a Python program that exceeds a limit."""
    lines: list[str] = []
    with pytest.raises(ExecutorError) as caught:
        await run_program(
            [sys.executable, "-u", "-c", script],
            folder=folder,
            timeout_seconds=60,
            on_stdout=lines.append,
            **limits,
        )
    assert processes_in(folder) == []
    return caught.value.code, caught.value.retryable, lines


# --- programs ----------------------------------------------------------------------------------------------
GROWS = """
import time
kept = []
for n in range(40):
    kept.append(b'x' * (50 << 20))
    print(n)
    time.sleep(0.05)
"""
FILLS = """
import time
for n in range(400):
    open(str(n), 'wb').write(b'x' * (4 << 20))
    time.sleep(0.02)
"""
WRITES = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
open('big', 'wb').write(bytes(2 << 20))
"""
FORKS = """
import os, time
for _ in range(200):
    if not os.fork():
        break
time.sleep(600)
"""


@pytest.mark.parametrize("here", [True, False])
async def test_memory_is_watched(tmp_path: Path, here: bool) -> None:
    """A program without the kernel's limit ends soon after it exceeds its memory; a larger miner may do."""
    code, retryable, lines = await breach(
        tmp_path, GROWS, max_memory=Bound(200 * MIB, here), limits_data=False
    )
    assert (code, retryable) == (RESOURCE_LIMIT, here)
    assert 3 <= len(lines) < 15


async def test_memory_of_all_processes_counts(tmp_path: Path) -> None:
    """Four processes of 80 MiB are more than 200 MiB."""
    script = f"import os\nfor _ in range(3):\n    if not os.fork(): break\nkept = b'x' * ({80 * MIB})\n"
    code, *_ = await breach(tmp_path, script + "import time; time.sleep(60)", max_memory=Bound(200 * MIB))
    assert code == RESOURCE_LIMIT


async def test_the_kernel_refuses_memory(tmp_path: Path) -> None:
    """One large piece is refused before it is used, so the watch need not be fast."""
    script = f"try:\n    bytes({2000 * MIB})\nexcept MemoryError:\n    print('refused')\n"
    lines: list[str] = []
    finished = await run_program(
        [sys.executable, "-c", script],
        folder=tmp_path,
        timeout_seconds=60,
        max_memory=Bound(200 * MIB),
        on_stdout=lines.append,
    )
    assert (finished.returncode, lines) == (0, ["refused"])


async def test_files_are_bounded_together(tmp_path: Path) -> None:
    """Many files of allowed size end the program once they exceed the space of a job."""
    code, *_ = await breach(tmp_path, FILLS, max_disk=Bound(40 * MIB))
    assert code == RESOURCE_LIMIT
    assert disk_usage(tmp_path) < 800 * MIB


async def test_a_file_is_bounded(tmp_path: Path) -> None:
    """The first byte beyond the limit of one file ends a program that does not expect it."""
    code, retryable, _ = await breach(tmp_path, WRITES, max_file_bytes=MIB)
    assert (code, retryable) == (OUTPUT_TOO_LARGE, False)
    assert (tmp_path / "big").stat().st_size == MIB


async def test_a_program_in_c_is_ended_by_its_first_byte_too_many(tmp_path: Path) -> None:
    """Python ignores the signal for that; programs that we start do not inherit this."""
    arguments = ["dd", "if=/dev/zero", "of=big", "bs=65536", "count=1000"]
    with pytest.raises(ExecutorError) as caught:
        await run_program(arguments, folder=tmp_path, timeout_seconds=60, max_file_bytes=MIB)
    assert (caught.value.code, (tmp_path / "big").stat().st_size) == (OUTPUT_TOO_LARGE, MIB)


async def test_processes_are_bounded(tmp_path: Path) -> None:
    """A program that starts ever more processes ends with all of them."""
    code, *_ = await breach(tmp_path, FORKS)
    assert code == RESOURCE_LIMIT
    assert MAX_PROCESSES < 200


async def test_messages_are_bounded(tmp_path: Path) -> None:
    """A program that writes for ever to its pipes ends: to read them costs time."""
    code, retryable, lines = await breach(tmp_path, "while True: print('x' * 60000)")
    assert (code, retryable) == (RESOURCE_LIMIT, False)
    assert sum(map(len, lines)) <= MAX_OUTPUT_BYTES


async def test_a_program_goes_first_and_gains_nothing(tmp_path: Path) -> None:
    """Where memory runs out the system ends the program and not its miner; no file gives it more rights."""
    script = "print(open('/proc/self/oom_score_adj').read(), open('/proc/self/status').read())"
    lines: list[str] = []
    await run_program(
        [sys.executable, "-c", script], folder=tmp_path, timeout_seconds=60, on_stdout=lines.append
    )
    assert lines[0] == "1000"
    assert "NoNewPrivs:\t1" in lines


async def test_a_missing_program_does_not_start(tmp_path: Path) -> None:
    """The reason is the system's, and another miner may have it."""
    with pytest.raises(ExecutorError, match="does not start: No such file") as caught:
        await run_program(["/nowhere/program"], folder=tmp_path, timeout_seconds=10)
    assert (caught.value.code, caught.value.retryable) == (EXECUTOR_FAILED, True)


MINER = """
import asyncio, sys
from pathlib import Path
from coordinator.miner.executors import Workspace
from coordinator.miner.executors.process import run_program

async def main():
    folder = Workspace(Path(sys.argv[1])).path
    print(folder, flush=True)
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    told = lambda line: print(line, flush=True)
    await run_program([sys.executable, "-c", script], folder=folder, timeout_seconds=600, on_stdout=told)

asyncio.run(main())
"""


async def test_nothing_is_left_of_a_killed_miner(tmp_path: Path) -> None:
    """Its programs die with it, and the next miner removes its folders at once, but none in use or new."""
    miner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MINER, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert miner.stdout is not None
    left = Path((await miner.stdout.readline()).decode().strip())
    program = int(await miner.stdout.readline())
    own = Workspace(tmp_path)
    new, abandoned = tmp_path / f"{UNLOCKED_PREFIX}1", tmp_path / f"{UNLOCKED_PREFIX}2"
    for folder in (new, abandoned):
        folder.mkdir()
    long_ago = time.time() - YOUNG_SECONDS - 1
    os.utime(abandoned, (long_ago, long_ago))
    assert remove_left_workspaces(tmp_path) == 1
    assert not abandoned.exists()
    (left / "input").write_text("a client's file")
    assert left.name.startswith(WORKSPACE_PREFIX)
    assert own.path.name.startswith(WORKSPACE_PREFIX)
    assert remove_left_workspaces(tmp_path) == 0
    assert psutil.pid_exists(program)

    miner.send_signal(signal.SIGKILL)
    await miner.wait()
    await eventually(lambda: not psutil.pid_exists(program))
    assert remove_left_workspaces(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == sorted([own.path.name, new.name])
    own.remove()
    assert os.listdir(tmp_path) == [new.name]
