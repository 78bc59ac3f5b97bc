"""Small executors whose results tests can foretell: text, vectors, pictures and transcripts, without engines.

`Parrot` (llm_inference, model parrot) answers with the words of the last message, one emitted after another.
The words of a prompt may be orders: `hold:NAME` waits for the file NAME, `fail:CODE` fails, `twice` says one
text in the first attempt and another one in the next.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
import wave
import zlib
from pathlib import Path
from typing import Any

from coordinator.miner.executors.base import Executor, Outcome, Work
from coordinator.miner.executors.errors import ExecutorError

PARROT, VECTORS, PICTURES, EARS = "parrot", "all-minilm-l6-v2", "sdxl-turbo", "base"
DIMENSIONS = 4


class Parrot:
    services = ("llm_inference",)
    models = (PARROT,)

    def __init__(self, notes: Path) -> None:
        self._notes = notes

    async def check(self) -> str | None:
        return None

    async def run(self, work: Work) -> Outcome:
        payload = work.payload
        asked = payload["messages"][-1]["content"] if "messages" in payload else payload["prompt"]
        if not isinstance(asked, str):
            asked = "".join(part["text"] for part in asked)
        said: list[str] = []
        try:
            for word in asked.split():
                if len(said) >= payload["max_tokens"]:
                    break
                await self._say(word, work, said)
        except asyncio.CancelledError:
            (self._notes / f"stopped-{work.job_id}").touch()
            raise
        finish = "length" if len(said) >= payload["max_tokens"] else "stop"
        result = {
            "model": payload["model"],
            "text": "".join(said),
            "finish_reason": finish,
            "prompt_tokens": len(asked.split()),
            "completion_tokens": len(said),
        }
        return Outcome(result)

    async def _say(self, word: str, work: Work, said: list[str]) -> None:
        order, _, name = word.partition(":")
        if order == "hold":
            (self._notes / f"held-{work.job_id}").touch()
            while not (self._notes / name).exists():  # noqa: ASYNC110 - it stands for work that takes its time
                await asyncio.sleep(0.02)
        elif order == "fail":
            raise ExecutorError(name, "as asked for")
        elif order == "twice" and work.attempt == 1:
            work.emit("first ")
            await asyncio.sleep(0.5)  # so that it is on its way before the end
            raise ExecutorError("LOST", "as asked for", retryable=True)
        else:
            text = f"{word} "
            said.append(text)
            if work.payload["stream"]:
                work.emit(text)


def vector_of(text: str) -> list[float]:
    """What `Vectors` makes of a text: numbers that 32 bits hold exactly."""
    return [byte / 256 for byte in hashlib.sha256(text.encode()).digest()[:DIMENSIONS]]


class Vectors:
    services = ("text_embedding",)
    models = (VECTORS,)

    async def check(self) -> str | None:
        return None

    async def run(self, work: Work) -> Outcome:
        texts = work.payload["texts"]
        result: dict[str, Any] = {
            "model": work.payload["model"],
            "dimensions": DIMENSIONS,
            "count": len(texts),
            "tokens": sum(len(text.split()) for text in texts),
            "embeddings": [vector_of(text) for text in texts],
        }
        return Outcome(result)


def png(width: int, height: int, seed: int) -> bytes:
    """A picture of one grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([seed % 256]) * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


class Pictures:
    services = ("image_generation",)
    models = (PICTURES,)

    async def check(self) -> str | None:
        return None

    async def run(self, work: Work) -> Outcome:
        width, height = map(int, work.payload.get("size", "512x512").split("x"))
        first = work.payload.get("seed", 7)
        images = []
        for seed in range(first, first + work.payload["num_images"]):
            path = work.folder / f"{seed}.png"
            path.write_bytes(png(width, height, seed))
            file = await work.blobs.upload(path, media_type="image/png")
            images.append({**file, "width": width, "height": height, "seed": seed})
        return Outcome({"model": work.payload["model"], "images": images})


class Ears:
    """Hears how long a WAV file is, and says so in two segments."""

    services = ("speech_recognition",)
    models = (EARS,)

    async def check(self) -> str | None:
        return None

    async def run(self, work: Work) -> Outcome:
        path = work.folder / "heard.wav"
        await work.blobs.download(work.payload["audio_url"], path, max_bytes=1 << 20)
        try:
            with wave.open(str(path)) as file:
                seconds = file.getnframes() / file.getframerate()
        except (wave.Error, EOFError):
            raise ExecutorError("INVALID_PAYLOAD", "this is no recording") from None
        words = [f"{seconds:g} seconds", work.payload["task"] + " <b>"]
        segments = [
            {"start": 0, "end": seconds / 2, "text": words[0]},
            {"start": seconds / 2, "end": seconds, "text": words[1], "average_log_probability": -0.5},
        ]
        language = work.payload.get("language", "en")
        result = {"text": " ".join(words), "language": language, "segments": segments}
        return Outcome({**result, "duration_seconds": seconds})


def studio(notes: Path) -> dict[str, Executor]:
    """All of them, by service."""
    made: list[Executor] = [Parrot(notes), Vectors(), Pictures(), Ears()]
    return {service: executor for executor in made for service in executor.services}
