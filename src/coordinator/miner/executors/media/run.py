"""Runs of ffmpeg for a job: their log is read, and each failure ends as the error of its cause."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.miner.executors.errors import INVALID_PAYLOAD, ExecutorError
from coordinator.miner.executors.limits import Bound
from coordinator.miner.executors.media import containers, recorded_live
from coordinator.miner.executors.media.complaints import failure
from coordinator.miner.executors.media.containers import Container
from coordinator.miner.executors.media.log import LOG_LEVEL, Log
from coordinator.miner.executors.media.packets import PACKETS_FILE, Track, listing, read_packets
from coordinator.miner.executors.media.source import judge
from coordinator.miner.executors.process import run_program

MAX_COMPLAINTS: Final = 200_000
"""A source that causes more is not worth the work; ffmpeg goes on for ever."""
NO_BANNER: Final = ("-hide_banner", "-nostdin", "-y")


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Of a run: seconds, bytes of each file that it writes, memory, and disk space of the job's folder.

    `of_data` is False where a GPU's driver reserves memory that nobody uses.
    """

    timeout_seconds: float
    file_bytes: int
    memory: Bound
    disk: Bound
    of_data: bool = True


@dataclass(frozen=True, slots=True)
class Reading:
    """A source that was read to its end and is whole: its tracks by number, and warnings for the result."""

    log: Log
    tracks: dict[int, Track]
    warnings: list[str]

    def decoded(self) -> list[Track]:
        """The tracks that went into the output."""
        return [self.tracks[number] for number, counts in self.log.read.items() if counts.frames]


async def run_ffmpeg(
    arguments: Sequence[str],
    *,
    folder: Path,
    limits: RunLimits,
    on_stdout: Callable[[str], None] | None = None,
    on_stderr: Callable[[str], None] | None = None,
) -> Log:
    """Run ffmpeg to its end, and return its log. `arguments` begin with the program; LOG_LEVEL is added.

    Raises ExecutorError: that of the cause if it fails, and those of `run_program`.
    """
    log = Log()

    def read(line: str) -> None:
        log.line(line)
        if log.complaint_count > MAX_COMPLAINTS:
            raise ExecutorError(INVALID_PAYLOAD, f"the source is damaged: more than {MAX_COMPLAINTS} faults")
        if on_stderr is not None:
            on_stderr(line)

    finished = await run_program(
        [*arguments, *LOG_LEVEL],
        folder=folder,
        timeout_seconds=limits.timeout_seconds,
        max_file_bytes=limits.file_bytes,
        max_memory=limits.memory,
        max_disk=limits.disk,
        limits_data=limits.of_data,
        on_stdout=on_stdout,
        on_stderr=read,
    )
    if finished.returncode:
        raise failure(log, finished.returncode, finished.stderr, limits.memory)
    return log


async def read_source(
    arguments: Sequence[str],
    source: Path,
    *,
    limits: RunLimits,
    on_stdout: Callable[[str], None] | None = None,
    on_stderr: Callable[[str], None] | None = None,
) -> Reading:
    """Run ffmpeg over the whole of a client's file, in its folder, and check that the file is whole.

    Raises ExecutorError: INVALID_PAYLOAD, not retryable, if the source is cut, damaged or empty, and as
    `run_ffmpeg` does.
    """
    folder = source.parent
    container = await asyncio.to_thread(examine, source)
    log = await run_ffmpeg(
        [*arguments, *listing()], folder=folder, limits=limits, on_stdout=on_stdout, on_stderr=on_stderr
    )
    listed = await asyncio.to_thread(read_packets, folder / PACKETS_FILE)
    (folder / PACKETS_FILE).unlink(missing_ok=True)
    # The list is the last output; attachments are streams of the source that no output has.
    last = max((output for output, _ in log.copied), default=0)
    tracks = {log.copied.get((last, number), number): track for number, track in listed.items()}
    for number in log.read:
        tracks.setdefault(number, Track())
    return Reading(log, tracks, judge(log, tracks, container))


def examine(path: Path) -> Container:
    """The promises of a file's header; empty ones for a container whose promises ffmpeg reads. Blocks."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(40)
        for fits, look in (*containers.LOOKS, *recorded_live.LOOKS):
            if fits(start):
                try:
                    return look(file, size)
                except (IndexError, KeyError, OSError, ValueError, ZeroDivisionError, struct.error):
                    return Container()  # ffmpeg says what is wrong with it
    return Container()
