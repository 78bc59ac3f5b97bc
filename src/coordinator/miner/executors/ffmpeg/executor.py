"""The service `video_transcoding`: ffmpeg in a process of its own, watched and bounded."""

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from coordinator.domain.matching.gpus import Vendor
from coordinator.domain.matching.units import CountedUnit
from coordinator.miner.executors.base import Outcome, Work, payload_of
from coordinator.miner.executors.counts import gigabytes, media_minutes
from coordinator.miner.executors.errors import (
    EXECUTOR_FAILED,
    EXECUTOR_TIMEOUT,
    INPUT_TOO_LARGE,
    OUTPUT_TOO_LARGE,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.executors.ffmpeg.abilities import Abilities
from coordinator.miner.executors.ffmpeg.arguments import MAX_SECONDS, MEDIA_TYPES, command, threads_of
from coordinator.miner.executors.ffmpeg.check import DEVICES, abilities_of, lacking_filters, version_of
from coordinator.miner.executors.ffmpeg.encoders import ENCODERS, HARDWARE
from coordinator.miner.executors.ffmpeg.preparation import check_encoders, prepare
from coordinator.miner.executors.ffmpeg.source import probe
from coordinator.miner.executors.ffmpeg.thumbnails import take_frame
from coordinator.miner.executors.media.log import Log
from coordinator.miner.executors.media.output import ENCODER_SECONDS, Output, measure
from coordinator.miner.executors.media.run import Reading, RunLimits, read_source
from coordinator.miner.executors.media.source import LOST_SECONDS
from coordinator.services.base import MAX_WARNING_CHARACTERS, MAX_WARNINGS
from coordinator.services.video_transcoding import (
    ENCODER_MODELS,
    SERVICE,
    ExtractAudio,
    Thumbnail,
    TranscodedMedia,
    TranscodeGif,
    VideoPayload,
)

TIMEOUT_SECONDS: Final = 600.0
MAX_BYTES: Final = 5 * 2**30
MAX_MEMORY_BYTES: Final = 6 * 2**30
"""For 8K video; 4K takes a third of it."""
LEAST_MEMORY_BYTES: Final = 2 * 2**30
MEMORY_PER_INPUT_BYTE: Final = 512
"""Real pictures take many bytes a frame; a small file of large ones is made to fill memory."""
_SLACK_BYTES: Final = 16 * 2**20
"""ffmpeg's own size limit acts a little late; the operating system's is this much higher, and strict."""
_NEEDED: Final = ("h264", "aac")
"""Without these the service's default job would fail."""
_OF_THE_WORK: Final = (EXECUTOR_TIMEOUT, INPUT_TOO_LARGE, OUTPUT_TOO_LARGE)
"""Errors that another encoder would not change."""
_TIMED: Final = ("audio", "video")
"""Kinds of tracks that make the length; subtitles may last longer."""
LENGTH_PART: Final = 0.01
"""An output may differ from its source by this part of its length: rates are rounded."""


class FfmpegExecutor:
    """Transcodes, extracts audio and takes thumbnails.

    ffmpeg is the given program, or the one on PATH, or the one that imageio-ffmpeg brings.
    """

    services = (SERVICE.id,)

    def __init__(
        self,
        program: str | None = None,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_input_bytes: int = MAX_BYTES,
        max_output_bytes: int = MAX_BYTES,
        devices: Path = DEVICES,
    ) -> None:
        self._program = program
        self._devices = devices
        self._timeout_seconds = timeout_seconds
        self._max_input_bytes = max_input_bytes
        self._max_output_bytes = max_output_bytes
        self.abilities = Abilities()
        """Empty before `check`."""

    @property
    def encoders(self) -> frozenset[str]:
        """The working encoders; empty before `check`."""
        return self.abilities.encoders

    @property
    def models(self) -> tuple[str, ...]:
        """The codecs with a working hardware encoder, as names that jobs can ask for."""
        found = self.abilities.hardware
        return tuple(f"{ENCODER_MODELS}{codec}" for codec in HARDWARE if found.intersection(HARDWARE[codec]))

    @property
    def gpu_vendors(self) -> frozenset[Vendor]:
        """NVIDIA, if an encoder of its hardware works here."""
        return frozenset({"nvidia"} if any(name.endswith("_nvenc") for name in self.encoders) else ())

    async def check(self) -> str | None:
        """Find ffmpeg and what it can do; encoders that need hardware are tried."""
        program = self._program or find_ffmpeg()
        if program is None:
            return "ffmpeg is not installed: put it on PATH, or install coordinator[ffmpeg]"
        with TemporaryDirectory(prefix="ffmpeg-check-") as folder:
            try:
                version = await version_of(program, Path(folder))
                found = await abilities_of(program, Path(folder), self._devices)
            except ExecutorError as error:
                return f"ffmpeg does not run: {error.detail}"
        if not version:
            return "ffmpeg does not run: it fails with -version"
        missing = [codec for codec in _NEEDED if not found.encoders.intersection(ENCODERS[codec])]
        if missing:
            return f"ffmpeg lacks encoders for {', '.join(missing)}"
        if lacking := lacking_filters(found):
            return f"ffmpeg lacks the filters {', '.join(lacking)}"
        self._program, self.abilities = program, found
        return None

    async def run(self, work: Work) -> Outcome:
        """The result is TranscodedMedia.

        Raises ExecutorError: INVALID_PAYLOAD (also for a source that is no media file, is cut or damaged, or
        lacks what is wanted of it), INPUT_TOO_LARGE (also for frames of too many pixels), UNSUPPORTED (this
        ffmpeg lacks the encoder), EXECUTOR_TIMEOUT, EXECUTOR_FAILED (ffmpeg could not do it: another attempt
        will not help), EXECUTOR_KILLED, RESOURCE_LIMIT, OUTPUT_TOO_LARGE, and the errors of downloads and
        uploads.
        """
        # 1. Read the payload, and check that this machine can run it.
        payload = payload_of(SERVICE, work)
        if not self.encoders and (problem := await self.check()):
            raise ExecutorError(UNSUPPORTED, problem, retryable=True)
        check_encoders(payload, self.abilities)
        assert self._program is not None

        # 2. Fetch the input, under a name of ours: ffmpeg may read a meaning into a client's name.
        source, target = work.folder / "input", work.folder / f"output.{payload.output_format}"
        await work.blobs.download(payload.input_url, source, max_bytes=self._max_input_bytes)
        work.progress(0.0, "running")

        # 3. Look at the input, and run ffmpeg. A thumbnail needs no more of the source than its frame.
        started = time.monotonic()
        watch = _FfmpegProgress(work.progress)
        limits = RunLimits(
            timeout_seconds=self._timeout_seconds,
            file_bytes=self._max_output_bytes + _SLACK_BYTES,
            memory=work.share.memory(memory_of(source.stat().st_size)),
            disk=work.share.disk(self._max_input_bytes + self._max_output_bytes + _SLACK_BYTES),
        )
        threads = work.share.processors
        plans = await prepare(self._program, payload, self.abilities, source, threads=threads, limits=limits)
        failed: list[str | None] = []
        for plan in plans:
            arguments = command(
                self._program,
                payload,
                plan,
                source=source.name,
                target=target.name,
                max_output_bytes=self._max_output_bytes,
                threads=threads,
            )
            try:
                # A GPU's driver reserves memory that nobody uses.
                log, reading = await self._make(
                    arguments, payload, source, replace(limits, of_data=not plan.hardware), watch
                )
                # 4. Check the output: all of it is decoded before it counts.
                made = await self._measured(target, limits, threads)
                made.check(kinds_of(payload, reading), lengths_of(payload, reading) if reading else None)
                about_copies = made.check_decoded(log)
            except ExecutorError as error:
                # An encoder may fail, or lack something, where the next does not. A device's driver may say
                # anything; software that does not blame itself is right.
                own = plan.hardware or error.code == EXECUTOR_FAILED
                if plan is plans[-1] or not own or error.code in _OF_THE_WORK:
                    raise
                failed.append(plan.encoder)
            else:
                break
        replaced = [f"encoder: {name} failed here; {plan.encoder} took its place" for name in failed]
        warnings = [*replaced, *plan.warnings, *(reading.warnings if reading else ()), *about_copies]

        # 5. Store it.
        seconds = time.monotonic() - started
        output = await work.blobs.upload(target, media_type=MEDIA_TYPES[payload.output_format])
        pictures = (await probe(self._program, (), target.name, work.folder, limits)).pictures
        result = TranscodedMedia(
            outputs=[output],
            output_format=payload.output_format,
            duration_seconds=f"{made.seconds:.3f}" if reading else None,
            width=pictures.width if pictures else None,
            height=pictures.height if pictures else None,
            warnings=[line[:MAX_WARNING_CHARACTERS] for line in warnings[:MAX_WARNINGS]] or None,
        )
        units: dict[CountedUnit, int | str] = {
            "media_minute": media_minutes(result.duration_seconds or "0"),
            "gb": gigabytes([output]),
        }
        metrics: dict[str, int | str] = {"wall_ms": round(seconds * 1000), "output_bytes": output["size"]}
        return Outcome(result.document(), metrics, units)

    async def _make(
        self,
        arguments: list[str],
        payload: VideoPayload,
        source: Path,
        limits: RunLimits,
        watch: "_FfmpegProgress",
    ) -> tuple[Log, Reading | None]:
        """Run ffmpeg over the input; without a Reading for a thumbnail, which needs no whole source."""
        if isinstance(payload, Thumbnail):
            return await take_frame(arguments, payload.at_seconds, source.parent, limits), None
        reading = await read_source(
            arguments, source, limits=limits, on_stdout=watch.progress_line, on_stderr=watch.log_line
        )
        return reading.log, reading

    async def _measured(self, target: Path, limits: RunLimits, threads: int) -> Output:
        """The output after it was decoded. Raises EXECUTOR_FAILED without one, OUTPUT_TOO_LARGE."""
        assert self._program is not None
        size = await asyncio.to_thread(_size, target)
        if size is None or size > self._max_output_bytes:
            raise _missing_output() if size is None else self._too_large()
        made = await measure(self._program, target, limits=limits, threads=threads_of(threads))
        if made.seconds > MAX_SECONDS:
            raise ExecutorError(OUTPUT_TOO_LARGE, f"the output becomes longer than {MAX_SECONDS} s")
        return made

    def _too_large(self) -> ExecutorError:
        return ExecutorError(
            OUTPUT_TOO_LARGE, f"the output exceeds {self._max_output_bytes} bytes; lower its quality"
        )


def kinds_of(payload: VideoPayload, reading: Reading | None) -> set[str]:
    """The kinds of content that the output must have."""
    if isinstance(payload, ExtractAudio):
        return {"audio"}
    found = {"video"}
    if reading is not None and not isinstance(payload, TranscodeGif):
        found |= {track.kind for track in reading.decoded() if track.kind == "audio"}
    return found


def lengths_of(payload: VideoPayload, reading: Reading) -> tuple[float, float]:
    """The least and the greatest length of the output in seconds, by the tracks that went into it.

    The last frame of a video lasts as long as the others, at the output's rate; gaps in the sound may close.
    """
    tracks = [track for track in reading.decoded() if track.kind in _TIMED]
    whole = [track for track in reading.tracks.values() if track.kind in _TIMED]
    begin = min((track.start or 0.0 for track in tracks), default=0.0)
    length = max((track.end for track in tracks), default=0.0) - begin
    gaps = sum(gap.end - gap.start for track in tracks for gap in track.gaps if track.kind == "audio")
    rate = getattr(payload, "fps", None) or min(
        (stream.frames for stream in reading.log.streams.values() if stream.frames), default=1.0
    )
    slack = ENCODER_SECONDS + LOST_SECONDS + LENGTH_PART * length
    if not isinstance(payload, ExtractAudio):
        slack += 2 / rate
    # Tracks may be copied: they are as long as they are.
    most = max((track.end for track in whole), default=0.0) - begin
    return max(0.0, length - gaps - slack), most + slack


def memory_of(size: int) -> int:
    """The memory to transcode a file of `size` bytes."""
    return min(LEAST_MEMORY_BYTES + MEMORY_PER_INPUT_BYTE * size, MAX_MEMORY_BYTES)


class _FfmpegProgress:
    """Reports ffmpeg's progress."""

    def __init__(self, progress: Callable[[float, str], None]) -> None:
        self._progress = progress
        self._log = Log()

    def log_line(self, line: str) -> None:
        """Read a line of stderr: the input's duration is in one of the first lines."""
        if not self._log.duration:
            self._log.line(line)

    def progress_line(self, line: str) -> None:
        """Read a line of `-progress`: `out_time_us=…` comes about twice a second."""
        name, _, value = line.partition("=")
        if name == "out_time_us" and value.strip().isdigit() and self._log.duration:
            # Never 1 before the output is stored.
            self._progress(min(int(value) / 1e6 / self._log.duration, 0.99), "running")


def find_ffmpeg() -> str | None:
    """The ffmpeg on PATH, or the one that imageio-ffmpeg brings, or None."""
    program = shutil.which("ffmpeg")
    if program is not None:
        return program
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _missing_output() -> ExecutorError:
    return ExecutorError(EXECUTOR_FAILED, "ffmpeg made no output")
