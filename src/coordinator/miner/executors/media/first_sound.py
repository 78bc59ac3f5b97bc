"""The first sound of a source, before any of it is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from coordinator.miner.executors.errors import ExecutorError
from coordinator.miner.executors.media.audio_encoders import SourceSound
from coordinator.miner.executors.media.run import NO_BANNER, RunLimits, run_ffmpeg

NO_GUESSES: Final = ("-guess_layout_max", "2")
"""Before `-i`: ffmpeg takes three channels without a layout for 2.1, and then leaves one out of a mix."""


async def first_sound(
    program: str, options: Sequence[str], source: Path, *, limits: RunLimits
) -> SourceSound | None:
    """Its rate and layout; None if ffmpeg finds none. `options` bound what the file can do to its reader.

    A fault is left to the run that reads all of the source.
    """
    reading = [*options, *NO_GUESSES, "-i", f"file:{source.name}", "-map", "0:a:0", "-t", "0.001"]
    try:
        log = await run_ffmpeg(
            [program, *NO_BANNER, *reading, "-f", "null", "-"], folder=source.parent, limits=limits
        )
    except ExecutorError:
        return None
    found = next((stream for stream in log.streams.values() if stream.kind == "audio"), None)
    return SourceSound(found.sample_rate, found.layout) if found and found.layout else None
