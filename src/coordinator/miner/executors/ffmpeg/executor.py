"""The service `video_transcoding`: ffmpeg in a process of its own, watched and bounded."""

import asyncio
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from coordinator.miner.executors.base import (
    EXECUTOR_FAILED,
    EXECUTOR_KILLED,
    INPUT_TOO_LARGE,
    OUTPUT_TOO_LARGE,
    UNSUPPORTED,
    ExecutorError,
    Outcome,
    Work,
    payload_of,
)
from coordinator.miner.executors.ffmpeg.arguments import (
    MAX_PIXELS,
    MAX_SECONDS,
    MAX_VIDEO_PIXELS,
    MEDIA_TYPES,
    Abilities,
    command,
)
from coordinator.miner.executors.ffmpeg.check import DEVICES, abilities_of, lacking_filters, version_of
from coordinator.miner.executors.ffmpeg.encoders import ENCODERS, HARDWARE
from coordinator.miner.executors.ffmpeg.preparation import check_encoders, prepare
from coordinator.miner.executors.ffmpeg.source import probe
from coordinator.miner.executors.limits import Bound
from coordinator.miner.executors.process import Finished, run_program
from coordinator.miner.executors.usage import out_of_memory, too_much_memory
from coordinator.services.video_transcoding import ENCODER_MODELS, SERVICE, TranscodedMedia

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
_TOO_MANY_PIXELS: Final = "exceeds specified max pixel count"
_DURATION: Final = re.compile(r"^\s*Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")


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

        Raises ExecutorError: INVALID_PAYLOAD, INPUT_TOO_LARGE (also for frames of too many pixels),
        UNSUPPORTED (this ffmpeg lacks the encoder), EXECUTOR_TIMEOUT, EXECUTOR_FAILED (ffmpeg could not do
        it: another attempt will not help), EXECUTOR_KILLED (killed from outside), RESOURCE_LIMIT,
        OUTPUT_TOO_LARGE, and the errors of downloads and uploads.
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

        # 3. Look at the input, and run ffmpeg. A device may fail where software does not.
        started = time.monotonic()
        watch = _FfmpegProgress(work.progress)
        memory = work.share.memory(memory_of(source.stat().st_size))
        limits: dict[str, Any] = {
            "max_file_bytes": self._max_output_bytes + _SLACK_BYTES,
            "max_memory": memory,
            "max_disk": work.share.disk(self._max_input_bytes + self._max_output_bytes + _SLACK_BYTES),
        }
        threads = work.share.processors
        plans = await prepare(self._program, payload, self.abilities, source, threads=threads, **limits)
        warnings: list[str] = []
        for plan in plans:
            finished = await run_program(
                command(
                    self._program,
                    payload,
                    plan,
                    source=source.name,
                    target=target.name,
                    max_output_bytes=self._max_output_bytes,
                    threads=threads,
                ),
                folder=work.folder,
                timeout_seconds=self._timeout_seconds - (time.monotonic() - started),
                # A GPU's driver reserves memory that nobody uses.
                limits_data=not plan.hardware,
                on_stdout=watch.progress_line,
                on_stderr=watch.log_line,
                **limits,
            )
            if finished.returncode == 0 or plan is plans[-1]:
                break
            warnings.append(f"encoder: {plan.encoder} failed, so another one was used")
        warnings += plan.warnings
        seconds = time.monotonic() - started

        # 4. Store the output.
        size = await asyncio.to_thread(_size, target)
        self._check_finished(finished, size, memory)
        if watch.done_us > MAX_SECONDS * 1_000_000:
            raise ExecutorError(OUTPUT_TOO_LARGE, f"the output becomes longer than {MAX_SECONDS} s")
        output = await work.blobs.upload(target, media_type=MEDIA_TYPES[payload.output_format])
        timed = payload.operation != "thumbnail" and watch.done_us
        made = (await probe(self._program, (), target.name, work.folder, **limits)).pictures
        result = TranscodedMedia(
            outputs=[output],
            output_format=payload.output_format,
            duration_seconds=f"{watch.done_us / 1e6:.3f}" if timed else None,
            width=made.width if made else None,
            height=made.height if made else None,
            warnings=warnings or None,
        )
        return Outcome(result.document(), {"wall_ms": round(seconds * 1000), "output_bytes": size or 0})

    def _check_finished(self, finished: Finished, size: int | None, memory: Bound) -> None:
        """Raise ExecutorError unless the run succeeded."""
        if size is not None and size > self._max_output_bytes:
            raise ExecutorError(
                OUTPUT_TOO_LARGE, f"the output exceeds {self._max_output_bytes} bytes; lower its quality"
            )
        if finished.returncode < 0:
            raise ExecutorError(
                EXECUTOR_KILLED, f"signal {-finished.returncode} ended ffmpeg", retryable=True
            )
        if finished.returncode > 0 and out_of_memory(finished.stderr):
            raise too_much_memory(memory)
        if finished.returncode > 0 and _TOO_MANY_PIXELS in finished.stderr:
            raise ExecutorError(
                INPUT_TOO_LARGE,
                f"input_url: frames of more than {MAX_VIDEO_PIXELS} pixels, or {MAX_PIXELS} for a thumbnail",
            )
        if finished.returncode > 0:
            raise ExecutorError(EXECUTOR_FAILED, _last_line(finished.stderr))
        if not size:
            raise ExecutorError(
                EXECUTOR_FAILED, "ffmpeg made no output; does the input have this stream and time?"
            )


def memory_of(size: int) -> int:
    """The memory to transcode a file of `size` bytes."""
    return min(LEAST_MEMORY_BYTES + MEMORY_PER_INPUT_BYTE * size, MAX_MEMORY_BYTES)


class _FfmpegProgress:
    """Reads ffmpeg's progress. Durations are in microseconds; 0 while unknown."""

    def __init__(self, progress: Callable[[float, str], None]) -> None:
        self._progress = progress
        self._total_us = 0.0
        self.done_us = 0

    def log_line(self, line: str) -> None:
        """Read a line of stderr: the input's duration is in one of the first lines."""
        if not self._total_us and (match := _DURATION.match(line)):
            hours, minutes, seconds = match.groups()
            self._total_us = (int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * 1e6

    def progress_line(self, line: str) -> None:
        """Read a line of `-progress`: `out_time_us=…` comes about twice a second."""
        name, _, value = line.partition("=")
        if name != "out_time_us" or not value.strip().isdigit():
            return
        self.done_us = int(value)
        if self._total_us:
            # Never 1 before the output is stored.
            self._progress(min(self.done_us / self._total_us, 0.99), "running")


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


def _last_line(stderr: str) -> str:
    """ffmpeg's error message; file names in it are ours and relative."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "invalid" in line.lower()]
    return ((errors or lines or ["ffmpeg failed without a message"])[-1])[:300]
