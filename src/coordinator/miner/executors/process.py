"""Runs a program for a job: bounded in time and size, and never left behind."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from coordinator.miner.executors import launch, usage
from coordinator.miner.executors.errors import (
    EXECUTOR_FAILED,
    EXECUTOR_KILLED,
    EXECUTOR_TIMEOUT,
    OUTPUT_TOO_LARGE,
    RESOURCE_LIMIT,
    ExecutorError,
)
from coordinator.miner.executors.limits import Bound, processors_of_machine, whole_machine

STDERR_BYTES: Final = 32 * 1024
"""The kept end of a program's stderr."""
LINE_BYTES: Final = 64 * 1024
"""A longer line is cut, so that no program fills our memory."""
MAX_OUTPUT_BYTES: Final = 256 * 2**20
"""The most that a program may write to stdout and stderr together: reading it costs time."""
GRACE_SECONDS: Final = 1.0
"""How long the pipes of a killed program may take to close."""
REAP_SECONDS: Final = 0.01
MAX_OPEN_FILES: Final = 1024
DATA_SLACK_BYTES: Final = 512 * 2**20
"""Memory that is reserved and not used, such as stacks of threads; the kernel's limit counts it."""
LAUNCHER: Final = Path(launch.__file__)
_PASSED_ON: Final = (
    *("PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "SYSTEMROOT"),
    # The GPUs that the account may use.
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    "ZE_AFFINITY_MASK",
)
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
    max_memory: Bound | None = None,
    max_disk: Bound | None = None,
    limits_data: bool = True,
    max_line_bytes: int = LINE_BYTES,
    on_stdout: Callable[[str], None] | None = None,
    on_stderr: Callable[[str], None] | None = None,
) -> Finished:
    """Run a program to its end, in a folder and a process group of its own, without a shell or stdin.

    The callbacks get each line as it comes. `max_file_bytes` bounds every file that it writes, `max_memory`
    the memory of all its processes together, `max_disk` the files in its folder; without them the machine's
    own share of one job holds. With `limits_data` the kernel refuses memory beyond the limit; programs on
    GPUs reserve far more than they use, and are only watched. The program ends with this process.
    After a cancellation, a timeout, a breach or an error in a callback, the whole group is killed before this
    returns.
    Raises ExecutorError: EXECUTOR_TIMEOUT (retryable: another miner may be faster), RESOURCE_LIMIT (memory,
    files, processes, messages), OUTPUT_TOO_LARGE (one file), EXECUTOR_FAILED if it does not start.
    """
    memory, disk = max_memory or whole_machine().memory(), max_disk or whole_machine().disk()
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    limits = _limits(timeout_seconds, max_file_bytes, memory, limits_data)
    written = ",".join(f"{name}={value}" for name, value in limits.items())
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), written),
            *arguments,
            cwd=folder,
            env={**environment, "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(error.strerror or "") from None

    assert process.stdout is not None
    assert process.stderr is not None
    stderr_end = bytearray()
    left = _Left(MAX_OUTPUT_BYTES)
    readers = [
        asyncio.ensure_future(_read_lines(process.stdout, on_stdout, None, left, max_line_bytes)),
        asyncio.ensure_future(_read_lines(process.stderr, on_stderr, stderr_end, left, max_line_bytes)),
    ]
    ending = asyncio.ensure_future(_end(process, readers))
    watching = asyncio.ensure_future(usage.watch(process.pid, folder, memory, disk))
    try:
        async with asyncio.timeout(timeout_seconds):
            await asyncio.wait({ending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                raise watching.result()
            returncode = ending.result()
    except TimeoutError:
        await _kill(process, [ending, *readers])
        raise _too_slow(timeout_seconds) from None
    except BaseException:
        await _kill(process, [ending, *readers])
        raise
    finally:
        watching.cancel()
        # Also our end of a pipe that a descendant still holds; asyncio has no public way to close it.
        process._transport.close()  # type: ignore[attr-defined]
        await asyncio.sleep(0)  # its pipes are closed by callbacks, before the loop may end
    stderr = stderr_end.decode("utf-8", "replace")
    match -returncode:
        case signal.SIGXCPU:
            raise _too_slow(timeout_seconds)
        case signal.SIGXFSZ:
            raise ExecutorError(
                OUTPUT_TOO_LARGE,
                f"a file of the work exceeds {max_file_bytes or disk.bytes} bytes; send less",
            )
    if returncode == launch.NOT_STARTED and stderr.startswith(launch.PREFIX):
        raise _not_started(stderr.removeprefix(launch.PREFIX).strip())
    return Finished(returncode, stderr)


def killed(returncode: int) -> ExecutorError:
    """The error of a program that a signal ended, by its negative return code.

    A crash is the input's doing and would come again. A kill may be about other programs of this machine.
    """
    number = -returncode
    if number in (signal.SIGKILL, signal.SIGTERM):
        return ExecutorError(EXECUTOR_KILLED, f"signal {number} ended the work", retryable=True)
    return ExecutorError(EXECUTOR_KILLED, f"signal {number} ended the work: a crash")


class _Left:
    """The bytes that a program may still write to its pipes."""

    def __init__(self, size: int) -> None:
        self._size = size

    def take(self, size: int) -> None:
        self._size -= size
        if self._size < 0:
            raise ExecutorError(RESOURCE_LIMIT, "the work wrote too many messages")


async def _end(process: asyncio.subprocess.Process, readers: Sequence[asyncio.Future[None]]) -> int:
    # Pipes first: once they are closed, no descendant that writes to them is left.
    await asyncio.gather(*readers)
    return await process.wait()


async def _read_lines(
    stream: asyncio.StreamReader,
    on_line: Callable[[str], None] | None,
    keep: bytearray | None,
    left: _Left,
    max_line_bytes: int,
) -> None:
    line = b""
    while chunk := await stream.read(LINE_BYTES):
        left.take(len(chunk))
        if keep is not None:
            keep += chunk
            del keep[:-STDERR_BYTES]
        if on_line is None:
            continue
        *whole, line = (line + chunk).replace(b"\r", b"\n").split(b"\n")
        for one in whole:
            on_line(one.decode("utf-8", "replace"))
        line = line[:max_line_bytes]
    if line and on_line is not None:
        on_line(line.decode("utf-8", "replace"))


async def _kill(process: asyncio.subprocess.Process, tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Kill the group and wait for it, even if the caller is cancelled, also repeatedly."""
    descendants = usage.family(process.pid)[1:] if process.returncode is None else []
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in descendants:  # also those that left the group
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for task in tasks:
        task.cancel()
    await asyncio.shield(_reap(process, tasks))


async def _reap(process: asyncio.subprocess.Process, tasks: Sequence[asyncio.Future[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
    # Not `process.wait()`: it waits for the pipes, and those for a reader, if the program wrote much.
    while process.returncode is None:  # noqa: ASYNC110 - asyncio has no event for this
        await asyncio.sleep(REAP_SECONDS)
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        try:
            # A read to the end closes the pipe; only a descendant that left the group can delay it.
            async with asyncio.timeout(GRACE_SECONDS):
                while await stream.read(LINE_BYTES):
                    pass
        except TimeoutError:
            continue


def _limits(
    timeout_seconds: float, max_file_bytes: int | None, memory: Bound, limits_data: bool
) -> dict[str, int]:
    """The kernel's limits, by their names in the module `resource`."""
    limits = {
        "RLIMIT_CPU": int(timeout_seconds * processors_of_machine()) + 1,
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": MAX_OPEN_FILES,
        "RLIMIT_FSIZE": max_file_bytes or whole_machine().disk_bytes,
    }
    if limits_data:
        # Not the address space: decoders and allocators reserve much more of it than they write to.
        limits["RLIMIT_DATA"] = memory.bytes + DATA_SLACK_BYTES
    return limits


def _too_slow(timeout_seconds: float) -> ExecutorError:
    return ExecutorError(
        EXECUTOR_TIMEOUT, f"stopped after {timeout_seconds:g} s; send a smaller job", retryable=True
    )


def _not_started(reason: str) -> ExecutorError:
    return ExecutorError(EXECUTOR_FAILED, f"the program does not start: {reason}", retryable=True)
