"""An output counts after all of it was decoded: what a decoder can't read is no result."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coordinator.miner.executors import errors
from coordinator.miner.executors.ffmpeg.executor import FfmpegExecutor, find_ffmpeg
from tests.harness.works import Bench, FolderBlobs, failure

FFMPEG = find_ffmpeg() or "ffmpeg"
SPOILER = """#!{python}
import subprocess, sys
arguments = sys.argv[1:]
ended = subprocess.run([{ffmpeg!r}, *arguments])
made = next((one[5:] for one in reversed(arguments) if one.startswith("file:output.")), None)
if made and "file:input" in arguments and {encoder!r} in arguments:
    with open(made, "r+b") as file:
        size = file.seek(0, 2)
        file.seek(size // 3)
        file.write(bytes(size // 3))
sys.exit(ended.returncode)
"""
"""An ffmpeg with an encoder that writes nonsense in a third of its file, and succeeds."""


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([FFMPEG, "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True, timeout=60)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two seconds of noise, so that every byte of an encoding matters."""
    made = tmp_path_factory.mktemp("inputs") / "film.mkv"
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=size=160x96:rate=10:duration=2,noise=alls=30:allf=t"),
        *("-f", "lavfi", "-i", "anoisesrc=duration=2:sample_rate=48000:amplitude=0.3"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-c:a", "ac3", made),
    )
    return made.read_bytes()


def frames_of(video: Path) -> subprocess.CompletedProcess[str]:
    """One line for each decoded frame."""
    command = [FFMPEG, "-v", "error", "-i", str(video), "-f", "framehash", "-map", "0:v", "-"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def spoiled(folder: Path, encoder: str) -> FfmpegExecutor:
    program = folder / "ffmpeg"
    program.write_text(SPOILER.format(python=sys.executable, ffmpeg=FFMPEG, encoder=encoder))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return FfmpegExecutor(str(program))


@pytest.mark.parametrize(
    ("encoder", "parameters"),
    [
        ("libx264", {"preset": "ultrafast"}),
        ("libvpx-vp9", {"output_format": "webm", "preset": "ultrafast"}),
        ("libmp3lame", {"output_format": "mp3"}),
        ("flac", {"output_format": "flac"}),
        ("png", {"output_format": "png"}),
    ],
)
async def test_an_output_that_no_decoder_reads_is_no_result(
    tmp_path: Path, film: bytes, encoder: str, parameters: dict[str, Any]
) -> None:
    """Encoders may write such files and succeed; another attempt would not help."""
    bench = Bench("video_transcoding", tmp_path, FolderBlobs(tmp_path / "blobs"))
    work = bench.work({"input_url": bench.blobs.add(film), **parameters})
    assert (errors.EXECUTOR_FAILED, False) == await failure(spoiled(tmp_path, encoder), work)


async def test_another_encoder_takes_the_place_of_a_broken_one(tmp_path: Path, film: bytes) -> None:
    """AV1 has two encoders: the second one's file counts, and a warning says whose it is."""
    bench = Bench("video_transcoding", tmp_path, FolderBlobs(tmp_path / "blobs"))
    payload = {"input_url": bench.blobs.add(film), "codec": "av1", "preset": "ultrafast"}
    made = await spoiled(tmp_path, "libsvtav1").run(bench.work(payload))
    assert ["encoder: libsvtav1 failed here; libaom-av1 took its place"] == made.result["warnings"]


async def test_a_copied_track_is_decoded_too(tmp_path: Path, film: bytes) -> None:
    """Nothing decodes it on its way: half a second of zeros in it would arrive unsaid."""
    content = bytearray(film)
    frames = [at for at in range(len(content)) if content.startswith(b"\x0b\x77", at)]
    for at in frames[10:40]:
        content[at : at + 100] = bytes(100)
    bench = Bench("video_transcoding", tmp_path, FolderBlobs(tmp_path / "blobs"))
    payload = {"input_url": bench.blobs.add(bytes(content)), "audio_codec": "copy", "preset": "ultrafast"}
    assert (errors.INVALID_PAYLOAD, False) == await failure(FfmpegExecutor(), bench.work(payload))


@pytest.mark.parametrize(("crf", "bitrate"), [(0, None), (0, "1"), (4, "10k"), (8, "1k")])
async def test_the_lowest_crf_of_av1_can_be_decoded(
    tmp_path: Path, film: bytes, crf: int, bitrate: str | None
) -> None:
    """SVT-AV1's adaptive quantization reached lossless blocks there, which no decoder reads."""
    bench = Bench("video_transcoding", tmp_path, FolderBlobs(tmp_path / "blobs"))
    payload = {
        "input_url": bench.blobs.add(film),
        "codec": "av1",
        "crf": crf,
        "preset": "faster",
    }
    limit = {"bitrate": bitrate} if bitrate else {}
    made = await FfmpegExecutor().run(bench.work({**payload, **limit, "resolution": "640x360"}))
    assert not any(warning.startswith("encoder") for warning in made.result.get("warnings", ()))
    output = tmp_path / "output.mp4"
    await asyncio.to_thread(output.write_bytes, bench.blobs.read(made.result["outputs"][0]))
    decoded = await asyncio.to_thread(frames_of, output)
    assert "" == decoded.stderr
    assert 20 == sum(not line.startswith("#") for line in decoded.stdout.splitlines())
