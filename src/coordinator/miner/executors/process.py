"""Runs a program for a job: bounded in time and size, and never left behind."""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.miner.executors.base import EXECUTOR_FAILED, EXECUTOR_TIMEOUT, ExecutorError

STDERR_BYTES: Final = 32 * 1024
"""The kept end of a program's stderr."""
LINE_BYTES: Final = 64 * 1024
"""A longer line is cut, so that no program fills our memory."""
GRACE_SECONDS: Final = 1.0
"""How long the pipes of a killed program may take to close."""
_PASSED_ON: Final = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "SYSTEMROOT")
"""The only variables that programs inherit: others may hold the miner's keys."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished program: its return code (negative: killed by that signal), and the end of its stderr."""

    returncode: int
    stderr: str


async def run_program(
    arguments: Sequence[str],
    *,
    folder: Path,
    timeout_seconds: float,
    max_file_bytes: int | None = None,
    max_memory_bytes: int | None = None,
    on_stdout: Callable[[str], None] | None = None,
    on_stderr: Callable[[str], None] | None = None,
) -> Finished:
    """Run a program to its end, in a folder and a process group of its own, without a shell or stdin.

    The callbacks get each line as it comes. On Linux `max_file_bytes` bounds every file that it writes, and
    `max_memory_bytes` the address space of each of its processes.
    After a cancellation, a timeout or an error in a callback, the whole group is killed before this returns.
    Raises ExecutorError: EXECUTOR_TIMEOUT (retryable: another miner may be faster), EXECUTOR_FAILED if the
    program does not start.
    """
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            cwd=folder,
            env={**environment, "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise ExecutorError(
            EXECUTOR_FAILED, f"the program does not start: {error.strerror}", retryable=True
        ) from None

    assert process.stdout is not None
    assert process.stderr is not None
    stderr_end = bytearray()
    readers = [
        asyncio.ensure_future(_read_lines(process.stdout, on_stdout, None)),
        asyncio.ensure_future(_read_lines(process.stderr, on_stderr, stderr_end)),
    ]
    try:
        _limit(process.pid, timeout_seconds, max_file_bytes, max_memory_bytes)
        async with asyncio.timeout(timeout_seconds):
            # Pipes first: once they are closed, no descendant that writes to them is left.
            await asyncio.gather(*readers)
            returncode = await process.wait()
    except TimeoutError:
        await _kill(process, readers)
        raise ExecutorError(
            EXECUTOR_TIMEOUT, f"stopped after {timeout_seconds:g} s; send a smaller job", retryable=True
        ) from None
    except BaseException:
        await _kill(process, readers)
        raise
    return Finished(returncode, stderr_end.decode("utf-8", "replace"))


async def _read_lines(
    stream: asyncio.StreamReader, on_line: Callable[[str], None] | None, keep: bytearray | None
) -> None:
    line = b""
    while chunk := await stream.read(LINE_BYTES):
        if keep is not None:
            keep += chunk
            del keep[:-STDERR_BYTES]
        if on_line is None:
            continue
        *whole, line = (line + chunk).replace(b"\r", b"\n").split(b"\n")
        for one in whole:
            on_line(one.decode("utf-8", "replace"))
        line = line[:LINE_BYTES]
    if line and on_line is not None:
        on_line(line.decode("utf-8", "replace"))


async def _kill(process: asyncio.subprocess.Process, readers: Sequence[asyncio.Future[None]]) -> None:
    """Kill the group and wait for it, even if the caller is cancelled, also repeatedly."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for reader in readers:
        reader.cancel()
    await asyncio.shield(_reap(process, readers))


async def _reap(process: asyncio.subprocess.Process, readers: Sequence[asyncio.Future[None]]) -> None:
    await asyncio.gather(*readers, return_exceptions=True)
    await process.wait()
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        try:
            # A read to the end closes the pipe; only a descendant that left the group can delay it.
            async with asyncio.timeout(GRACE_SECONDS):
                while await stream.read(LINE_BYTES):
                    pass
        except TimeoutError:
            continue


def _limit(
    pid: int, timeout_seconds: float, max_file_bytes: int | None, max_memory_bytes: int | None
) -> None:
    """Limits that hold even if this process dies: CPU time, file sizes, memory, no core dumps."""
    if sys.platform != "linux":
        return
    processors = os.cpu_count() or 1
    limits = {
        resource.RLIMIT_CPU: int(timeout_seconds * processors) + 1,
        resource.RLIMIT_CORE: 0,
    }
    if max_file_bytes is not None:
        limits[resource.RLIMIT_FSIZE] = max_file_bytes
    if max_memory_bytes is not None:
        limits[resource.RLIMIT_AS] = max_memory_bytes
    try:
        for kind, value in limits.items():
            resource.prlimit(pid, kind, (value, value))
    except ProcessLookupError:
        return  # it has already ended
