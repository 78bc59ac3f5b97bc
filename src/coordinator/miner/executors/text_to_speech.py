"""The service `text_to_speech`: a text, read aloud by an engine (TTS_ENGINE_URL).

What the engine sends counts only once ffmpeg has decoded it here: as sound of the asked format, not silence.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any, Final

from coordinator.miner.executors.base import Outcome, Work, payload_of
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
from coordinator.miner.executors.process import run_program
from coordinator.services.text_to_speech import (
    MEDIA_TYPES,
    PCM_RATE,
    SERVICE,
    AudioFormat,
    SpeakPayload,
    SpokenText,
)

MAX_OUTPUT_BYTES: Final = 1 << 30
"""Hours of uncompressed speech."""
MAX_SECONDS: Final = 6 * 3600
MAX_MEMORY_BYTES: Final = 2 << 30
DECODE_SECONDS: Final = 600.0
DECODED_RATE: Final = 8_000
"""Samples a second, only to measure the sound."""
SHOWN_VOICES: Final = 20
CHECK_VOICE: Final = "alloy"
"""OpenAI's first voice, for an engine that does not list its own."""
_DEMUXERS: Final[dict[AudioFormat, str]] = {
    "mp3": "mp3",
    "opus": "ogg",
    "aac": "aac",
    "flac": "flac",
    "wav": "wav",
}
_MEMBERS: Final = {
    "voice": re.compile(r"voice|speaker", re.IGNORECASE),
    "format": re.compile(r"response_format|format|codec", re.IGNORECASE),
    "speed": re.compile(r"speed", re.IGNORECASE),
    "instructions": re.compile(r"instruct", re.IGNORECASE),
}
"""Members that engines differ in, by the words of their refusals."""
_TEXT: Final = re.compile(r"input|text|too long|character|token", re.IGNORECASE)


class TextToSpeechExecutor(EngineExecutor):
    """Lets one engine speak, and measures what it said."""

    services = (SERVICE.id,)

    def __init__(self, settings: EngineSettings | None = None) -> None:
        super().__init__(Engine("TTS", settings, task="text-to-speech"))
        self._voices: tuple[str, ...] = ()
        self._proven = False

    async def check(self) -> str | None:
        """Whether the engine has a model and speaks, and ffmpeg is installed."""
        if problem := await self._engine.check():
            return problem
        if find_ffmpeg() is None:
            return "ffmpeg is not installed: put it on PATH, or install coordinator[ffmpeg]"
        self._voices = await self._engine.voices()
        if not self._proven:
            if problem := await self._silence():
                self._engine.forget()
                return problem
            self._proven = True
        return None

    async def _silence(self) -> str | None:
        """Why the engine does not speak; None if it does. A server with models may have no voice."""
        voice = self._voices[0] if self._voices else CHECK_VOICE
        request = {"model": self._engine.models[0], "input": "one", "voice": voice}
        try:
            await self._engine.probe("audio/speech", request)
        except ExecutorError as error:
            if error.code != INVALID_PAYLOAD:  # it speaks, but has another voice
                return f"the engine does not speak: {error.detail}"
        return None

    async def run(self, work: Work) -> Outcome:
        """The result is SpokenText.

        Raises ExecutorError: INVALID_PAYLOAD (also for a text that is too long for the model), UNSUPPORTED
        (no such model, voice or format here), ENGINE_UNAVAILABLE, EXECUTOR_FAILED (also if there is no sound
        of this format in the answer), OUTPUT_TOO_LARGE, and the errors of uploads.
        """
        payload = payload_of(SERVICE, work)
        started = time.monotonic()
        await self.ready()
        target = work.folder / f"speech.{payload.format}"
        work.progress(0.0, "speaking")
        try:
            await self._engine.fetch(
                "audio/speech",
                request_of(payload, self._engine.name_of(payload.model)),
                target,
                max_bytes=work.share.disk(MAX_OUTPUT_BYTES).bytes,
            )
        except ExecutorError as error:
            raise self._blamed(error) from None
        work.progress(0.9, "checking")
        seconds = await measure(work.folder, work.share, target, payload)
        output = await work.blobs.upload(target, media_type=MEDIA_TYPES[payload.format])
        result = SpokenText(
            model=payload.model,
            voice=payload.voice,
            format=payload.format,
            characters=len(payload.text),
            duration_seconds=round(seconds, 3),
            outputs=[output],
        )
        metrics: dict[str, int | str] = {
            "wall_ms": round((time.monotonic() - started) * 1000),
            "audio_ms": round(seconds * 1000),
            "characters": len(payload.text),
        }
        return Outcome(result.document(), metrics, {"media_minute": media_minutes(result.duration_seconds)})

    def _blamed(self, error: ExecutorError) -> ExecutorError:
        """The same error with the member of the payload that the engine's reason is about, where that shows.

        Another miner's engine may have this voice, format, speed or manner.
        """
        if error.code != INVALID_PAYLOAD:
            return error
        for member, words in _MEMBERS.items():
            if words.search(error.detail):
                detail = f"{member}: {error.detail}"
                if member == "voice" and self._voices:
                    more = ", …" if len(self._voices) > SHOWN_VOICES else ""
                    detail += f"; voices here: {', '.join(self._voices[:SHOWN_VOICES])}{more}"
                return ExecutorError(UNSUPPORTED, detail, retryable=True)
        return ExecutorError(error.code, f"text: {error.detail}") if _TEXT.search(error.detail) else error


def request_of(payload: SpeakPayload, model: str) -> dict[str, Any]:
    """The request to the engine: only what differs from OpenAI's defaults, as not every engine has it."""
    request: dict[str, Any] = {
        "model": model,
        "input": payload.text,
        "voice": payload.voice,
        "response_format": payload.format,
    }
    if payload.speed != 1:
        request["speed"] = payload.speed
    if payload.instructions:
        request["instructions"] = payload.instructions
    return request


def kind_of(head: bytes) -> AudioFormat | None:
    """The format of a sound file, by its first bytes; None if it is none of them. pcm has no mark."""
    if head.startswith(b"OggS") and b"OpusHead" in head[:64]:
        return "opus"
    if head.startswith(b"fLaC"):
        return "flac"
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith(b"ID3"):
        return "mp3"
    if len(head) > 1 and head[0] == 0xFF:
        if head[1] & 0xF6 == 0xF0:
            return "aac"  # ADTS: the layer is 0
        if head[1] & 0xE0 == 0xE0 and head[1] & 0x06:
            return "mp3"
    return None


async def measure(folder: Path, share: Share, file: Path, payload: SpeakPayload) -> float:
    """The seconds of sound in the engine's file.

    Raises ExecutorError (EXECUTOR_FAILED) unless it is of the asked format, and has sound.
    """
    with await asyncio.to_thread(file.open, "rb") as opened:
        head = opened.read(64)
    size = await asyncio.to_thread(_size_of, file)
    if not size:
        raise _bad("an empty file")
    kind = kind_of(head)
    if payload.format == "pcm":
        # 16-bit samples may begin with any bytes, but not with a whole header of another format.
        if kind in ("wav", "flac", "opus") or size % 2:
            raise _bad(f"{kind or 'half a sample'} in place of pcm")
        decoded, rate = file, PCM_RATE
    else:
        if kind != payload.format:
            raise _bad(f"{kind or 'something else'} in place of {payload.format}")
        decoded, rate = folder / "decoded.raw", DECODED_RATE
        await _decode(folder, share, file, decoded, _DEMUXERS[payload.format])
    has_sound = await asyncio.to_thread(_has_sound, decoded)
    seconds = await asyncio.to_thread(_size_of, decoded) / 2 / rate
    if decoded != file:
        await asyncio.to_thread(decoded.unlink, missing_ok=True)
    if not seconds:
        raise _bad("no sound")
    if not has_sound and any(map(str.isalnum, payload.text)):
        raise _bad("silence")
    return seconds


async def _decode(folder: Path, share: Share, source: Path, target: Path, demuxer: str) -> None:
    program = find_ffmpeg()
    if program is None:
        raise ExecutorError(UNSUPPORTED, "ffmpeg is no longer installed", retryable=True)
    size = MAX_SECONDS * DECODED_RATE * 2
    finished = await run_program(
        [
            program,
            *("-hide_banner", "-nostdin", "-y", "-loglevel", "error"),
            *safe_input(share.processors),
            *("-f", demuxer, "-i", f"file:{source.name}", "-map", "0:a:0", "-t", str(MAX_SECONDS)),
            *("-ac", "1", "-ar", str(DECODED_RATE), "-f", "s16le", f"file:{target.name}"),
        ],
        folder=folder,
        timeout_seconds=DECODE_SECONDS,
        max_file_bytes=size + 4096,
        max_memory=share.memory(MAX_MEMORY_BYTES),
        max_disk=share.disk(MAX_OUTPUT_BYTES + size),
    )
    if finished.returncode != 0:
        raise _bad("a file that can't be decoded")


def _size_of(file: Path) -> int:
    """Bytes; 0 if there is no such file. Blocks."""
    return file.stat().st_size if file.exists() else 0


def _has_sound(samples: Path) -> bool:
    """Whether any sample is not 0. Blocks."""
    if not samples.exists():
        return False
    with samples.open("rb") as file:
        while piece := file.read(1 << 20):
            if piece.strip(b"\0"):
                return True
    return False


def _bad(found: str) -> ExecutorError:
    return ExecutorError(EXECUTOR_FAILED, f"the engine sent {found}", retryable=True)
