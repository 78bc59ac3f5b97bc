"""The service `speech_recognition`: transcripts of recordings from an engine (SPEECH_ENGINE_URL).

ffmpeg decodes the recording here, within its limits: engines get plain sound, never a stranger's file.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from coordinator.domain.matching.units import CountedUnit
from coordinator.miner.executors.base import (
    Outcome,
    Work,
    document_of,
    payload_of,
)
from coordinator.miner.executors.counts import media_minutes
from coordinator.miner.executors.engine import Engine, EngineExecutor, EngineSettings
from coordinator.miner.executors.errors import (
    EXECUTOR_FAILED,
    INVALID_PAYLOAD,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.executors.ffmpeg.arguments import safe_input
from coordinator.miner.executors.ffmpeg.executor import find_ffmpeg
from coordinator.miner.executors.limits import Share
from coordinator.miner.executors.media.channel_layouts import conversion
from coordinator.miner.executors.media.first_sound import NO_GUESSES, first_sound
from coordinator.miner.executors.media.packets import MAX_PACKETS_BYTES
from coordinator.miner.executors.media.run import NO_BANNER, RunLimits, read_source
from coordinator.services.speech_recognition import (
    SERVICE,
    VRAM_GB,
    SpeechPayload,
    Transcript,
    TranscriptSegment,
    TranscriptWord,
)
from coordinator.services.speech_recognition.languages import language_code

SAMPLES_PER_SECOND: Final = 16_000
"""Whisper's own sample rate."""
MAX_INPUT_BYTES: Final = 2 * 2**30
MAX_SECONDS: Final = 6 * 3600
MAX_MEMORY_BYTES: Final = 2 * 2**30
DECODE_SECONDS: Final = 600.0
UNHEARD_SECONDS: Final = 1.0
UNHEARD_PART: Final = 0.02
"""An engine that says a length shorter by more than both has not heard all."""
MAX_SEGMENTS: Final = 50_000
GRANULARITIES: Final = "timestamp_granularities[]"
"""OpenAI's field of the form."""
UNDETERMINED: Final = "und"


def recognise(name: str) -> str | None:
    """Whisper's model in names such as `Systran/faster-distil-whisper-large-v3` and `ggml-tiny-q5_1.bin`."""
    last = name.rpartition("/")[2].lower()
    last = re.sub(r"(\.(bin|gguf)|:latest)$", "", last)
    last = re.sub(
        r"[-_](ct2|mlx|onnx|gguf|ggml|int8|fp16|float16|[48]bit|q[0-9]_[0-9k](_[a-z])?)(?=$|-|_)", "", last
    )
    distilled = "distil-" in last
    size = re.sub(r"^(faster-|distil-|whisper-|ggml-)+", "", last)
    size = f"distil-{size}" if distilled else size
    return size if size in VRAM_GB else None


class SpeechExecutor(EngineExecutor):
    """Decodes with ffmpeg, and gets the text from the engine."""

    services = (SERVICE.id,)

    def __init__(
        self,
        settings: EngineSettings | None = None,
        *,
        max_input_bytes: int = MAX_INPUT_BYTES,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        super().__init__(Engine("SPEECH", settings, recognise=recognise, closed=True))
        self._max_input_bytes = max_input_bytes
        self._max_seconds = max_seconds

    async def check(self) -> str | None:
        """Whether an engine has a known model, and ffmpeg is installed."""
        if problem := await self._engine.check():
            return problem
        if find_ffmpeg() is None:
            return "ffmpeg is not installed: put it on PATH, or install coordinator[ffmpeg]"
        return None

    async def run(self, work: Work) -> Outcome:
        """The result is a Transcript, with segments if the engine gives them.

        Raises ExecutorError: INVALID_PAYLOAD (also for a file that is cut, damaged or without sound, and for
        too long a sound), UNSUPPORTED (also if the engine does not time words that are to be timed),
        ENGINE_UNAVAILABLE, EXECUTOR_FAILED (also if the engine heard less than there is), and the errors of
        downloads.
        """
        payload = payload_of(SERVICE, work)
        started = time.monotonic()
        await self.ready()
        model = self._engine.name_of(payload.model)

        source, sound = work.folder / "input", work.folder / "sound.wav"
        await work.blobs.download(payload.audio_url, source, max_bytes=self._max_input_bytes)
        work.progress(0.0, "decoding")
        warnings = await self._decode(work.share, source, sound)
        source.unlink()
        seconds = await asyncio.to_thread(_seconds_of, sound)
        if seconds > self._max_seconds:
            raise ExecutorError(INVALID_PAYLOAD, f"audio_url: longer than {self._max_seconds:g} s")

        work.progress(0.1, "listening")
        answer = await self._transcribe(payload, model, sound)
        check_heard(answer, seconds)
        result = parse_transcript(
            answer, payload.language, seconds, warnings, word_timestamps=payload.word_timestamps
        )
        work.emit(result.text)
        metrics: dict[str, int | str] = {
            "wall_ms": round((time.monotonic() - started) * 1000),
            "audio_ms": round(seconds * 1000),
        }
        units: dict[CountedUnit, int | str] = {"media_minute": media_minutes(result.duration_seconds or 0)}
        return Outcome(await document_of(work, result), metrics, units)

    async def _decode(self, share: Share, source: Path, sound: Path) -> list[str]:
        """Make the engine's sound of a client's file; returns warnings about that."""
        program = find_ffmpeg()
        if program is None:
            raise ExecutorError(UNSUPPORTED, "ffmpeg is no longer installed", retryable=True)
        size = int((self._max_seconds + 2) * SAMPLES_PER_SECOND * 2)
        limits = RunLimits(
            timeout_seconds=DECODE_SECONDS,
            file_bytes=size + 4096 + MAX_PACKETS_BYTES,
            memory=share.memory(MAX_MEMORY_BYTES),
            disk=share.disk(self._max_input_bytes + size + MAX_PACKETS_BYTES),
        )
        safe = safe_input(share.processors)
        found = await first_sound(program, safe, source, limits=limits)
        mixing = (
            [*conversion(found.layout, "mono"), f"aresample={SAMPLES_PER_SECOND}"] if found else ["anull"]
        )
        # One second more than allowed, to tell too long a sound from one of the greatest length.
        arguments = [
            *(program, *NO_BANNER, *safe, *NO_GUESSES),
            *("-i", f"file:{source.name}", "-map", "0:a:0", "-vn", "-sn", "-dn"),
            *("-t", f"{self._max_seconds + 1:g}", "-af", ",".join(mixing)),
            *("-ac", "1", "-ar", str(SAMPLES_PER_SECOND), "-c:a", "pcm_s16le"),
            *("-f", "wav", f"file:{sound.name}"),
        ]
        return (await read_source(arguments, source, limits=limits)).warnings

    async def _transcribe(self, payload: SpeechPayload, model: str, sound: Path) -> Any:
        translates = payload.task == "translate"
        form: dict[str, Any] = {"model": model, "response_format": "verbose_json"}
        form["temperature"] = f"{payload.temperature:g}"
        if payload.initial_prompt:
            form["prompt"] = payload.initial_prompt
        if payload.language != "auto":
            form["language"] = language_code(payload.language) or payload.language
        if payload.word_timestamps:
            form[GRANULARITIES] = ["segment", "word"]
        elif not translates:
            form[GRANULARITIES] = "segment"
        # Not OpenAI's fields. Some engines use them; others skip unknown form fields.
        form |= {"best_of": str(payload.best_of), "beam_size": str(payload.beam_size)}
        with await asyncio.to_thread(sound.open, "rb") as file:
            try:
                return await self._engine.post(
                    "audio/translations" if translates else "audio/transcriptions",
                    data=form,
                    files={"file": ("sound.wav", file, "audio/wav")},
                )
            except ExecutorError as error:
                refused = error.code == INVALID_PAYLOAD and "timestamp" in error.detail.lower()
                if payload.word_timestamps and refused:
                    raise _untimed(error.detail) from None
                raise


def check_heard(answer: Any, seconds: float) -> None:
    """Raise ExecutorError if an engine says that it heard less than the recording's length.

    Engines round to seconds or to windows, so small differences are none; not all of them say a length.
    """
    heard = answer.get("duration") if isinstance(answer, dict) else None
    try:
        length = float(heard) if isinstance(heard, int | float | str) and heard is not True else 0.0
    except ValueError:
        return
    if 0 < length < seconds - max(UNHEARD_SECONDS, UNHEARD_PART * seconds):
        raise ExecutorError(
            EXECUTOR_FAILED, f"the engine heard {length:.2f} s of {seconds:.2f} s", retryable=True
        )


def parse_transcript(
    answer: Any,
    asked: str,
    seconds: float | None = None,
    warnings: Sequence[str] = (),
    *,
    word_timestamps: bool = False,
) -> Transcript:
    """The transcript in an engine's answer, of so long a recording.

    Raises ExecutorError if it has no text, or no times of words where they are asked for. If not all segments
    have their times, one segment over the whole length has the text: so no subtitle is lost.
    """
    text = answer.get("text") if isinstance(answer, dict) else None
    if not isinstance(text, str):
        raise ExecutorError(EXECUTOR_FAILED, "the engine's answer has no text", retryable=True)
    found = answer.get("language")
    language = (language_code(found) or found.lower()) if isinstance(found, str) else ""
    if not re.fullmatch("[a-z]{2,3}", language):
        language = UNDETERMINED if asked == "auto" else language_code(asked) or UNDETERMINED
    text = _clean(text).strip()
    given = answer.get("segments")
    found_segments = [_segment(one) for one in given[:MAX_SEGMENTS]] if isinstance(given, list) else []
    segments = [segment for segment in found_segments if segment is not None]
    length = None if seconds is None else round(seconds, 3)
    timed = len(segments) == len(found_segments) and any(segment.text for segment in segments)
    if text and not timed and length is not None:
        segments = [TranscriptSegment(start=0.0, end=length, text=text)]
    words = None
    if word_timestamps:
        words = _words(answer, math.inf if length is None else length) if text else []
        if words is None:
            raise _untimed("the engine does not time words")
    return Transcript(
        text=text,
        language=language,
        duration_seconds=length,
        segments=segments,
        words=words,
        warnings=list(warnings) or None,
    )


def _segment(given: Any) -> TranscriptSegment | None:
    try:
        start, end, text = float(given["start"]), float(given["end"]), given["text"]
        if not (0 <= start <= end < 1e7) or not isinstance(text, str):
            return None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return TranscriptSegment(
        start=round(start, 3),
        end=round(end, 3),
        text=_clean(text).strip(),
        average_log_probability=_within(given.get("avg_logprob"), -1e6, 0),
        no_speech_probability=_within(given.get("no_speech_prob"), 0, 1),
    )


def _untimed(detail: str) -> ExecutorError:
    return ExecutorError(UNSUPPORTED, f"word_timestamps: {detail}", retryable=True)


def _words(answer: Mapping[str, Any], length: float) -> list[TranscriptWord] | None:
    """The words in order and within the length; None if the engine does not time all of them."""
    given = answer.get("words")
    if not given:  # not where OpenAI has them
        segments = answer.get("segments")
        parts = [_words_of(segment) for segment in segments] if isinstance(segments, list) else []
        given = None if None in parts else [word for part in parts if part for word in part]
    if not isinstance(given, list):
        return None
    words: list[TranscriptWord] = []
    last = 0.0
    for one in given:
        try:
            start, end, text = float(one["start"]), float(one["end"]), one["word"]
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        if not (0 <= start < 1e7 and 0 <= end < 1e7) or not isinstance(text, str):
            return None
        # Engines estimate: a word may begin before the last one, or end before it begins, or after the sound.
        start = min(max(round(start, 3), last), length)
        end, last = min(max(round(end, 3), start), length), start
        if text := _clean(text).strip():
            words.append(TranscriptWord(word=text, start=start, end=end))
    return words or None


def _words_of(segment: Any) -> list[Any] | None:
    """The words of a segment; None if it has a text without them.

    Those of whisper.cpp's server are tokens: a word begins with a space.
    """
    if not isinstance(segment, dict):
        return None
    given, text = segment.get("words") or [], segment.get("text")
    spoken = text.split() if isinstance(text, str) else []
    if not isinstance(given, list) or (spoken and not given):
        return None
    if not all(
        isinstance(one, dict) and "t_dtw" in one and isinstance(one.get("word"), str) for one in given
    ):
        return given
    words: list[dict[str, Any]] = []
    for token in given:
        if words and not token["word"].startswith(" "):
            words[-1] = {**words[-1], "word": words[-1]["word"] + token["word"], "end": token.get("end")}
        else:
            words.append(token)
    # A letter whose bytes are in two tokens is whole in the segment only.
    if len(spoken) == len(words):
        words = [{**word, "word": one} for word, one in zip(words, spoken, strict=True)]
    return words


def _within(value: Any, least: float, most: float) -> float | None:
    return round(value, 4) if isinstance(value, float) and least <= value <= most else None


def _clean(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _seconds_of(sound: Path) -> float:
    with wave.open(str(sound), "rb") as file:
        return file.getnframes() / file.getframerate()
