"""The service `audio_processing`: ffmpeg's filters in stages, each measured and bounded."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Final

from coordinator.miner.executors.audio.arguments import (
    FORMATS,
    LOSSLESS,
    SILENCE_LUFS,
    Sound,
    check_possible,
    filters_of,
    needs_measuring,
)
from coordinator.miner.executors.base import (
    EXECUTOR_FAILED,
    EXECUTOR_KILLED,
    INPUT_TOO_LARGE,
    INVALID_PAYLOAD,
    OUTPUT_TOO_LARGE,
    UNSUPPORTED,
    ExecutorError,
    Outcome,
    Work,
    payload_of,
)
from coordinator.miner.executors.ffmpeg.arguments import safe_input
from coordinator.miner.executors.ffmpeg.executor import FfmpegExecutor, find_ffmpeg
from coordinator.miner.executors.limits import Share
from coordinator.miner.executors.process import run_program
from coordinator.miner.executors.usage import out_of_memory, too_much_memory
from coordinator.services.audio_processing import SERVICE, AudioPayload, ProcessedAudio

TIMEOUT_SECONDS: Final = 900.0
"""Of each stage."""
MAX_INPUT_BYTES: Final = 2 * 2**30
MAX_SECONDS: Final = 3 * 3600
"""The longest sound, before and after each stage: slowed down it may become four times as long."""
MAX_STAGE_BYTES: Final = 8 * 2**30
MAX_MEMORY_BYTES: Final = 2 * 2**30
MAX_DISK_BYTES: Final = MAX_INPUT_BYTES + 2 * MAX_STAGE_BYTES
_RATE: Final = re.compile(r", (\d{3,6}) Hz")
_LOUDNESS: Final = re.compile(r"^ +I: +(-?[0-9.]+|-inf|nan) LUFS", re.MULTILINE)
_WRITTEN: Final = re.compile(r"out_time_us=(\d+)")


class AudioExecutor:
    """Decodes a recording once, applies the operations, and encodes the result."""

    services = (SERVICE.id,)

    def __init__(
        self,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_input_bytes: int = MAX_INPUT_BYTES,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        self._ffmpeg = FfmpegExecutor()
        self._timeout_seconds = timeout_seconds
        self._max_input_bytes = max_input_bytes
        self._max_seconds = max_seconds

    async def check(self) -> str | None:
        """Whether an ffmpeg is installed, with every encoder that the service promises."""
        if problem := await self._ffmpeg.check():
            return problem
        missing = [name for name, (encoder, _, _) in FORMATS.items() if encoder not in self._ffmpeg.encoders]
        return f"ffmpeg lacks encoders for {', '.join(missing)}" if missing else None

    async def run(self, work: Work) -> Outcome:
        """The result is ProcessedAudio, without a loudness if it is silent.

        Raises ExecutorError: INVALID_PAYLOAD (also a file without sound), UNSUPPORTED (`separate`),
        INPUT_TOO_LARGE, RESOURCE_LIMIT, EXECUTOR_TIMEOUT, EXECUTOR_FAILED, EXECUTOR_KILLED,
        OUTPUT_TOO_LARGE, and the errors of downloads and uploads.
        """
        payload = payload_of(SERVICE, work)
        check_possible(payload)
        started = time.monotonic()
        source = work.folder / "input"
        await work.blobs.download(payload.input_url, source, max_bytes=self._max_input_bytes)

        # 1. Decode to plain samples: after this nothing reads the client's file.
        work.progress(0.0, "decoding")
        stages = _Stages(work.folder, work.share, self._timeout_seconds, self._max_seconds)
        sound = await stages.decode(source)
        source.unlink()
        # 2. Apply the operations, as many at a time as need no measuring in between.
        pending: list[str] = []
        for number, operation in enumerate(payload.operations):
            if pending and needs_measuring(operation):
                sound = await stages.apply(pending)
                pending = []
            pending += filters_of(operation, sound)
            work.progress(0.1 + 0.6 * number / len(payload.operations), operation.operation)
        # 3. Encode the output.
        work.progress(0.7, "encoding")
        target = work.folder / f"output.{payload.output_format}"
        made = await stages.encode(pending, payload, target)
        output = await work.blobs.upload(target, media_type=FORMATS[payload.output_format][2])
        result = ProcessedAudio(
            output_format=payload.output_format,
            outputs=[output],
            duration_seconds=round(made.seconds, 3),
            loudness_lufs=made.loudness if made.loudness > SILENCE_LUFS else None,
        )
        wall_ms = round((time.monotonic() - started) * 1000)
        return Outcome(result.document(), {"wall_ms": wall_ms, "output_bytes": output["size"]})


class _Stages:
    """Runs of ffmpeg one after the other, with the sound as float samples in a file between them."""

    def __init__(self, folder: Path, share: Share, timeout_seconds: float, max_seconds: float) -> None:
        self._folder = folder
        self._share = share
        self._timeout_seconds = timeout_seconds
        self._max_seconds = max_seconds
        self._current = folder / "stage-0.w64"
        self._number = 0
        self._rate = 0

    async def decode(self, source: Path) -> Sound:
        """Decode the client's file to samples. Raises INVALID_PAYLOAD if it has no sound."""
        arguments = [
            *safe_input(self._share.processors),
            "-i",
            f"file:{source.name}",
            "-map",
            "0:a:0",
            "-vn",
            "-sn",
            "-dn",
        ]
        sound = await self._run([*arguments, *self._samples([])], self._current, untrusted=True)
        if sound.seconds > self._max_seconds:
            raise ExecutorError(INPUT_TOO_LARGE, f"the sound is longer than {self._max_seconds:g} s")
        return sound

    async def apply(self, filters: list[str]) -> Sound:
        """Send the samples through these filters, to samples."""
        before = self._current
        self._number += 1
        self._current = self._folder / f"stage-{self._number}.w64"
        sound = await self._run(["-i", f"file:{before.name}", *self._samples(filters)], self._current)
        before.unlink()
        return sound

    async def encode(self, filters: list[str], payload: AudioPayload, target: Path) -> Sound:
        """Send the samples through these filters, and encode them in the client's format."""
        encoder, muxer, _ = FORMATS[payload.output_format]
        options = ["-c:a", encoder]
        if payload.output_format not in LOSSLESS:
            options += ["-b:a", payload.bitrate]
        if payload.sample_rate is not None:
            options += ["-ar", str(payload.sample_rate)]
        elif payload.output_format in LOSSLESS:
            options += ["-ar", str(self._rate)]  # the other formats take the nearest rate that they can
        if payload.channels is not None:
            options += ["-ac", str(payload.channels)]
        arguments = ["-i", f"file:{self._current.name}", *self._limited(filters), *options, "-f", muxer]
        return await self._run([*arguments, f"file:{target.name}"], target)

    def _samples(self, filters: list[str]) -> list[str]:
        target = f"file:{self._current.name}"
        return [*self._limited(filters), "-c:a", "pcm_f32le", "-f", "w64", target]

    def _limited(self, filters: list[str]) -> list[str]:
        # One second more than allowed, to tell too long a sound from one of the greatest length.
        chain = ",".join([*filters, "ebur128=framelog=quiet"])
        return ["-af", chain, "-t", f"{self._max_seconds + 1:g}"]

    async def _run(self, arguments: list[str], target: Path, *, untrusted: bool = False) -> Sound:
        program = find_ffmpeg()
        if program is None:
            raise ExecutorError(UNSUPPORTED, "ffmpeg is no longer installed", retryable=True)
        written: list[str] = []
        memory = self._share.memory(MAX_MEMORY_BYTES)
        finished = await run_program(
            [program, "-hide_banner", "-nostdin", "-y", "-nostats", "-progress", "pipe:1", *arguments],
            folder=self._folder,
            timeout_seconds=self._timeout_seconds,
            max_file_bytes=MAX_STAGE_BYTES,
            max_memory=memory,
            max_disk=self._share.disk(MAX_DISK_BYTES),
            on_stdout=written.append,
        )
        if finished.returncode < 0:
            raise ExecutorError(
                EXECUTOR_KILLED, f"ffmpeg was ended by signal {-finished.returncode}", retryable=True
            )
        if finished.returncode > 0 and out_of_memory(finished.stderr):
            raise too_much_memory(memory)
        size = await asyncio.to_thread(lambda: target.stat().st_size if target.exists() else 0)
        times = [int(found[1]) for line in written if (found := _WRITTEN.search(line))]
        if finished.returncode > 0 or not size or not times or not times[-1]:
            if untrusted:
                raise ExecutorError(INVALID_PAYLOAD, "input_url: no sound that can be decoded")
            raise ExecutorError(EXECUTOR_FAILED, "the operations left no sound, or ffmpeg failed")
        if not untrusted and times[-1] > self._max_seconds * 1e6:
            raise ExecutorError(OUTPUT_TOO_LARGE, f"the sound becomes longer than {self._max_seconds:g} s")
        self._rate = rate_in(finished.stderr) or self._rate
        loudness = _LOUDNESS.findall(finished.stderr)
        measured = float(loudness[-1]) if loudness else SILENCE_LUFS
        return Sound(times[-1] / 1e6, self._rate, measured if measured > SILENCE_LUFS else SILENCE_LUFS)


def rate_in(messages: str) -> int | None:
    """The samples per second of the first sound in ffmpeg's messages, which repeat the tags of its file."""
    for line in messages.splitlines():
        stream, found, sound = line.partition(" Audio: ")
        if found and stream.startswith("  Stream #0:"):
            rate = _RATE.search(sound)
            return int(rate[1]) if rate else None
    return None
