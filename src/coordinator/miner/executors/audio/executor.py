"""The service `audio_processing`: ffmpeg's filters in stages, each measured and bounded."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Final

from coordinator.domain.matching.units import CountedUnit
from coordinator.miner.executors.audio.arguments import (
    FORMATS,
    MUXER_OPTIONS,
    SILENCE_LUFS,
    Sound,
    check_possible,
    encoding_of,
    filters_of,
    needs_measuring,
    preparation,
)
from coordinator.miner.executors.base import Outcome, Work, payload_of
from coordinator.miner.executors.counts import gigabytes, media_minutes
from coordinator.miner.executors.errors import (
    EXECUTOR_FAILED,
    INPUT_TOO_LARGE,
    INVALID_PAYLOAD,
    OUTPUT_TOO_LARGE,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.executors.ffmpeg.arguments import safe_input, threads_of
from coordinator.miner.executors.ffmpeg.executor import FfmpegExecutor, find_ffmpeg
from coordinator.miner.executors.limits import Share
from coordinator.miner.executors.media.audio_encoders import SoundSettings, SourceSound
from coordinator.miner.executors.media.channel_layouts import channels_of
from coordinator.miner.executors.media.first_sound import NO_GUESSES
from coordinator.miner.executors.media.log import Log
from coordinator.miner.executors.media.output import ENCODER_SECONDS, measure
from coordinator.miner.executors.media.run import NO_BANNER, RunLimits, read_source, run_ffmpeg
from coordinator.miner.executors.media.source import MAX_WARNINGS
from coordinator.services.audio_processing import SERVICE, ProcessedAudio

TIMEOUT_SECONDS: Final = 900.0
"""Of each stage."""
MAX_INPUT_BYTES: Final = 2 * 2**30
MAX_SECONDS: Final = 3 * 3600
"""The longest sound, before and after each stage: slowed down it may become four times as long."""
MAX_STAGE_BYTES: Final = 8 * 2**30
MAX_MEMORY_BYTES: Final = 2 * 2**30
MAX_DISK_BYTES: Final = MAX_INPUT_BYTES + 2 * MAX_STAGE_BYTES
_LOUDNESS: Final = re.compile(r"^ +I: +(-?[0-9.]+|-inf|nan) LUFS")


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

        Raises ExecutorError: INVALID_PAYLOAD (also a file that is cut, damaged or without sound, and
        operations that leave no sound), UNSUPPORTED (`separate`),
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
        settings = encoding_of(payload, stages.sound)
        pending = preparation(settings, sound)
        for number, operation in enumerate(payload.operations):
            if pending and needs_measuring(operation):
                sound = await stages.apply(pending)
                pending = []
            pending += filters_of(operation, sound)
            work.progress(0.1 + 0.6 * number / len(payload.operations), operation.operation)
        # 3. Encode the output.
        work.progress(0.7, "encoding")
        target = work.folder / f"output.{payload.output_format}"
        made, output_sound = await stages.encode(pending, settings, payload.output_format, target)
        output = await work.blobs.upload(target, media_type=FORMATS[payload.output_format][2])
        result = ProcessedAudio(
            output_format=payload.output_format,
            outputs=[output],
            duration_seconds=round(made.seconds, 3),
            loudness_lufs=made.loudness if made.loudness > SILENCE_LUFS else None,
            sample_rate=output_sound.rate,
            channels=channels_of(output_sound.layout),
            bitrate=max(1, round(8 * output["size"] / made.seconds)),
            warnings=[*settings.warnings, *stages.warnings][:MAX_WARNINGS] or None,
        )
        wall_ms = round((time.monotonic() - started) * 1000)
        units: dict[CountedUnit, int | str] = {
            "media_minute": media_minutes(result.duration_seconds),
            "gb": gigabytes([output]),
        }
        return Outcome(result.document(), {"wall_ms": wall_ms, "output_bytes": output["size"]}, units)


class _Stages:
    """Runs of ffmpeg one after the other, with the sound as float samples in a file between them."""

    def __init__(self, folder: Path, share: Share, timeout_seconds: float, max_seconds: float) -> None:
        self._folder = folder
        self._share = share
        self._timeout_seconds = timeout_seconds
        self._max_seconds = max_seconds
        self._current = folder / "stage-0.w64"
        self._number = 0
        self._log = Log()
        """Of the last run."""
        self.sound = SourceSound(0, "")
        """Of the samples."""
        self.warnings: list[str] = []
        """About the client's file."""

    async def decode(self, source: Path) -> Sound:
        """Decode the client's file to samples. Raises INVALID_PAYLOAD if it is not whole, or has no sound."""
        arguments = [
            *safe_input(self._share.processors),
            *(*NO_GUESSES, "-i", f"file:{source.name}"),
            *("-map", "0:a:0", "-vn", "-sn", "-dn"),
        ]
        sound = await self._run([*arguments, *self._samples([])], self._current, source=source)
        if sound.seconds > self._max_seconds:
            raise ExecutorError(INPUT_TOO_LARGE, f"the sound is longer than {self._max_seconds:g} s")
        return sound

    async def apply(self, filters: list[str]) -> Sound:
        """Send the samples through these filters, to samples."""
        before = self._current
        self._number += 1
        self._current = self._folder / f"stage-{self._number}.w64"
        sound = await self._run([*self._reads(before), *self._samples(filters)], self._current)
        before.unlink()
        return sound

    async def encode(
        self, filters: list[str], settings: SoundSettings, output_format: str, target: Path
    ) -> tuple[Sound, SourceSound]:
        """Send the samples through these filters, and encode them; returns the measures of the output."""
        chain = self._limited([*filters, *settings.padding])
        options = [*settings.options, *MUXER_OPTIONS.get(output_format, ()), "-f", FORMATS[output_format][1]]
        arguments = [*self._reads(self._current), *chain, *options, f"file:{target.name}"]
        sound = await self._run(arguments, target)
        made = await measure(
            self._program(), target, limits=self._limits(), threads=threads_of(self._share.processors)
        )
        made.check({"audio"}, (sound.seconds - ENCODER_SECONDS, sound.seconds + ENCODER_SECONDS))
        made.check_decoded(self._log)
        assert made.sound is not None, "checked above"
        measured = SourceSound(made.sound.sample_rate, made.sound.layout)
        return Sound(made.seconds, measured.rate, sound.loudness), measured

    def _reads(self, samples: Path) -> list[str]:
        # The file of samples knows no channels beyond the 18 of a WAV file.
        return ["-channel_layout", self.sound.layout, "-i", f"file:{samples.name}"]

    def _samples(self, filters: list[str]) -> list[str]:
        target = f"file:{self._current.name}"
        return [*self._limited(filters), "-c:a", "pcm_f32le", "-f", "w64", target]

    def _limited(self, filters: list[str]) -> list[str]:
        # One second more than allowed, to tell too long a sound from one of the greatest length.
        # Its lines for each moment are skipped here: ffmpeg before 6 can't leave them out.
        chain = ",".join([*filters, "ebur128=framelog=verbose"])
        return ["-af", chain, "-t", f"{self._max_seconds + 1:g}"]

    async def _run(self, arguments: list[str], target: Path, *, source: Path | None = None) -> Sound:
        """Run a stage; `source` is the client's file, if the stage reads that."""
        loudness = _Loudness()
        command = [self._program(), *NO_BANNER, *arguments]
        if source is not None:
            reading = await read_source(
                command,
                source,
                limits=self._limits(),
                on_stderr=loudness.line,
            )
            log = reading.log
            self.warnings = reading.warnings
        else:
            log = await run_ffmpeg(
                command,
                folder=self._folder,
                limits=self._limits(),
                on_stderr=loudness.line,
            )
        self._log = log
        size = await asyncio.to_thread(lambda: target.stat().st_size if target.exists() else 0)
        seconds = log.seconds_of_sound
        if not size or not seconds:
            if source is None:
                raise ExecutorError(INVALID_PAYLOAD, "operations: they leave no sound of this recording")
            raise ExecutorError(EXECUTOR_FAILED, "ffmpeg made no output")
        if source is None and seconds > self._max_seconds:
            raise ExecutorError(OUTPUT_TOO_LARGE, f"the sound becomes longer than {self._max_seconds:g} s")
        self.sound = _sound_of(log)
        return Sound(seconds, self.sound.rate, max(loudness.value, SILENCE_LUFS))

    def _program(self) -> str:
        program = find_ffmpeg()
        if program is None:
            raise ExecutorError(UNSUPPORTED, "ffmpeg is no longer installed", retryable=True)
        return program

    def _limits(self) -> RunLimits:
        return RunLimits(
            timeout_seconds=self._timeout_seconds,
            file_bytes=MAX_STAGE_BYTES,
            memory=self._share.memory(MAX_MEMORY_BYTES),
            disk=self._share.disk(MAX_DISK_BYTES),
        )


class _Loudness:
    """The last loudness in LUFS that ffmpeg has measured."""

    def __init__(self) -> None:
        self.value = SILENCE_LUFS

    def line(self, line: str) -> None:
        """Read a line of stderr."""
        if (found := _LOUDNESS.match(line)) and found[1] not in ("nan", "-inf"):
            self.value = float(found[1])


def _sound_of(log: Log) -> SourceSound:
    """The sound that a stage wrote."""
    made = next(stream for stream in log.made.values() if stream.kind == "audio")
    return SourceSound(made.sample_rate, made.layout)
