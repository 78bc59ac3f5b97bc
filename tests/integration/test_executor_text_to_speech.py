"""`text_to_speech` on a real engine: eSpeak NG; and on a stand-in that sends what no engine should."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse

from coordinator.miner.executors.engine import EngineSettings
from coordinator.miner.executors.errors import (
    ENGINE_UNAVAILABLE,
    EXECUTOR_FAILED,
    INVALID_PAYLOAD,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.executors.text_to_speech import TextToSpeechExecutor, kind_of
from coordinator.services.text_to_speech import MEDIA_TYPES, AudioFormat
from tests.harness.espeak_engine import EspeakEngine
from tests.harness.espeak_server import MODEL
from tests.harness.stand_in import StandIn
from tests.harness.works import Bench, FolderBlobs, check_output, failure

TEXT = "The render is done, and the frames are here."
SPOKEN: dict[str, Any] = {"model": MODEL, "text": TEXT, "voice": "en-us"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("text_to_speech", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with made.workspace:
        yield made


async def speak(executor: TextToSpeechExecutor, bench: Bench, **payload: Any) -> tuple[dict[str, Any], bytes]:
    for left in bench.workspace.path.iterdir():
        left.unlink()
    outcome = check_output("text_to_speech", await executor.run(bench.work({**SPOKEN, **payload})))
    return outcome.result, bench.blobs.read(outcome.result["outputs"][0])


@pytest.mark.parametrize("form", get_args(AudioFormat))
async def test_a_text_is_spoken_in_each_format(espeak: EspeakEngine, bench: Bench, form: AudioFormat) -> None:
    """The file is of the format, and as long as the engine's own recording, within an encoder's padding."""
    executor = TextToSpeechExecutor(espeak.settings())
    assert (None, (MODEL,)) == (await executor.check(), executor.models)
    result, _ = await speak(executor, bench, format="wav")
    spoken = result["duration_seconds"]
    assert 2 < spoken < 5
    result, content = await speak(executor, bench, format=form)
    assert spoken == pytest.approx(result["duration_seconds"], abs=0.1)
    assert (None if form == "pcm" else form) == kind_of(content[:64])
    assert (len(TEXT), form, "en-us") == (result["characters"], result["format"], result["voice"])
    [output] = result["outputs"]
    assert (MEDIA_TYPES[form], len(content)) == (output["media_type"], output["size"])


async def test_speed_and_voice_reach_the_engine(espeak: EspeakEngine, bench: Bench) -> None:
    """Twice the speed takes about half the time; another voice says it differently."""
    executor = TextToSpeechExecutor(espeak.settings())
    slow, sound = await speak(executor, bench, format="wav")
    fast, _ = await speak(executor, bench, format="wav", speed=2.0)
    _, german = await speak(executor, bench, format="wav", voice="de")
    assert 0.4 < fast["duration_seconds"] / slow["duration_seconds"] < 0.75
    assert sound != german


@pytest.mark.parametrize(
    ("change", "code", "retryable", "words"),
    [
        (
            {"voice": "alloy"},
            UNSUPPORTED,
            True,
            "voice: the engine refuses this: Voice 'alloy' not found in …; ",
        ),
        ({"voice": "alloy"}, UNSUPPORTED, True, "voices here: en-us, de, nl"),
        ({"instructions": "softly"}, UNSUPPORTED, True, "instructions: "),
        ({"model": "kokoro"}, UNSUPPORTED, True, "this miner has no model kokoro"),
        ({"text": " \n"}, INVALID_PAYLOAD, False, "text: there is nothing to read"),
        ({"format": "ogg"}, INVALID_PAYLOAD, False, "format: "),
        ({"speed": 9}, INVALID_PAYLOAD, False, "speed: "),
    ],
)
async def test_what_the_engine_lacks(
    espeak: EspeakEngine, bench: Bench, change: dict[str, Any], code: str, retryable: bool, words: str
) -> None:
    """The error names the member; another miner may have the voice, the manner or the model."""
    executor = TextToSpeechExecutor(espeak.settings())
    assert await executor.check() is None
    with pytest.raises(ExecutorError) as failed:
        await executor.run(bench.work({**SPOKEN, **change}))
    assert (code, retryable) == (failed.value.code, failed.value.retryable)
    assert words in failed.value.detail


class Rogue(StandIn):
    """Sends `content` as speech."""

    def __init__(self) -> None:
        super().__init__("m")
        self.content = wav(1.0, b"\x01\x02")
        self.media_type = "audio/mpeg"
        self.endless = False
        self.speaking, self.hung_up = asyncio.Event(), asyncio.Event()
        self.app.post("/v1/audio/speech")(self._speech)
        # Before the stand-in's own route for every path.
        self.app.router.routes.insert(0, self.app.router.routes.pop())

    def _speech(self) -> Response:
        if self.endless:
            return StreamingResponse(self._endless(), media_type=self.media_type)
        return Response(self.content, media_type=self.media_type)

    async def _endless(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"ID3"
                self.speaking.set()
                await asyncio.sleep(0.05)
        finally:
            self.hung_up.set()


def wav(seconds: float, sample: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(sample * int(8000 * seconds))
    return file.getvalue()


@pytest.fixture
async def rogue() -> AsyncIterator[Rogue]:
    made = Rogue()
    async with made.serving():
        yield made


@pytest.mark.parametrize(
    ("form", "content", "media_type", "words"),
    [
        ("mp3", b"", "audio/mpeg", "an empty file"),
        ("mp3", b'{"error": {"message": "no voice pack"}}', "application/json", "no file: no voice pack"),
        ("mp3", b'{"error": "x"}', "audio/mpeg", "something else in place of mp3"),
        ("mp3", wav(1, b"\1\2"), "audio/mpeg", "wav in place of mp3"),
        ("mp3", b"ID3" + bytes(2000), "audio/mpeg", "can't be decoded"),
        ("opus", b"OggS" + bytes(24) + b"OpusHead" + bytes(500), "audio/ogg", "sent"),
        ("wav", wav(0, b""), "audio/wav", "no sound"),
        ("wav", wav(1, b"\0\0"), "audio/wav", "silence"),
        ("pcm", wav(1, b"\1\2"), "audio/pcm", "wav in place of pcm"),
        ("pcm", b"abc", "audio/pcm", "half a sample in place of pcm"),
        ("flac", b"fLaC" + bytes(100), "audio/flac", "sent"),
    ],
)
async def test_answers_that_are_no_speech(
    rogue: Rogue, bench: Bench, form: str, content: bytes, media_type: str, words: str
) -> None:
    """Whatever comes with status 200, only sound of the asked format counts."""
    executor = TextToSpeechExecutor(rogue.settings())
    assert await executor.check() is None
    rogue.content, rogue.media_type = content, media_type
    with pytest.raises(ExecutorError) as failed:
        await executor.run(bench.work({**SPOKEN, "model": "m", "format": form}))
    assert (EXECUTOR_FAILED, True) == (failed.value.code, failed.value.retryable)
    assert words in failed.value.detail


async def test_silence_where_nothing_is_to_be_said(rogue: Rogue, bench: Bench) -> None:
    """A pause is a right answer to a text without words."""
    executor = TextToSpeechExecutor(rogue.settings())
    rogue.content = wav(1.5, b"\0\0")
    result, _ = await speak(executor, bench, model="m", format="wav", text="…")
    assert 1.5 == result["duration_seconds"]


async def test_engines_that_do_not_speak(bench: Bench) -> None:
    """A server with models that answers with JSON, or not at all, is off, with the reason."""
    async with StandIn("m").serving() as engine:
        for answer, reason in (
            ((200, {"error": "no such thing"}), "the engine does not speak: no such thing"),
            ((404, {}), "the engine does not speak: the engine has no such model or function"),
        ):
            engine.answers["audio/speech"] = answer
            executor = TextToSpeechExecutor(engine.settings())
            assert reason == await executor.check()
            assert () == executor.models
    assert (ENGINE_UNAVAILABLE, True) == await failure(executor, bench.work({**SPOKEN, "model": "m"}))
    nothing = TextToSpeechExecutor(EngineSettings.model_construct(url=None))
    assert "TTS_ENGINE_URL is not set" == await nothing.check()


async def test_a_cancelled_job_hangs_up(rogue: Rogue, bench: Bench) -> None:
    """A cancellation closes the connection to an engine that still speaks."""
    executor = TextToSpeechExecutor(rogue.settings())
    assert await executor.check() is None
    rogue.endless = True
    running = asyncio.ensure_future(executor.run(bench.work({**SPOKEN, "model": "m"})))
    await rogue.speaking.wait()
    running.cancel()
    await rogue.hung_up.wait()
    await asyncio.wait([running])
    assert running.cancelled()
