"""`speech_recognition`: ffmpeg and whisper.cpp themselves, and a stand-in that pins the wire format."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import wave
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from coordinator.miner.executors.base import Outcome
from coordinator.miner.executors.errors import (
    ENGINE_UNAVAILABLE,
    INVALID_PAYLOAD,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.executors.ffmpeg.executor import find_ffmpeg
from coordinator.miner.executors.speech import SpeechExecutor, parse_transcript, recognise
from coordinator.services.speech_recognition import SERVICE, Transcript
from coordinator.services.speech_recognition.languages import LANGUAGES, language_code
from tests.harness.stand_in import StandIn
from tests.harness.whisper_engine import MODEL, WhisperEngine
from tests.harness.works import Bench, FolderBlobs, check_output, failure
from tests.integration.test_executor_audio import tone


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("speech_recognition", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with made.workspace:
        yield made


@pytest.fixture
async def engine() -> AsyncIterator[StandIn]:
    async with StandIn("Systran/faster-whisper-base", "llama3:8b").serving() as made:
        yield made


# --- a real engine -----------------------------------------------------------------------------------------
def as_video(sound: bytes, folder: Path) -> bytes:
    """The sound as the track of a video: stereo AAC at 44.1 kHz."""
    program = find_ffmpeg()
    assert program is not None
    (folder / "sound.wav").write_bytes(sound)
    sources = ("-f", "lavfi", "-i", "color=size=32x32:rate=5", "-i", "sound.wav", "-shortest")
    form = ("-c:a", "aac", "-ac", "2", "-ar", "44100", "video.mp4")
    subprocess.run([program, "-loglevel", "error", *sources, *form], cwd=folder, check=True)
    return (folder / "video.mp4").read_bytes()


async def hear(whisper: WhisperEngine, bench: Bench, sound: bytes, **payload: Any) -> Outcome:
    work = bench.work({"model": MODEL, "audio_url": bench.blobs.add(sound), **payload})
    outcome = await SpeechExecutor(whisper.settings()).run(work)
    return check_output("speech_recognition", outcome)


async def test_whisper_hears_what_is_in_a_video(whisper: WhisperEngine, bench: Bench, tmp_path: Path) -> None:
    """The sound of a video reaches whisper.cpp; its words, times and certainty are the result."""
    executor = SpeechExecutor(whisper.settings())
    assert (None, (MODEL,)) == (await executor.check(), executor.models)
    outcome = await hear(whisper, bench, as_video(tone(1.5), tmp_path))
    result = outcome.result
    assert bench.text == result["text"] == " ".join(one["text"] for one in result["segments"]) != ""
    assert 1.5 == pytest.approx(result["duration_seconds"], abs=0.2)
    assert "und" != result["language"]  # which one is heard is the weights' secret
    for segment in result["segments"]:
        assert segment["start"] < segment["end"]
        assert -10 < segment["average_log_probability"] < 0


async def test_whisper_hears_the_same_again_and_not_elsewhere(whisper: WhisperEngine, bench: Bench) -> None:
    """At temperature 0 the same sound gives the same, another sound something else: it does listen."""
    low, again, high = [
        (await hear(whisper, bench, tone(1.5, hertz=hertz))).result for hertz in (440, 440, 1200)
    ]
    assert low == again
    assert low["segments"] != high["segments"]


async def test_whisper_is_told_what_to_do(whisper: WhisperEngine, bench: Bench) -> None:
    """The language, the task and the words to begin with reach the engine, and change what it hears."""
    plain, german, english, prompted = [
        (await hear(whisper, bench, tone(1.0), **more)).result
        for more in ({}, {"language": "de"}, {"task": "translate"}, {"initial_prompt": "bafe kilo"})
    ]
    assert ("de", plain["language"]) == (german["language"], english["language"])
    assert plain["segments"] != english["segments"]
    assert plain["segments"] != prompted["segments"]


async def test_whisper_hears_to_the_end(whisper: WhisperEngine, bench: Bench) -> None:
    """Of a recording longer than what Whisper hears at once, segments come in their order to its end."""
    result = (await hear(whisper, bench, tone(20.0, silence=50.0))).result
    starts = [segment["start"] for segment in result["segments"]]
    assert starts == sorted(starts)
    assert starts[-1] > 30


async def test_whisper_times_each_word(whisper: WhisperEngine, bench: Bench) -> None:
    """The words are those of the text, in order, each within the recording; nobody else gets them."""
    sound = tone(20.0, silence=15.0)
    plain = (await hear(whisper, bench, sound)).result
    result = (await hear(whisper, bench, sound, word_timestamps=True)).result
    words = result.pop("words")
    assert plain == result
    assert plain["text"].split() == [one["word"] for one in words]
    times = [one["start"] for one in words]
    assert times == sorted(times)
    assert len(set(times)) > len(plain["segments"]) > 1
    assert all(0 <= one["start"] <= one["end"] <= 35 for one in words)


@pytest.fixture
def mortal_whisper(tmp_path: Path) -> Iterator[WhisperEngine]:
    with WhisperEngine(tmp_path) as engine:
        yield engine


async def test_whisper_that_crashed(mortal_whisper: WhisperEngine, bench: Bench) -> None:
    """Without the engine the attempt ends so that another miner may try; once it is back, all is well."""
    executor = SpeechExecutor(mortal_whisper.settings())
    assert await executor.check() is None
    work = bench.work({"model": MODEL, "audio_url": bench.blobs.add(tone(0.5))})
    mortal_whisper.kill()
    assert (ENGINE_UNAVAILABLE, True) == await failure(executor, work)
    assert "can't be reached" in (await executor.check() or "")
    await asyncio.to_thread(mortal_whisper.start)
    assert await executor.check() is None
    check_output("speech_recognition", await executor.run(work))


# --- the wire ----------------------------------------------------------------------------------------------
async def test_only_models_that_are_known_are_offered(engine: StandIn) -> None:
    """Of a server with all kinds of models Whisper's sizes are found, and others by the mapping."""
    executor = SpeechExecutor(engine.settings())
    assert (None, ("base",)) == (await executor.check(), executor.models)
    mapped = SpeechExecutor(engine.settings(models={"large": "llama3:8b"}))
    assert (None, ("base", "large")) == (await mapped.check(), mapped.models)
    engine.models = ("llama3:8b",)
    told = await executor.check()
    assert "the engine has no model that the service knows; map one with SPEECH_ENGINE_MODELS" == told


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("openai/whisper-large-v3", "large-v3"),
        ("ggml-tiny.bin", "tiny"),
        ("Systran/faster-whisper-small", "small"),
        ("base", "base"),
        ("Systran/faster-distil-whisper-large-v3", "distil-large-v3"),
        ("distil-whisper/distil-medium.en", "distil-medium.en"),
        ("deepdml/faster-whisper-large-v3-turbo-ct2", "large-v3-turbo"),
        ("ggml-large-v3-turbo-q5_0.bin", "large-v3-turbo"),
        ("mlx-community/whisper-large-v3-mlx-4bit", "large-v3"),
        ("whisper-1", None),
        ("tinyllama", None),
    ],
)
def test_names_of_models(name: str, size: str | None) -> None:
    """Whisper's sizes are found in what engines call them, and nowhere else."""
    assert size == recognise(name)


async def test_a_recording_is_sent_as_plain_sound(engine: StandIn, bench: Bench) -> None:
    """Whatever the file was, the engine gets 16 kHz mono samples; its text and segments are the result."""
    payload = {"audio_url": bench.blobs.add(tone(1.5)), "initial_prompt": "RabbitMQ", "language": "de"}
    outcome = await SpeechExecutor(engine.settings()).run(bench.work(payload))
    expected = {
        "text": "Hello.",
        "language": "de",
        "duration_seconds": 1.5,
        "segments": [
            {
                "start": 0,
                "end": 1.25,
                "text": "Hello.",
                "average_log_probability": -0.25,
                "no_speech_probability": 0.01,
            }
        ],
    }
    assert expected == check_output("speech_recognition", outcome).result
    assert ("Hello.", 1500) == (bench.text, outcome.metrics["audio_ms"])
    [(path, fields)] = engine.received
    sound = fields.pop("file")
    with wave.open(BytesIO(sound)) as reader:
        assert (16_000, 1, 2, 24_000) == (
            reader.getframerate(),
            reader.getnchannels(),
            reader.getsampwidth(),
            reader.getnframes(),
        )
    assert "audio/transcriptions" == path
    assert {
        "model": "Systran/faster-whisper-base",
        "response_format": "verbose_json",
        "temperature": "0",
        "prompt": "RabbitMQ",
        "language": "de",
        "timestamp_granularities[]": "segment",
        "best_of": "5",
        "beam_size": "5",
    } == fields


@pytest.mark.parametrize("channels", [3, 5, 6, 9])
async def test_every_microphone_is_heard(engine: StandIn, bench: Bench, channels: int) -> None:
    """Channels of no layout are mixed equally: the engine hears the one that speaks, whichever it is."""
    frames, speaking = 16_000, channels - 1 if channels != 6 else 3
    file = BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        for frame in range(frames):
            values = [0] * channels
            values[speaking] = 12_000 if frame // 20 % 2 else -12_000
            writer.writeframesraw(struct.pack(f"<{channels}h", *values))
    work = bench.work({"audio_url": bench.blobs.add(file.getvalue())})
    await SpeechExecutor(engine.settings()).run(work)
    [(_, fields)] = engine.received
    with wave.open(BytesIO(fields["file"])) as reader:
        heard = struct.unpack(f"<{reader.getnframes()}h", reader.readframes(reader.getnframes()))
    assert frames == len(heard)
    assert 12_000 / channels == pytest.approx(max(heard), rel=0.1)


async def test_a_translation_has_its_own_address(engine: StandIn, bench: Bench) -> None:
    """`translate` asks for English, and lets the engine find out the language."""
    payload = {"audio_url": bench.blobs.add(tone(0.2)), "task": "translate"}
    await SpeechExecutor(engine.settings()).run(bench.work(payload))
    [(path, fields)] = engine.received
    assert ("audio/translations", False) == (path, "language" in fields)


@pytest.mark.parametrize(
    ("content", "payload", "answer", "expected"),
    [
        (b"no sound", {}, None, (INVALID_PAYLOAD, False)),
        (b"#EXTM3U\n/etc/passwd\n", {}, None, (INVALID_PAYLOAD, False)),
        (tone(3), {}, None, (INVALID_PAYLOAD, False)),
        (tone(0.2), {"model": "large"}, None, (UNSUPPORTED, True)),
        (tone(0.2), {"language": "tlh"}, None, (INVALID_PAYLOAD, False)),
        (tone(0.2), {}, (200, {"segments": []}), ("EXECUTOR_FAILED", True)),
        (tone(0.2), {}, (200, ["text"]), ("EXECUTOR_FAILED", True)),
        (tone(0.2), {}, (503, {}), (ENGINE_UNAVAILABLE, True)),
        (tone(0.2), {}, (500, {"detail": "at /srv/whisper.py"}), ("EXECUTOR_FAILED", True)),
        (tone(0.2), {}, (400, {"error": "too quiet"}), (INVALID_PAYLOAD, False)),
    ],
)
async def test_what_can_not_be_done(
    engine: StandIn,
    bench: Bench,
    content: bytes,
    payload: dict[str, Any],
    answer: tuple[int, Any] | None,
    expected: tuple[str, bool],
) -> None:
    """Files without sound, models that are not here and engines that fail end with their code."""
    if answer:
        engine.answers["audio/transcriptions"] = answer
    work = bench.work({"audio_url": bench.blobs.add(content), **payload})
    assert expected == await failure(SpeechExecutor(engine.settings(), max_seconds=2), work)


@pytest.mark.parametrize(
    ("given", "language", "segments"),
    [
        ({"text": "x"}, "und", 0),
        ({"text": "x", "language": "Japanese"}, "ja", 0),
        ({"text": "x", "language": "yo ho"}, "und", 0),
        (
            {"text": "x", "segments": [None, {}, {"start": 2, "end": 1, "text": "x"}, {"start": "nan"}]},
            "und",
            0,
        ),
        ({"text": "x", "segments": [{"start": 0, "end": 1, "text": "a\0", "avg_logprob": 7.0}]}, "und", 1),
        ({"text": "x", "segments": [{"start": 0, "end": 10**400, "text": "a"}]}, "und", 0),
    ],
)
def test_answers_of_all_kinds(given: Any, language: str, segments: int) -> None:
    """What is missing or impossible in an answer is left out, never handed on."""
    result = parse_transcript(given, "auto")
    assert (language, segments) == (result.language, len(result.segments))
    assert all({"start", "end", "text"} == set(segment) for segment in result.document()["segments"])


@pytest.mark.parametrize(
    "answer",
    [
        {"text": " a b "},
        {"text": "a b", "segments": []},
        {
            "text": "a b",
            "segments": [{"start": 0, "end": 1, "text": "a"}, {"start": None, "end": 2, "text": "b"}],
        },
        {"text": "a b", "segments": [{"start": 0, "end": 1, "text": ""}]},
    ],
)
def test_no_text_is_without_a_time(answer: Any) -> None:
    """Where an engine does not time all of its text, one segment over the whole length has it."""
    [segment] = parse_transcript(answer, "auto", 2.5).segments
    assert (0, 2.5, "a b") == (segment.start, segment.end, segment.text)


def test_silence_has_no_segment() -> None:
    """Without text there is nothing to time."""
    assert [] == parse_transcript({"text": " "}, "auto", 2.5).segments


def test_all_of_whispers_languages() -> None:
    """Each is known by its code and its name, from the client and from the engine."""
    assert 100 == len(LANGUAGES)
    for code, name in LANGUAGES.items():
        assert {code} == {
            parse_transcript({"text": "x", "language": given}, "auto").language
            for given in (code, name.title())
        }
        for asked in (code, name):
            SERVICE.payload.validate_python({"audio_url": f"blob:{'0' * 64}", "language": asked})
        assert code == parse_transcript({"text": "x"}, name).language
    others = {"Flemish": "nl", "pt-BR": "pt", "zh_TW": "zh", "castilian": "es", "klingon": None}
    assert others == {given: language_code(given) for given in others}


async def test_a_name_reaches_the_engine_as_a_code(engine: StandIn, bench: Bench) -> None:
    """Engines take codes, so a language by name is sent as its code."""
    payload = {"audio_url": bench.blobs.add(tone(0.5)), "language": "dutch"}
    await SpeechExecutor(engine.settings()).run(bench.work(payload))
    assert "nl" == engine.received[-1][1]["language"]


# --- words -------------------------------------------------------------------------------------------------
def timed(word: str, start: float, end: float, **more: Any) -> dict[str, Any]:
    return {"word": word, "start": start, "end": end, **more}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # OpenAI's place.
        ({"words": [timed("one", 0, 0.5), timed(" two.", 0.5, 1)]}, [("one", 0, 0.5), ("two.", 0.5, 1)]),
        # In segments, as faster-whisper has them.
        (
            {"segments": [{"words": [timed(" one", 0, 0.5)]}, {"words": [timed(" two.", 0.5, 1)]}, {}]},
            [("one", 0, 0.5), ("two.", 0.5, 1)],
        ),
        # The tokens of whisper.cpp's server: a letter of two tokens is whole in the segment.
        (
            {
                "segments": [
                    {
                        "text": " naïve two.",
                        "words": [
                            timed(" na\ufffd", 0, 0.2, t_dtw=-1),
                            timed("\ufffdve", 0.2, 0.5, t_dtw=-1),
                            timed(" two", 0.5, 0.9, t_dtw=-1),
                            timed(".", 0.9, 1, t_dtw=-1),
                        ],
                    }
                ]
            },
            [("naïve", 0, 0.5), ("two.", 0.5, 1)],
        ),
        # Estimates are put in order, and into the recording.
        (
            {"words": [timed("a", 0.5, 0.2), timed("b", 0.4, 0.8), timed("c", 3, 9), timed(" \0", 3, 4)]},
            [("a", 0.5, 0.5), ("b", 0.5, 0.8), ("c", 2.5, 2.5)],
        ),
    ],
)
def test_words_of_all_engines(answer: dict[str, Any], expected: list[tuple[str, float, float]]) -> None:
    """Wherever an engine has them, and however it cuts them."""
    found = parse_transcript({"text": "x", **answer}, "auto", 2.5, word_timestamps=True).words
    assert found is not None
    assert expected == [(one.word, one.start, one.end) for one in found]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"words": []},
        {"words": "one two"},
        {"words": [timed("one", 0, 1), "two"]},
        {"words": [timed("one", 0, 1), {"word": "two", "start": 1}]},
        {"words": [timed("one", float("nan"), 1)]},
        {"words": [timed("one", -1, 1)]},
        {"words": [timed("one", 0, 10**400)]},
        {"segments": [{"text": "one", "words": [timed("one", 0, 1)]}, {"text": "two", "words": []}]},
        {"words": [timed("one", 0, float("inf"))]},
        {"words": [{"word": 1, "start": 0, "end": 1}]},
        {"words": [timed(" ", 0, 1)]},
        {"segments": [None, {"words": None}, {"words": "x"}, {"start": 0, "end": 1, "text": "x"}]},
        {"segments": [{"words": [{"word": "x", "t_dtw": 1}]}]},
        {"segments": [{"text": 7, "words": [{"word": 7, "t_dtw": 1, "start": 0, "end": 1}]}]},
    ],
)
def test_words_without_times_are_refused(answer: dict[str, Any]) -> None:
    """Half of the words, or times that are none, are no answer to somebody who asked for all."""
    with pytest.raises(ExecutorError) as refused:
        parse_transcript({"text": "x", **answer}, "auto", 2.5, word_timestamps=True)
    assert (UNSUPPORTED, True) == (refused.value.code, refused.value.retryable)
    assert "word_timestamps: the engine does not time words" == refused.value.detail
    assert parse_transcript({"text": "x", **answer}, "auto", 2.5).words is None


def test_silence_has_no_word() -> None:
    """Where nothing is said, nothing is refused."""
    assert [] == parse_transcript({"text": " "}, "auto", 2.5, word_timestamps=True).words


async def test_words_are_asked_for(engine: StandIn, bench: Bench) -> None:
    """An engine is asked for words and segments; one that refuses the question leaves the job to another."""
    payload = {"audio_url": bench.blobs.add(tone(0.5)), "word_timestamps": True}
    for task, path in (("transcribe", "audio/transcriptions"), ("translate", "audio/translations")):
        answer = {"text": "Hello.", "words": [timed("Hello.", 0.1, 0.4)]}
        engine.answers[path] = (200, answer)
        outcome = await SpeechExecutor(engine.settings()).run(bench.work({**payload, "task": task}))
        result = check_output("speech_recognition", outcome).result
        assert [{"word": "Hello.", "start": 0.1, "end": 0.4}] == result["words"]
        assert ["segment", "word"] == engine.received[-1][1]["timestamp_granularities[]"]
        for reason, expected in (
            ("timestamp_granularities is not supported", (UNSUPPORTED, True)),
            ("too quiet", (INVALID_PAYLOAD, False)),
        ):
            engine.answers[path] = (400, {"error": {"message": reason}})
            work = bench.work({**payload, "task": task})
            assert expected == await failure(SpeechExecutor(engine.settings()), work)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([timed("a", 1, 2), timed("b", 0.5, 2)], "order"),
        ([timed("a", 1, 0.5)], "order"),
        ([timed("a", 1, 2.6)], "after the recording"),
        ([timed("a", -1, 2)], "start"),
    ],
)
def test_a_result_has_its_words_in_order(words: list[dict[str, Any]], problem: str) -> None:
    """Readers of a result rely on it, whatever miner made it."""
    result = {"text": "a b", "language": "de", "duration_seconds": 2.5, "segments": [], "words": words}
    with pytest.raises(ValidationError, match=problem):
        Transcript.model_validate(result)


async def test_long_transcripts_are_files(engine: StandIn, bench: Bench) -> None:
    """A transcript that is too large for a message is a file with all of its segments."""
    segments = [{"start": n / 100, "end": n / 100 + 0.01, "text": f"word {n}"} for n in range(10_000)]
    engine.answers["audio/transcriptions"] = (200, {"text": "many words", "segments": segments})
    words = [timed(f"word{n}", 0.1, 0.4) for n in range(10_000)]
    engine.answers["audio/transcriptions"][1]["words"] = words
    outcome = await SpeechExecutor(engine.settings()).run(
        bench.work({"audio_url": bench.blobs.add(tone(0.5)), "word_timestamps": True})
    )
    result = check_output("speech_recognition", outcome).result
    whole = json.loads(bench.blobs.read(result["outputs"][0]))
    assert ([], "many words", 10_000) == (result["segments"], whole["text"], len(whole["segments"]))
    assert ("words" in result, words) == (False, whole["words"])
