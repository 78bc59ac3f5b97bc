"""One payload on one input, run by the real executor, and the verdict on what came out."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
from pydantic import ValidationError

from coordinator.miner.executors import ExecutorError, Work, Workspace
from coordinator.miner.executors.base import Executor
from coordinator.miner.executors.errors import (
    EXECUTOR_TIMEOUT,
    INPUT_TOO_LARGE,
    INVALID_PAYLOAD,
    OUTPUT_TOO_LARGE,
    RESOURCE_LIMIT,
    UNSUPPORTED,
)
from coordinator.miner.executors.media.audio_encoders import bits_per_second
from coordinator.services.base import KnownService
from tests.harness.works import FolderBlobs, check_output
from tests.matrix.inputs import Input
from tests.matrix.measuring import SILENCE_DB, Measured, measure

CONTAINERS: Final = {
    "wav": "wav", "flac": "flac", "mp3": "mp3", "ogg": "ogg", "m4a": "mov", "mp4": "mov",
    "mkv": "matroska", "webm": "matroska", "gif": "gif", "jpg": "jpeg_pipe", "png": "png_pipe",
}  # fmt: skip
"""The reader that ffmpeg takes for a file of each output format."""
PICTURES: Final = {"jpg": {"image2": "jpeg_pipe"}, "png": {"image2": "png_pipe"}}
"""The other reader that ffmpeg may take for a picture."""
SOUND_CODECS: Final = {"wav": "pcm_s16le", "flac": "flac", "mp3": "mp3", "ogg": "vorbis", "m4a": "aac"}
CODECS: Final = {"h265": "hevc"}
"""ffmpeg's names of codecs, where they differ from the schema's."""
TOO_LARGE: Final = (INPUT_TOO_LARGE, OUTPUT_TOO_LARGE, RESOURCE_LIMIT, EXECUTOR_TIMEOUT)
"""Bounds of this machine, not of an encoder."""
NO_STREAM: Final = re.compile(
    r"no (sound|picture|video|audio|frame|subtitle|track)|has \d+|nothing", re.IGNORECASE
)
"""A refusal that says what the input lacks."""
FLAT: Final = 3.0
"""The standard deviation of the brightness of a picture in which nothing is left to see, of 0 to 255."""
STARVING: Final = "100k"
"""With fewer bits per second an encoder may have none left for the first frames."""
SLACK_SECONDS: Final = 0.12
"""A frame or two: of MP3 at 8 kHz one takes 72 ms, of video at 10 frames per second 100 ms."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request, without its input's name."""

    kind: str
    input: Input
    payload: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} of {self.input.name}: {self.payload}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`outcome` is done, refused, too large, elsewhere (another machine could) or failed."""

    case: Case
    outcome: str
    message: str
    seconds: float


class Matrix:
    """Runs cases of one service."""

    def __init__(
        self,
        service: KnownService[Any, Any],
        executor: Executor,
        contents: Mapping[str, bytes],
        program: str,
        folder: Path,
    ) -> None:
        self._service, self._executor, self._program = service, executor, program
        self._schema = jsonschema_rs.validator_for(service.payload.json_schema())
        self._folder, self._blobs = folder, FolderBlobs(folder / "blobs")
        self._refs = {name: self._blobs.add(content) for name, content in contents.items()}

    def accepts(self, case: Case) -> bool:
        """Whether the service takes the payload: by its schema, and by the rules that are not in that."""
        payload = {**case.payload, "input_url": self._refs[case.input.name]}
        if not self._schema.is_valid(payload):  # a kind's fields without what names the kind
            return False
        try:
            return self._service.payload.validate_python(payload).contradiction() is None
        except ValidationError:
            return True  # it differs from its schema: the executor will say so

    async def run(self, case: Case) -> Verdict:
        """The verdict on one case."""
        started = time.monotonic()
        try:
            outcome, message = await self._judged(case)
        except Exception as error:  # a verdict, too: the executor may raise nothing else than ExecutorError
            outcome, message = "failed", f"{type(error).__name__}: {error}"[:300]
        return Verdict(case, outcome, message, time.monotonic() - started)

    async def _judged(self, case: Case) -> tuple[str, str]:
        payload = {**case.payload, "input_url": self._refs[case.input.name]}
        with Workspace(self._folder) as workspace:
            work = Work("job-1", 1, self._service.id, payload, workspace, self._blobs, lambda *_: None)
            try:
                made = check_output(self._service.id, await self._executor.run(work))
            except ExecutorError as error:
                return _judged_refusal(case, error)
        output = made.result["outputs"][0]
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=f"-{output['name']}") as file:
            path = Path(file.name)
            await asyncio.to_thread(path.write_bytes, self._blobs.read(output))
            measured = await asyncio.to_thread(measure, self._program, path)
        problems = [*faults(case, made.result, measured)]
        return ("failed", "; ".join(problems)) if problems else ("done", _described(measured))


def _judged_refusal(case: Case, error: ExecutorError) -> tuple[str, str]:
    message = f"{error.code}: {error.detail}"
    if error.code == OUTPUT_TOO_LARGE and error.detail.startswith("resolution:"):
        return "refused", message  # the request itself is too large
    if error.code in TOO_LARGE:
        return "too large", message
    if error.code == UNSUPPORTED:
        return "elsewhere", message
    return (
        "refused" if error.code == INVALID_PAYLOAD and _may_refuse(case, error.detail) else "failed"
    ), message


def _may_refuse(case: Case, detail: str) -> bool:
    """Whether the input has not what is asked for: no such stream, no such time, nothing left."""
    field = detail.partition(":")[0]
    payload, one = case.payload, case.input
    if payload.get("at_seconds", 0) >= one.seconds - SLACK_SECONDS and field in ("at_seconds", "input_url"):
        return True
    if field in ("audio_tracks", "audio_track", "subtitle_track", "subtitles"):
        return True
    if field not in ("at_seconds", "operations") and NO_STREAM.search(detail):
        return not (one.sound and one.pictures)
    if field == "operations":
        return any(_may_leave_nothing(operation, one) for operation in payload.get("operations", ()))
    return False


def _may_leave_nothing(operation: Mapping[str, Any], one: Input) -> bool:
    match operation["operation"]:
        case "trim":
            start, end = operation.get("start_seconds", 0), operation.get("end_seconds", one.seconds)
            return bool(start >= one.seconds or end <= start)
        case "remove_silence":
            # A sound of a few samples is noise, or the edge of a window.
            return one.silent or one.seconds < 0.01 or operation.get("threshold_db", -50) > -20
        case _:
            return False


# --- what came out ------------------------------------------------------------------------------------------
def faults(case: Case, result: Mapping[str, Any], measured: Measured) -> list[str]:
    """How a file differs from its request and its result; a warning in the result that names a field excuses
    the field."""
    output_format = result["output_format"]
    found = list(measured.problems)

    def compare(what: str, expected: Any, actual: Any) -> None:
        if expected != actual:
            found.append(f"{what}: {expected} expected, {actual} measured")

    container = measured.container.split(",")[0]
    # A picture whose beginning ffmpeg does not recognize is read by its name.
    compare("container", CONTAINERS[output_format], PICTURES.get(output_format, {}).get(container, container))
    tracks = _tracks(case)
    if output_format in ("mp4", "mkv", "webm"):
        compare("tracks of sound", tracks, len(measured.sounds))
        compare("tracks of subtitles", _texts(case, result), measured.texts)
    if output_format in SOUND_CODECS or (tracks and measured.sounds):
        found += _sound_faults(case, result, measured)
    starved = bits_per_second(case.payload.get("bitrate") or STARVING) < bits_per_second(STARVING)
    if measured.spread is not None and measured.spread < FLAT and not starved:
        found.append("the picture has become one colour")
    if "codec" in case.payload and output_format in ("mp4", "mkv", "webm"):
        codec = case.payload["codec"].partition("_")[0]
        compare("codec", CODECS.get(codec, codec), measured.pictures and measured.pictures[0])
    for number, side in enumerate(("width", "height"), 1):
        if side in result and measured.pictures:
            compare(side, result[side], measured.pictures[number])
    if (told := result.get("duration_seconds")) is not None:
        if abs(float(told) - measured.seconds) > SLACK_SECONDS:
            found.append(f"duration_seconds: {told} in the result, {measured.seconds:.3f} measured")
        slack = max(SLACK_SECONDS, 1 / (case.payload.get("fps") or 10))
        if not case.payload.get("operations") and abs(case.input.seconds - measured.seconds) > slack:
            found.append(f"length: {case.input.seconds:.3f} s went in, {measured.seconds:.3f} s came out")
    return found


def _tracks(case: Case) -> int:
    """The tracks of sound that a video has to have."""
    there = len(case.input.languages) if case.input.sound else 0
    match case.payload.get("audio_tracks", "first"):
        case "first":
            return min(1, there)
        case "all":
            return there
        case "none":
            return 0
        case named:
            return len({_number(one, case.input.languages) for one in named})


def _number(track: Any, languages: Sequence[str]) -> int:
    return track if isinstance(track, int) else languages.index(track)


def _texts(case: Case, result: Mapping[str, Any]) -> int:
    """The tracks of subtitles that a video has to have: all kinds of the inputs' fit into all formats."""
    if case.payload.get("subtitles", "none") != "keep":
        return 0
    return len(case.input.texts) if "subtitle_track" not in case.payload else 1


def _sound_faults(case: Case, result: Mapping[str, Any], measured: Measured) -> list[str]:
    payload, output_format = case.payload, result["output_format"]
    if not measured.sounds:
        return ["no sound in the output"]
    sound = measured.sounds[0]
    warned = {warning.partition(":")[0] for warning in result.get("warnings", ())}
    wanted = SOUND_CODECS.get(output_format, payload.get("audio_codec", sound.codec))
    expected: list[tuple[str, Any, Any]] = [
        ("audio codec", sound.codec if wanted == "copy" else wanted, sound.codec)
    ]
    for field, actual in (("sample_rate", sound.rate), ("channels", sound.channels)):
        if payload.get(field) is not None and field not in warned:
            expected.append((field, payload[field], actual))
        if field in result:
            expected.append((f"{field} of the result", result[field], actual))
    if output_format in ("mp3", "ogg") and "bitrate" in payload and "bitrate" not in warned:
        expected.append(("bitrate", payload["bitrate"], f"{(sound.bitrate or 0) // 1000}k"))
    faults = [f"{name}: {one} expected, {other} measured" for name, one, other in expected if one != other]
    audible = case.input.sound and not case.input.silent and not payload.get("operations")
    if audible and case.input.seconds > SLACK_SECONDS and (measured.loudest_db or 0.0) < SILENCE_DB:
        faults.append("the sound has become silence")
    return faults


def _described(measured: Measured) -> str:
    parts = [
        measured.container.split(",")[0],
        *(f"{s.codec} {s.rate} Hz {s.layout}" for s in measured.sounds),
    ]
    return f"{', '.join(parts)}, {measured.seconds:.2f} s"
