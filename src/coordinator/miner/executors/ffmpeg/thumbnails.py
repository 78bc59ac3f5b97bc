"""One frame of a video at a moment: found by seeking, or on the way from the beginning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from coordinator.miner.executors.errors import EXECUTOR_FAILED, INVALID_PAYLOAD, ExecutorError
from coordinator.miner.executors.media.log import Log
from coordinator.miner.executors.media.run import RunLimits, run_ffmpeg

UNINDEXED: Final = ("mpeg", "mpegts", "mpegvideo", "h264", "hevc", "dv", "ogg", "flv")
"""Formats in which ffmpeg seeks by guesses, and whose length it reads from the last packets that it finds."""


async def take_frame(arguments: Sequence[str], moment: float, folder: Path, limits: RunLimits) -> Log:
    """Run ffmpeg until there is a frame; `arguments` seek to the moment by `-ss` before the input.

    Raises ExecutorError: INVALID_PAYLOAD if the video has no frame at this moment, and as `run_ffmpeg` does.
    """
    log, problem = await _try(arguments, folder, limits)
    if log.has_no_frames:
        for others in other_ways(arguments, moment, log):
            log, problem = await _try(others, folder, limits)
            if not log.has_no_frames:
                break
    if log.has_no_frames and (problem is None or problem.code in (EXECUTOR_FAILED, INVALID_PAYLOAD)):
        # Without a frame, encoders complain about anything.
        told = f"at_seconds: the source has no picture at {moment:g} s"
        if log.duration is not None:
            told += f"; its header says {log.duration:.2f} s"
        raise ExecutorError(INVALID_PAYLOAD, told)
    if problem is not None:
        raise problem
    return log


def other_ways(arguments: Sequence[str], moment: float, log: Log) -> Iterator[list[str]]:
    """Arguments to try where seeking to the moment found no frame; none if the video is over by then.

    The last frame begins before the moment, and may still be shown at it. Without an index a demuxer may seek
    too far; the way from the beginning misses nothing, and takes as long as decoding.
    """
    guesses = log.is_estimated or log.format.split(",")[0] in UNINDEXED
    if log.duration is None or moment >= (2 * log.duration + 1 if guesses else log.duration):
        return
    frames = max((one.frames for one in log.streams.values() if not one.is_cover), default=0.0)
    begin = max(0.0, moment - 1 / frames) if frames else moment
    if guesses:
        yield _from_the_beginning(_at(arguments, moment))
    else:
        yield _at(arguments, begin)
    yield _from_the_beginning(_at(arguments, begin))


def _at(arguments: Sequence[str], moment: float) -> list[str]:
    place = arguments.index("-ss") + 1
    return [*arguments[:place], f"{moment:.3f}", *arguments[place + 1 :]]


def _from_the_beginning(arguments: Sequence[str]) -> list[str]:
    """With `-ss` behind the input: ffmpeg then decodes all that is before the moment."""
    seek, end = arguments.index("-ss"), arguments.index("-i") + 2
    return [*arguments[:seek], *arguments[seek + 2 : end], *arguments[seek : seek + 2], *arguments[end:]]


async def _try(arguments: Sequence[str], folder: Path, limits: RunLimits) -> tuple[Log, ExecutorError | None]:
    log = Log()
    try:
        await run_ffmpeg(arguments, folder=folder, limits=limits, on_stderr=log.line)
    except ExecutorError as error:
        return log, error
    return log, None
