"""`audio_processing` with the real ffmpeg, on sounds that the tests make."""

from __future__ import annotations

import itertools
import math
import struct
import wave
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from coordinator.miner.executors.audio.executor import AudioExecutor
from coordinator.miner.executors.base import Outcome
from coordinator.miner.executors.errors import (
    INPUT_TOO_LARGE,
    INVALID_PAYLOAD,
    OUTPUT_TOO_LARGE,
    UNSUPPORTED,
)
from tests.harness.works import Bench, FolderBlobs, check_output, failure

RATE = 16_000


def tone(seconds: float, *, hertz: float = 440, level: float = 0.2, silence: float = 0) -> bytes:
    """A WAV file: a tone, and then silence."""
    samples = [
        int(32767 * level * math.sin(2 * math.pi * hertz * n / RATE)) for n in range(int(seconds * RATE))
    ]
    samples += [0] * int(silence * RATE)
    file = BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return file.getvalue()


def crossings(content: bytes) -> float:
    """The pitch of a mono WAV in Hz, roughly: how often its second half goes upwards through zero."""
    with wave.open(BytesIO(content)) as reader:
        rate, frames = reader.getframerate(), reader.getnframes()
        samples = struct.unpack(f"<{frames}h", reader.readframes(frames))[frames // 2 :]
    ups = sum(1 for before, after in itertools.pairwise(samples) if before < 0 <= after)
    return float(ups * rate / len(samples))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("audio_processing", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with made.workspace:
        yield made


async def run(
    bench: Bench, content: bytes, *operations: dict[str, Any], **more: Any
) -> tuple[Outcome, bytes]:
    payload = {"input_url": bench.blobs.add(content), "operations": list(operations), **more}
    outcome = check_output("audio_processing", await AudioExecutor().run(bench.work(payload)))
    return outcome, bench.blobs.read(outcome.result["outputs"][0])


async def test_the_check_finds_every_encoder() -> None:
    """ffmpeg from the wheel has all that the service promises."""
    assert await AudioExecutor().check() is None


@pytest.mark.parametrize("output_format", ["wav", "flac", "mp3", "ogg", "m4a"])
async def test_formats(bench: Bench, output_format: str) -> None:
    """Each format comes out, with the rate and channels that were asked for, and its own duration."""
    outcome, content = await run(
        bench, tone(1.5), output_format=output_format, sample_rate=44_100, channels=2, bitrate="96k"
    )
    assert 1.5 == pytest.approx(outcome.result["duration_seconds"], abs=0.06)
    starts = {"wav": b"RIFF", "flac": b"fLaC", "ogg": b"OggS"}
    assert content.startswith(starts.get(output_format, b""))
    if output_format == "wav":
        with wave.open(BytesIO(content)) as reader:
            assert (44_100, 2) == (reader.getframerate(), reader.getnchannels())


@pytest.mark.parametrize(
    ("operation", "seconds"),
    [
        ({"operation": "trim", "start_seconds": 0.5, "end_seconds": 2}, 1.5),
        ({"operation": "trim", "start_seconds": 2.5}, 1.5),
        ({"operation": "change_speed", "factor": 2}, 2),
        ({"operation": "change_speed", "factor": 0.25}, 16),
        ({"operation": "change_pitch", "semitones": 12}, 4),
        ({"operation": "remove_silence", "min_seconds": 0.5}, 3.5),
        ({"operation": "reduce_noise"}, 4),
        ({"operation": "fade", "in_seconds": 1, "out_seconds": 1}, 4),
    ],
)
async def test_operations_take_as_long_as_they_should(
    bench: Bench, operation: dict[str, Any], seconds: float
) -> None:
    """Three seconds of sound and one of silence are as long as the operation says."""
    outcome, _ = await run(bench, tone(3, silence=1), operation)
    assert seconds == pytest.approx(outcome.result["duration_seconds"], rel=0.04)


@pytest.mark.parametrize(("level", "target"), [(0.02, -23), (0.5, -16)])
async def test_levelling(bench: Bench, level: float, target: float) -> None:
    """Quiet and loud sounds end as loud as was asked for, in LUFS."""
    outcome, _ = await run(bench, tone(4, level=level), {"operation": "normalize", "loudness_lufs": target})
    assert target == pytest.approx(outcome.result["loudness_lufs"], abs=0.5)


async def test_silence_can_not_be_levelled(bench: Bench) -> None:
    """It stays silent, and has no loudness."""
    outcome, content = await run(bench, tone(1, level=0), {"operation": "normalize"})
    assert "loudness_lufs" not in outcome.result
    with wave.open(BytesIO(content)) as reader:
        assert set(reader.readframes(reader.getnframes())) == {0}


async def test_pitch_moves_and_speed_does_not(bench: Bench) -> None:
    """An octave up is twice the frequency; the operations before are heard by those after."""
    _, content = await run(
        bench,
        tone(3, hertz=300),
        {"operation": "change_pitch", "semitones": 12},
        {"operation": "fade", "out_seconds": 0.01},
        {"operation": "change_speed", "factor": 1.5},
    )
    assert 600 == pytest.approx(crossings(content), rel=0.03)


@pytest.mark.parametrize(
    ("content", "payload", "expected"),
    [
        (b"", {}, (INVALID_PAYLOAD, False)),
        (b"RIFF" + bytes(1000), {}, (INVALID_PAYLOAD, False)),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", {}, (INVALID_PAYLOAD, False)),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", {}, (INVALID_PAYLOAD, False)),
        (tone(1), {"operations": [{"operation": "separate"}]}, (UNSUPPORTED, True)),
        (tone(1), {"operations": [{"operation": "trim", "start_seconds": 2}]}, (INVALID_PAYLOAD, False)),
        (tone(1), {"operations": [{"operation": "trim", "end_seconds": 0}]}, (INVALID_PAYLOAD, False)),
        (tone(1), {"operations": [{"operation": "fade", "in_seconds": "1;rm"}]}, (INVALID_PAYLOAD, False)),
        (tone(4), {}, (INPUT_TOO_LARGE, False)),
        (tone(1), {"operations": [{"operation": "change_speed", "factor": 0.25}]}, (OUTPUT_TOO_LARGE, False)),
    ],
)
async def test_what_can_not_be_done(
    bench: Bench, content: bytes, payload: dict[str, Any], expected: tuple[str, bool]
) -> None:
    """Files without sound, playlists, and sounds that are or get too long end with their code."""
    work = bench.work({"input_url": bench.blobs.add(content), **payload})
    assert expected == await failure(AudioExecutor(max_seconds=2), work)
