"""The service `video_transcoding`: ffmpeg in a process of its own, watched and bounded."""

import asyncio
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from coordinator.miner.executors.base import (
    EXECUTOR_FAILED,
    INVALID_PAYLOAD,
    OUTPUT_TOO_LARGE,
    UNSUPPORTED,
    ExecutorError,
    Outcome,
    Work,
    payload_of,
)
from coordinator.miner.executors.ffmpeg.arguments import (
    ENCODERS,
    MAX_SECONDS,
    MEDIA_TYPES,
    build_arguments,
    codecs_of,
)
from coordinator.miner.executors.media.log import Log
from coordinator.miner.executors.media.output import ENCODER_SECONDS, measure
from coordinator.miner.executors.media.run import Limits, Reading, read_source, run_ffmpeg
from coordinator.miner.executors.media.source import LOST_SECONDS
from coordinator.miner.executors.process import run_program
from coordinator.services.video_transcoding import (
    SERVICE,
    ExtractAudio,
    Thumbnail,
    TranscodedMedia,
    TranscodeGif,
    VideoPayload,
)

TIMEOUT_SECONDS: Final = 600.0
CHECK_TIMEOUT_SECONDS: Final = 30.0
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
LENGTH_PART: Final = 0.01
"""An output may differ from its source by this part of its length: rates are rounded."""
_ENCODER_LINE: Final = re.compile(r"^ [VAS][F.][S.][X.][B.][D.] (\S+)", re.MULTILINE)


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
    ) -> None:
        self._program = program
        self._timeout_seconds = timeout_seconds
        self._max_input_bytes = max_input_bytes
        self._max_output_bytes = max_output_bytes
        self.encoders: frozenset[str] = frozenset()
        """The working encoders; empty before `check`."""

    async def check(self) -> str | None:
        """Find ffmpeg and its encoders; try those that need hardware on one frame."""
        program = self._program or find_ffmpeg()
        if program is None:
            return "ffmpeg is not installed: put it on PATH, or install coordinator[ffmpeg]"
        with TemporaryDirectory(prefix="ffmpeg-check-") as folder:
            try:
                version = await _ask(program, Path(folder), "-version")
                listing = await _ask(program, Path(folder), "-hide_banner", "-encoders")
            except ExecutorError as error:
                return f"ffmpeg does not run: {error.detail}"
            if not version:
                return "ffmpeg does not run: it fails with -version"
            wanted = {name for names in ENCODERS.values() for name in names}
            found = wanted & set(_ENCODER_LINE.findall(listing))
            for name in sorted(found):
                if name.endswith("_nvenc") and not await _encodes(program, Path(folder), name):
                    found.discard(name)
        missing = [codec for codec in _NEEDED if not found.intersection(ENCODERS[codec])]
        if missing:
            return f"ffmpeg lacks encoders for {', '.join(missing)}"
        self._program, self.encoders = program, frozenset(found)
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
        lacking = [codec for codec in codecs_of(payload) if not self.encoders.intersection(ENCODERS[codec])]
        if lacking:
            raise ExecutorError(UNSUPPORTED, f"no encoder here for {', '.join(lacking)}", retryable=True)
        assert self._program is not None

        # 2. Fetch the input, under a name of ours: ffmpeg may read a meaning into a client's name.
        source, target = work.folder / "input", work.folder / f"output.{payload.output_format}"
        await work.blobs.download(payload.input_url, source, max_bytes=self._max_input_bytes)
        work.progress(0.0, "running")

        # 3. Run ffmpeg. A thumbnail needs no more of the source than its frame.
        started = time.monotonic()
        watch = _FfmpegProgress(work.progress)
        arguments = build_arguments(
            self._program,
            payload,
            self.encoders,
            source=source.name,
            target=target.name,
            max_output_bytes=self._max_output_bytes,
            threads=work.share.processors,
        )
        limits = Limits(
            timeout_seconds=self._timeout_seconds,
            file_bytes=self._max_output_bytes + _SLACK_BYTES,
            memory=work.share.memory(memory_of(source.stat().st_size)),
            disk=work.share.disk(self._max_input_bytes + self._max_output_bytes + _SLACK_BYTES),
            of_data=not any(argument.endswith("_nvenc") for argument in arguments),
        )
        reading: Reading | None = None
        if isinstance(payload, Thumbnail):
            await self._take_frame(arguments, payload, work.folder, limits)
        else:
            reading = await read_source(
                arguments, source, limits=limits, on_stdout=watch.progress_line, on_stderr=watch.log_line
            )

        # 4. Check the output, and store it.
        size = await asyncio.to_thread(_size, target)
        if size is None or size > self._max_output_bytes:
            raise _missing_output() if size is None else self._too_large()
        made = await measure(self._program, target, limits=limits)
        if made.seconds > MAX_SECONDS:
            raise ExecutorError(OUTPUT_TOO_LARGE, f"the output becomes longer than {MAX_SECONDS} s")
        made.check(kinds_of(payload, reading), lengths_of(payload, reading) if reading else None)
        seconds = time.monotonic() - started
        output = await work.blobs.upload(target, media_type=MEDIA_TYPES[payload.output_format])
        result = TranscodedMedia(
            outputs=[output],
            output_format=payload.output_format,
            duration_seconds=f"{made.seconds:.3f}" if reading else None,
            warnings=(reading.warnings or None) if reading else None,
        )
        return Outcome(result.document(), {"wall_ms": round(seconds * 1000), "output_bytes": size})

    async def _take_frame(
        self, arguments: list[str], payload: Thumbnail, folder: Path, limits: Limits
    ) -> None:
        """Take a thumbnail. Raises INVALID_PAYLOAD if the video has no frame at its moment."""
        log = Log()
        problem: ExecutorError | None = None
        try:
            await run_ffmpeg(arguments, folder=folder, limits=limits, on_stderr=log.line)
        except ExecutorError as error:
            problem = error
        if log.has_no_frames and (problem is None or problem.code in (EXECUTOR_FAILED, INVALID_PAYLOAD)):
            # Without a frame, encoders complain about anything.
            told = f"at_seconds: the source has no picture at {payload.at_seconds:g} s"
            if log.duration is not None:
                told += f"; its header says {log.duration:.2f} s"
            raise ExecutorError(INVALID_PAYLOAD, told)
        if problem is not None:
            raise problem

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
    tracks = reading.decoded()
    begin = min((track.start or 0.0 for track in tracks), default=0.0)
    length = max((track.end for track in tracks), default=0.0) - begin
    gaps = sum(gap.end - gap.start for track in tracks for gap in track.gaps if track.kind == "audio")
    rate = getattr(payload, "fps", None) or min(
        (stream.frames for stream in reading.log.streams.values() if stream.frames), default=1.0
    )
    slack = ENCODER_SECONDS + LOST_SECONDS + LENGTH_PART * length
    if not isinstance(payload, ExtractAudio):
        slack += 2 / rate
    return max(0.0, length - gaps - slack), length + slack


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


async def _ask(program: str, folder: Path, *arguments: str) -> str:
    """The output of ffmpeg; empty if it fails. Raises ExecutorError if it does not start or end."""
    lines: list[str] = []
    finished = await run_program(
        [program, *arguments], folder=folder, timeout_seconds=CHECK_TIMEOUT_SECONDS, on_stdout=lines.append
    )
    return "\n".join(lines) if finished.returncode == 0 else ""


async def _encodes(program: str, folder: Path, encoder: str) -> bool:
    """Whether an encoder works: a listed encoder may lack its hardware."""
    source = ("-f", "lavfi", "-i", "color=size=256x256:rate=1:duration=1")
    arguments = (program, "-v", "error", "-nostdin", *source, "-c:v", encoder, "-f", "null", "-")
    try:
        finished = await run_program(
            arguments, folder=folder, timeout_seconds=CHECK_TIMEOUT_SECONDS, limits_data=False
        )
    except ExecutorError:
        return False
    return finished.returncode == 0


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _missing_output() -> ExecutorError:
    return ExecutorError(EXECUTOR_FAILED, "ffmpeg made no output")
