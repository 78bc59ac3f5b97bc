"""Strangers' files that unpack to far more than they are: they fail with a code, within their job's limits.

Memory is the kernel's own figure for the largest child of this process (RUSAGE_CHILDREN): it has no gaps.
"""

from __future__ import annotations

import gzip
import resource
import shutil
import struct
import time
import wave
import zlib
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from coordinator.miner.executors.audio.executor import AudioExecutor
from coordinator.miner.executors.data.executor import DataExecutor
from coordinator.miner.executors.errors import (
    INPUT_TOO_LARGE,
    INVALID_PAYLOAD,
    OUTPUT_TOO_LARGE,
    RESOURCE_LIMIT,
)
from coordinator.miner.executors.ffmpeg.executor import FfmpegExecutor
from coordinator.miner.executors.images.executor import ImagesExecutor
from coordinator.miner.executors.limits import Share
from coordinator.miner.executors.process import DATA_SLACK_BYTES
from tests.harness.works import Bench, FolderBlobs, check_output, failure, processes_in

MIB = 2**20
SMALL = Share(memory_bytes=400 * MIB, disk_bytes=1024 * MIB, processors=2)
OVERHEAD_BYTES = 100 * MIB
"""Program text and libraries, which no limit on data counts."""


def largest_child() -> int:
    """Bytes of main memory that the largest ended child of this process had at its peak."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    # The outcome of each test: nothing runs, and nothing is left but what was stored.
    assert [path.name for path in tmp_path.iterdir()] == ["blobs"]
    shutil.rmtree(tmp_path / "blobs")


async def fails(
    executor: Any, service: str, folder: Path, field: str, content: bytes, share: Share = SMALL, **more: Any
) -> tuple[str, bool]:
    bench = Bench(service, folder, FolderBlobs(folder / "blobs"))
    ref = bench.blobs.add(content)
    with bench.workspace:
        work = bench.work({field: [ref] if field in ("inputs", "images") else ref, **more})
        ended = await failure(executor, replace(work, share=share))
        assert processes_in(work.folder) == []
    assert [path.name for path in (folder / "blobs").iterdir()] == [ref.removeprefix("blob:")]
    return ended


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def black_png(width: int, height: int, *chunks: bytes) -> bytes:
    """A picture with one bit a pixel: 8K takes 4 KB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


async def test_a_video_of_huge_frames_stays_within_its_memory(folder: Path) -> None:
    """Sixty black 8K frames in 260 KB end at the share of a slot, for a larger miner to try."""
    content = black_png(8192, 4352) * 60
    assert len(content) < 300_000
    ended = await fails(FfmpegExecutor(), "video_transcoding", folder, "input_url", content)
    assert ended == (RESOURCE_LIMIT, True)
    assert largest_child() < SMALL.memory_bytes + DATA_SLACK_BYTES + OVERHEAD_BYTES


async def test_frames_beyond_8k_are_refused_before_they_are_decoded(folder: Path) -> None:
    """A video of 100 million pixels a frame is no job for another miner either."""
    content = black_png(9998, 9998) * 20
    ended = await fails(FfmpegExecutor(), "video_transcoding", folder, "input_url", content)
    assert ended == (INPUT_TOO_LARGE, False)
    assert largest_child() < SMALL.memory_bytes + DATA_SLACK_BYTES + OVERHEAD_BYTES


def packed_table(rows: int, value: Any, kind: Any) -> bytes:
    file = BytesIO()
    table = pl.DataFrame({"a": pl.Series([value], dtype=kind).new_from_index(0, rows)})
    table.write_parquet(file, compression="zstd")
    return file.getvalue()


SHUFFLE = {"steps": [{"step": "shuffle"}], "output_format": "csv"}


@pytest.mark.parametrize(
    ("content", "input_format", "expected"),
    [
        # Thirty million equal numbers, as runs: refused by the file's own word.
        (lambda: packed_table(30_000_000, 1, pl.Int8), "parquet", (INPUT_TOO_LARGE, False)),
        # 300 MB of text out of a dictionary of one word.
        (lambda: packed_table(300_000, "x" * 1000, pl.String), "parquet", (OUTPUT_TOO_LARGE, False)),
        # Two gigabytes of CSV in 2 MB of gzip.
        (lambda: gzip.compress(b"a,b\n") + gzip.compress(b"1,2\n" * 2**20, 9) * 500, "csv", None),
        # Each row has a column of its own: 81 million cells.
        (lambda: b"\n".join(b'{"k%d":1}' % n for n in range(9000)), "jsonl", None),
        (lambda: b",".join(b"c%d" % n for n in range(200_000)) + b"\n1", "csv", (INPUT_TOO_LARGE, False)),
        (lambda: b"[" * 5_000_000, "jsonl", None),
    ],
    ids=["runs", "dictionary", "gzip", "columns-of-rows", "columns", "nesting"],
)
async def test_tables_that_unpack_to_gigabytes_end_within_limits(
    folder: Path, content: Any, input_format: str, expected: tuple[str, bool] | None
) -> None:
    """A small file is a small table, whatever it says or unpacks to; its output is bounded, too."""
    packed = content()
    assert len(packed) < 6_000_000
    options: dict[str, Any] = {"input_format": input_format, **SHUFFLE}
    ended = await fails(DataExecutor(), "data_processing", folder, "inputs", packed, **options)
    allowed = (
        {expected}
        if expected
        else {(RESOURCE_LIMIT, True), (INVALID_PAYLOAD, False), (INPUT_TOO_LARGE, False)}
    )
    assert ended in allowed
    assert largest_child() < SMALL.memory_bytes + DATA_SLACK_BYTES + OVERHEAD_BYTES


async def test_wide_tables_are_described_whole(tmp_path: Path) -> None:
    """The answer of the child for thousands of columns is longer than a line of a log, and is not cut."""
    bench = Bench("data_processing", tmp_path, FolderBlobs(tmp_path / "blobs"))
    names = [f"column-{number:04}" for number in range(3000)]
    ref = bench.blobs.add(f"{','.join(names)}\n{','.join('1' for _ in names)}\n".encode())
    with bench.workspace:
        outcome = await DataExecutor().run(bench.work({"inputs": [ref], "input_format": "csv", **SHUFFLE}))
    assert names == [column["name"] for column in outcome.result["columns"]]


def gif(frames: int) -> bytes:
    """One pixel, many times."""
    frame = b"\x21\xf9\x04\x00\x01\x00\x00\x00\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00"
    return b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff" + frame * frames + b"\x3b"


def texts_png() -> bytes:
    """A picture with a hundred compressed texts of a megabyte."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(MIB), 9))
    return black_png(8, 8, *[text] * 100)


async def test_pictures_with_many_frames_or_texts(tmp_path: Path) -> None:
    """Of 100,000 frames the first is read; a picture with 100 MB of packed notes is refused."""
    bench = Bench("image_processing", tmp_path, FolderBlobs(tmp_path / "blobs"))
    started = time.monotonic()
    with bench.workspace:
        work = replace(bench.work({"images": [bench.blobs.add(gif(100_000))]}), share=SMALL)
        outcome = check_output("image_processing", await ImagesExecutor().run(work))
    assert outcome.result["sizes"] == [[1, 1]]
    with Bench("image_processing", tmp_path, bench.blobs).workspace as workspace:
        work = replace(work, workspace=workspace, payload={"images": [bench.blobs.add(texts_png())]})
        assert await failure(ImagesExecutor(), work) == (INVALID_PAYLOAD, False)
    assert time.monotonic() - started < 30
    assert largest_child() < SMALL.memory_bytes + DATA_SLACK_BYTES + OVERHEAD_BYTES


async def test_a_picture_of_a_hundred_million_pixels_needs_its_share(folder: Path) -> None:
    """With less memory than its copies take it is for another miner."""
    content = black_png(9998, 9998)
    # WebP has no grey: three bytes a pixel, and its encoder's own.
    ended = await fails(ImagesExecutor(), "image_processing", folder, "images", content, output_format="webp")
    assert ended == (RESOURCE_LIMIT, True)
    assert largest_child() < SMALL.memory_bytes + DATA_SLACK_BYTES + OVERHEAD_BYTES


def lying_wav(**header: int) -> bytes:
    """A second of sound in a file that claims four gigabytes of it."""
    file = BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    content = bytearray(file.getvalue())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xf0"
    for place, value in header.items():
        struct.pack_into("<H", content, int(place[1:]), value)
    return bytes(content)


async def test_a_header_that_claims_gigabytes(tmp_path: Path) -> None:
    """Nothing is reserved for what is not there: such a file is cut, and 65,535 channels are no sound."""
    bench = Bench("audio_processing", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with bench.workspace:
        for content in (lying_wav(), lying_wav(p22=65535)):
            work = bench.work({"input_url": bench.blobs.add(content), "output_format": "wav"})
            assert await failure(AudioExecutor(), replace(work, share=SMALL)) == (INVALID_PAYLOAD, False)
    assert largest_child() < SMALL.memory_bytes + DATA_SLACK_BYTES + OVERHEAD_BYTES
