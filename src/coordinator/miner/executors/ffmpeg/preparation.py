"""What comes before a job's run of ffmpeg: its input is looked at, and files for filters are made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from coordinator.miner.executors.errors import INVALID_PAYLOAD, UNSUPPORTED, ExecutorError
from coordinator.miner.executors.ffmpeg.abilities import Abilities, Plan
from coordinator.miner.executors.ffmpeg.arguments import (
    codecs_of,
    max_pixels_of,
    plans_for,
    reads_alpha,
    safe_input,
)
from coordinator.miner.executors.ffmpeg.colours import TABLE_FILE
from coordinator.miner.executors.ffmpeg.encoders import ENCODERS, HARDWARE, family_of
from coordinator.miner.executors.ffmpeg.source import probe
from coordinator.miner.executors.ffmpeg.subtitles import BURNT_FILE
from coordinator.miner.executors.ffmpeg.tone_map import table
from coordinator.miner.executors.media.run import RunLimits
from coordinator.miner.executors.process import run_program
from coordinator.services.video_transcoding import Transcode, TranscodeWebm, VideoPayload

EXTRACTION_SECONDS: Final = 120.0


def check_encoders(payload: VideoPayload, abilities: Abilities) -> None:
    """Raise UNSUPPORTED (another miner may do it) if no encoder here is for the payload."""
    lacking = [codec for codec in codecs_of(payload) if not abilities.encoders.intersection(ENCODERS[codec])]
    if lacking:
        raise ExecutorError(UNSUPPORTED, f"no encoder here for {', '.join(lacking)}", retryable=True)
    if (
        isinstance(payload, Transcode | TranscodeWebm)
        and payload.encoder == "hardware"
        and family_of(abilities.of_codec(payload.codec)) is None
        and not abilities.hardware.intersection(HARDWARE[payload.codec])
    ):
        raise ExecutorError(UNSUPPORTED, f"no hardware encoder here for {payload.codec}", retryable=True)


async def prepare(
    program: str,
    payload: VideoPayload,
    abilities: Abilities,
    source: Path,
    *,
    threads: int,
    limits: RunLimits,
) -> list[Plan]:
    """The runs to try for the input `source`, the best first; the files that they need are beside it.

    Raises ExecutorError for what the input or this machine lacks.
    """
    options = safe_input(threads, max_pixels=max_pixels_of(payload))
    found = await probe(program, options, source.name, source.parent, limits)
    lost = found.alpha_decoder is not None and found.alpha_decoder not in abilities.decoders
    if lost:
        found = replace(found, alpha_decoder=None)
    elif found.alpha_decoder is not None:
        options = [*options, *reads_alpha(found)]
        found = await probe(program, options, source.name, source.parent, limits)
    plans = plans_for(payload, found, abilities)
    if lost:
        for plan in plans:
            plan.warnings.append("the source's transparency can't be read here, and was left out")
    await _write_table(plans, source.parent)
    texts = {plan.text_track for plan in plans if plan.text_track is not None}
    for track in texts:
        await _extract_text(program, options, source, track, limits)
    return plans


async def _write_table(plans: Sequence[Plan], folder: Path) -> None:
    tables = {plan.table for plan in plans if plan.table is not None}
    for transfer, peak in tables:  # all plans have the same one
        lines = await asyncio.to_thread(lambda: "".join(table(transfer, peak)))  # noqa: B023 - awaited here
        await asyncio.to_thread((folder / TABLE_FILE).write_text, lines)


async def _extract_text(
    program: str, options: Sequence[str], source: Path, track: int, limits: RunLimits
) -> None:
    """Write a track of subtitles to a file: the filter that draws reads its file without our bounds."""
    target = source.parent / BURNT_FILE
    finished = await run_program(
        [
            *(program, "-hide_banner", "-nostdin", "-nostats", "-y", *options, "-i", f"file:{source.name}"),
            *("-map", f"0:s:{track}", "-c:s", "ass", "-f", "ass", f"file:{target.name}"),
        ],
        folder=source.parent,
        timeout_seconds=EXTRACTION_SECONDS,
        max_file_bytes=limits.file_bytes,
        max_memory=limits.memory,
        max_disk=limits.disk,
    )
    if finished.returncode != 0 or not await asyncio.to_thread(target.exists):
        raise ExecutorError(INVALID_PAYLOAD, f"subtitles: track {track} can't be read")
