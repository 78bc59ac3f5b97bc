"""The output of `audio_processing`: the nearest to the request that its format has, and its measures."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.miner.executors.audio.executor import AudioExecutor
from coordinator.miner.executors.ffmpeg.executor import find_ffmpeg
from tests.harness.works import Bench, FolderBlobs, check_output
from tests.matrix.measuring import Measured, measure


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("audio_processing", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with made.workspace:
        yield made


def made_by_ffmpeg(folder: Path, name: str, *arguments: str) -> bytes:
    program = find_ffmpeg()
    assert program is not None
    subprocess.run([program, "-v", "error", "-nostdin", *arguments, str(folder / name)], check=True)
    return (folder / name).read_bytes()


def channels(count: int, place: str = "", rate: int = 48_000) -> tuple[str, ...]:
    """The arguments for half a second of another tone in each channel."""
    each = "|".join(f"0.3*sin({2000 + 300 * number}*t)" for number in range(count))
    return ("-f", "lavfi", "-i", f"aevalsrc={each}:s={rate}:d=0.5" + (f":c={place}" if place else ""))


async def run(bench: Bench, content: bytes, **payload: Any) -> tuple[dict[str, Any], Measured, bytes]:
    work = bench.work({"input_url": bench.blobs.add(content), **payload})
    outcome = check_output("audio_processing", await AudioExecutor().run(work))
    [output] = outcome.result["outputs"]
    program = find_ffmpeg()
    assert program is not None
    measured = measure(program, bench.blobs.folder / output["blob"].removeprefix("blob:"))
    assert () == measured.problems
    return outcome.result, measured, bench.blobs.read(output)


@pytest.mark.parametrize(
    ("source", "payload", "expected", "warned"),
    [
        (channels(1, rate=8_000), {"output_format": "ogg"}, ("vorbis", 8_000, "mono"), []),
        (
            channels(2, rate=44_100),
            {"output_format": "ogg", "sample_rate": 8_000, "bitrate": "320k"},
            ("vorbis", 8_000, "stereo"),
            ["bitrate: vorbis has no 320k at 8000 samples per second in stereo; it is 84k"],
        ),
        (
            channels(2),
            {"output_format": "mp3", "sample_rate": 96_000},
            ("mp3", 48_000, "stereo"),
            ["sample_rate: mp3 has no 96000; it is 48000"],
        ),
        (channels(6, "5.1(side)"), {"output_format": "ogg"}, ("vorbis", 48_000, "5.1"), []),
        (
            channels(6, "5.1(side)"),
            {"output_format": "mp3"},
            ("mp3", 48_000, "stereo"),
            ["channels: mp3 has no 5.1(side); it is stereo"],
        ),
        (channels(6, "5.1(side)"), {"output_format": "flac"}, ("flac", 48_000, "5.1(side)"), []),
        (channels(1, rate=44_056), {"output_format": "m4a", "channels": 2}, ("aac", 44_100, "stereo"), []),
    ],
)
async def test_the_nearest_is_taken_and_told(
    bench: Bench,
    tmp_path: Path,
    source: tuple[str, ...],
    payload: dict[str, Any],
    expected: tuple[str, int, str],
    warned: list[str],
) -> None:
    """The file has what the result says of it, and each difference from the request is a warning."""
    content = made_by_ffmpeg(tmp_path, "source.wav", *source)
    result, measured, made = await run(bench, content, **payload)
    [sound] = measured.sounds
    assert expected == (sound.codec, sound.rate, sound.layout)
    assert (sound.rate, sound.channels) == (result["sample_rate"], result["channels"])
    assert round(8 * len(made) / result["duration_seconds"]) == pytest.approx(result["bitrate"], rel=0.01)
    assert 0.5 == pytest.approx(measured.seconds, abs=0.08)
    assert warned == result.get("warnings", [])


async def test_channels_of_no_layout_are_taken_in_their_usual_order(bench: Bench, tmp_path: Path) -> None:
    """Three channels are left, right and centre, as in FLAC: the third is heard in stereo."""
    layout = "pan=3 channels|c0=0*c0|c1=0*c0|c2=c0"
    content = made_by_ffmpeg(tmp_path, "three.wav", *channels(1), "-af", layout)
    content = content[:20] + struct.pack("<HH", 1, 3) + content[24:]
    result, measured, _ = await run(bench, content, output_format="mp3")
    assert 2 == result["channels"]
    assert measured.loudest_db is not None
    assert measured.loudest_db > -30


@pytest.mark.parametrize(("channels_asked", "quieter"), [(1, 7), (2, 2)])
async def test_a_mix_is_about_as_loud_as_its_source(
    bench: Bench, tmp_path: Path, channels_asked: int, quieter: float
) -> None:
    """5.1 at full scale in every channel does not clip; different sounds lose some LU, mostly in mono."""
    loud = "|".join(["0.99*sin(2000*t)"] * 6)
    content = made_by_ffmpeg(tmp_path, "loud.wav", "-f", "lavfi", "-i", f"aevalsrc={loud}:d=0.5:c=5.1")
    _, measured, _ = await run(bench, content, channels=channels_asked)
    assert measured.loudest_db is not None
    assert -0.5 < measured.loudest_db < 0
    content = made_by_ffmpeg(tmp_path, "usual.flac", *channels(6, "5.1(side)"))
    as_it_is, _, _ = await run(bench, content)
    mixed, _, _ = await run(bench, content, channels=channels_asked)
    assert quieter == pytest.approx(as_it_is["loudness_lufs"] - mixed["loudness_lufs"], abs=1)


@pytest.mark.parametrize("loudness", [-23.0, -16.0])
async def test_levelling_is_right_after_mixing(bench: Bench, tmp_path: Path, loudness: float) -> None:
    """The loudness is the output's, though mixing 5.1 to stereo changes it."""
    content = made_by_ffmpeg(tmp_path, "source.flac", *channels(6, "5.1"))
    operations = [{"operation": "normalize", "loudness_lufs": loudness}]
    result, _, _ = await run(bench, content, output_format="mp3", operations=operations)
    assert loudness == pytest.approx(result["loudness_lufs"], abs=1)


@pytest.mark.parametrize(
    ("operations", "seconds"),
    [
        ([], 0.01),
        ([{"operation": "change_speed", "factor": 0.25}], 0.04),
        ([{"operation": "change_pitch", "semitones": 7}], 0.01),
        ([{"operation": "change_speed", "factor": 4}], 0.0025),
    ],
)
async def test_a_sound_shorter_than_a_window(
    bench: Bench, tmp_path: Path, operations: list[dict[str, Any]], seconds: float
) -> None:
    """Ten milliseconds stay as long as they should be, to the sample, at another rate."""
    content = made_by_ffmpeg(tmp_path, "short.wav", "-f", "lavfi", "-i", "sine=f=1000:d=0.01:r=48000")
    _, measured, _ = await run(
        bench, content, operations=operations, sample_rate=44_100, output_format="flac"
    )
    assert seconds == pytest.approx(measured.seconds, abs=2 / 44_100)
    assert measured.loudest_db is not None
    assert measured.loudest_db > -60


async def test_one_sample_is_a_sound(bench: Bench, tmp_path: Path) -> None:
    """A file of one sample is resampled to a file of one sample."""
    content = made_by_ffmpeg(tmp_path, "one.wav", "-f", "lavfi", "-i", "aevalsrc=0.3:s=48000:d=0.000021")
    faster = [{"operation": "change_speed", "factor": 3}]
    _, measured, _ = await run(bench, content, sample_rate=8_000, operations=faster)
    assert 1 / 8_000 == measured.seconds


async def test_files_are_as_players_want_them(bench: Bench, tmp_path: Path) -> None:
    """An m4a has its index in front, an mp3 ID3v2.3 and a Xing header, a wav room for sizes of 64 bits."""
    content = made_by_ffmpeg(tmp_path, "source.wav", *channels(2))
    _, _, m4a = await run(bench, content, output_format="m4a")
    assert 0 < m4a.index(b"moov") < m4a.index(b"mdat")
    _, _, mp3 = await run(bench, content, output_format="mp3")
    assert b"ID3\x03" == mp3[:4]
    assert b"Xing" in mp3[:400] or b"Info" in mp3[:400]
    _, _, wav = await run(bench, content, output_format="wav")
    assert wav.startswith(b"RIFF")
    assert b"JUNK" in wav[:64]
