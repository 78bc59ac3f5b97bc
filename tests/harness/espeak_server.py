"""eSpeak NG behind OpenAI's address for speech: `python -m tests.harness.espeak_server '<json>'`.

`{"model": path, "port"}`. The engine is the real one, the library of the wheel espeakng-loader, which has no
server of its own. Formats other than WAV are made by ffmpeg.
"""

from __future__ import annotations

import ctypes
import io
import json
import subprocess
import sys
import threading
import wave
from typing import Any, Literal

import espeakng_loader
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import Response
from pydantic import BaseModel

from coordinator.miner.executors.ffmpeg.executor import find_ffmpeg
from coordinator.runtime.process.parent_watch import stop_with_parent

MODEL = "espeak-ng"
VOICES = ("en-us", "de", "nl")
WORDS_PER_MINUTE = 175
_RETRIEVAL, _UTF8, _RATE = 1, 1, 1
ENCODERS = {
    "mp3": ("-c:a", "libmp3lame", "-f", "mp3"),
    "opus": ("-c:a", "libopus", "-f", "ogg"),
    "aac": ("-c:a", "aac", "-f", "adts"),
    "flac": ("-c:a", "flac", "-f", "flac"),
    "pcm": ("-ar", "24000", "-f", "s16le"),
}


class Speaker:
    """The library, which speaks one text at a time."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self._rate = self._library.espeak_Initialize(_RETRIEVAL, 0, data, 0)
        self._samples = bytearray()
        callback = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self._callback = callback(self._take)
        self._library.espeak_SetSynthCallback(self._callback)
        self._lock = threading.Lock()

    def _take(self, samples: Any, count: int, _: Any) -> int:
        if samples and count:
            self._samples += ctypes.string_at(samples, 2 * count)
        return 0

    def speak(self, text: str, voice: str, speed: float) -> bytes:
        """A WAV file."""
        encoded = text.encode()
        with self._lock:
            self._samples.clear()
            self._library.espeak_SetVoiceByName(voice.encode())
            self._library.espeak_SetParameter(_RATE, round(WORDS_PER_MINUTE * speed), 0)
            self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
            self._library.espeak_Synchronize()
            spoken = bytes(self._samples)
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(self._rate)
            out.writeframes(spoken)
        return file.getvalue()


class Asked(BaseModel):
    model: str
    input: str
    voice: str
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: float = 1.0
    instructions: str | None = None


def make_app() -> FastAPI:
    speaker = Speaker()
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        """As speaches lists them: each with its task."""
        tasks = {MODEL: "text-to-speech", "whisper-tiny": "automatic-speech-recognition"}
        return {"data": [{"id": name, "object": "model", "task": task} for name, task in tasks.items()]}

    @app.get("/v1/audio/voices")
    def voices() -> dict[str, Any]:
        return {"voices": list(VOICES)}

    @app.post("/v1/audio/speech")
    def speech(asked: Asked) -> Response:
        if asked.model != MODEL:
            raise HTTPException(404, f"no model {asked.model}")
        if asked.voice not in VOICES:
            raise HTTPException(400, f"Voice '{asked.voice}' not found in /opt/voices")
        if asked.instructions:
            raise HTTPException(400, "instructions are not supported")
        spoken = speaker.speak(asked.input, asked.voice, asked.speed)
        if asked.response_format == "wav":
            return Response(spoken, media_type="audio/wav")
        program = find_ffmpeg()
        assert program is not None
        made = subprocess.run(
            [program, "-loglevel", "error", "-i", "-", *ENCODERS[asked.response_format], "-"],
            input=spoken,
            capture_output=True,
            check=True,
        )
        return Response(made.stdout, media_type="application/octet-stream")

    return app


def main() -> None:
    stop_with_parent()
    given = json.loads(sys.argv[1])
    uvicorn.run(make_app(), host="127.0.0.1", port=given["port"], log_level="warning")


if __name__ == "__main__":
    main()
