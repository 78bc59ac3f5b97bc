"""The measures of an output file, and whether it is what was asked for.

ffmpeg's progress is no measure: it counts decoding times, and misses the last frames of an encoder that
reorders them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from coordinator.miner.executors.base import EXECUTOR_FAILED, ExecutorError
from coordinator.miner.executors.media.log import Stream
from coordinator.miner.executors.media.packets import PACKETS_FILE, Track, read_packets
from coordinator.miner.executors.media.run import NO_BANNER, RunLimits, run_ffmpeg

ENCODER_SECONDS: Final = 0.25
"""Encoders pad the last frame of sound, and begin before the first: 1,024 samples twice, at 8 kHz."""


@dataclass(frozen=True, slots=True)
class Output:
    """A file that ffmpeg can open; its tracks in their order, and its streams by number."""

    tracks: list[Track]
    streams: Mapping[int, Stream] = field(default_factory=dict)

    @property
    def sound(self) -> Stream | None:
        """The first stream of sound."""
        return next((stream for stream in self.streams.values() if stream.kind == "audio"), None)

    @property
    def seconds(self) -> float:
        """From the beginning of the first track to the end of the last."""
        starts = [track.start for track in self.tracks if track.start is not None]
        return max((track.end for track in self.tracks), default=0.0) - min(starts, default=0.0)

    def check(self, kinds: Collection[str], seconds: tuple[float, float] | None = None) -> None:
        """Check that it has content of these kinds (`audio`, `video`), and a length within these bounds.

        Raises ExecutorError: EXECUTOR_FAILED, as the source was good.
        """
        for kind in kinds:
            if not any(track.packets for track in self.tracks if track.kind == kind):
                what = "sound" if kind == "audio" else "pictures"
                raise ExecutorError(EXECUTOR_FAILED, f"the output has no {what}, though the source has")
        if seconds is not None and not seconds[0] <= self.seconds <= seconds[1]:
            low, high = seconds
            expected = f"{low:.2f} s" if low == high else f"{low:.2f} to {high:.2f} s"
            raise ExecutorError(
                EXECUTOR_FAILED, f"the output is {self.seconds:.2f} s long, in place of {expected}"
            )


async def measure(program: str, path: Path, *, limits: RunLimits) -> Output:
    """Read an output. Its sound is decoded, as only that tells its length to the sample.

    Raises ExecutorError: EXECUTOR_FAILED if it can't be opened, and the errors of limits.
    """
    try:
        log = await run_ffmpeg(
            [
                *(program, *NO_BANNER, "-i", f"file:{path.name}"),
                *("-map", "0:v?", "-c:v", "copy", "-map", "0:a?", "-c:a", "pcm_s16le"),
                *("-f", "framecrc", f"file:{PACKETS_FILE}"),
            ],
            folder=path.parent,
            limits=limits,
        )
    except ExecutorError as error:
        if error.code != "INVALID_PAYLOAD":
            raise
        raise ExecutorError(EXECUTOR_FAILED, f"the output can't be read again: {error.detail}") from None
    listed = path.parent / PACKETS_FILE
    tracks = await asyncio.to_thread(read_packets, listed)
    listed.unlink(missing_ok=True)
    return Output(list(tracks.values()), log.streams)
