"""Programs and strangers' files that take all they can get: they fail with a code and leave nothing behind.

Memory is the kernel's own figure for the largest child of this process (RUSAGE_CHILDREN): it has no gaps.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import resource
import shutil
import signal
import struct
import sys
import time
import wave
import zlib
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from coordinator.miner.executors import Workspace
from coordinator.miner.executors.audio.executor import AudioExecutor
from coordinator.miner.executors.base import (
    EXECUTOR_FAILED,
    INPUT_TOO_LARGE,
    INVALID_PAYLOAD,
    OUTPUT_TOO_LARGE,
    RESOURCE_LIMIT,
    WORKSPACE_PREFIX,
    YOUNG_SECONDS,
    ExecutorError,
    remove_left_workspaces,
)
from coordinator.miner.executors.data.executor import DataExecutor
from coordinator.miner.executors.ffmpeg.executor import FfmpegExecutor
from coordinator.miner.executors.images.executor import ImagesExecutor
from coordinator.miner.executors.limits import Bound, Share
from coordinator.miner.executors.process import DATA_SLACK_BYTES, MAX_OUTPUT_BYTES, run_program
from coordinator.miner.executors.usage import MAX_PROCESSES, disk_usage
from tests.harness.waiting import eventually
from tests.harness.works import Bench, FolderBlobs, check_output, failure

MIB = 2**20
SMALL = Share(memory_bytes=400 * MIB, disk_bytes=1024 * MIB, processors=2)
OVERHEAD_BYTES = 100 * MIB
"""Program text and libraries, which no limit on data counts."""


def largest_child() -> int:
    """Bytes of main memory that the largest ended child of this process had at its peak."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def living_in(folder: Path) -> list[int]:
    """Processes that work in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


async def breach(folder: Path, script: str, **limits: Any) -> tuple[str, bool, list[str]]:
    """Code, retryability and the lines of a Python program that exceeds a limit."""
    lines: list[str] = []
    with pytest.raises(ExecutorError) as caught:
        await run_program(
            [sys.executable, "-u", "-c", script],
            folder=folder,
            timeout_seconds=60,
            on_stdout=lines.append,
            **limits,
        )
    assert living_in(folder) == []
    return caught.value.code, caught.value.retryable, lines


# --- programs ----------------------------------------------------------------------------------------------
GROWS = """
import time
kept = []
for n in range(40):
    kept.append(b'x' * (50 << 20))
    print(n)
    time.sleep(0.05)
"""
FILLS = """
import time
for n in range(400):
    open(str(n), 'wb').write(b'x' * (4 << 20))
    time.sleep(0.02)
"""
WRITES = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
open('big', 'wb').write(bytes(2 << 20))
"""
FORKS = """
import os, time
for _ in range(200):
    if not os.fork():
        break
time.sleep(600)
"""


@pytest.mark.parametrize("here", [True, False])
async def test_memory_is_watched(tmp_path: Path, here: bool) -> None:
    """A program without the kernel's limit ends soon after it exceeds its memory; a larger miner may do."""
    code, retryable, lines = await breach(
        tmp_path, GROWS, max_memory=Bound(200 * MIB, here), limits_data=False
    )
    assert (code, retryable) == (RESOURCE_LIMIT, here)
    assert 3 <= len(lines) < 15


async def test_memory_of_all_processes_counts(tmp_path: Path) -> None:
    """Four processes of 80 MiB are more than 200 MiB."""
    script = f"import os\nfor _ in range(3):\n    if not os.fork(): break\nkept = b'x' * ({80 * MIB})\n"
    code, *_ = await breach(tmp_path, script + "import time; time.sleep(60)", max_memory=Bound(200 * MIB))
    assert code == RESOURCE_LIMIT


async def test_the_kernel_refuses_memory(tmp_path: Path) -> None:
    """One large piece is refused before it is used, so the watch need not be fast."""
    script = f"try:\n    bytes({2000 * MIB})\nexcept MemoryError:\n    print('refused')\n"
    lines: list[str] = []
    finished = await run_program(
        [sys.executable, "-c", script],
        folder=tmp_path,
        timeout_seconds=60,
        max_memory=Bound(200 * MIB),
        on_stdout=lines.append,
    )
    assert (finished.returncode, lines) == (0, ["refused"])


async def test_files_are_bounded_together(tmp_path: Path) -> None:
    """Many files of allowed size end the program once they exceed the space of a job."""
    code, *_ = await breach(tmp_path, FILLS, max_disk=Bound(40 * MIB))
    assert code == RESOURCE_LIMIT
    assert disk_usage(tmp_path) < 800 * MIB


async def test_a_file_is_bounded(tmp_path: Path) -> None:
    """The first byte beyond the limit of one file ends a program that does not expect it."""
    code, retryable, _ = await breach(tmp_path, WRITES, max_file_bytes=MIB)
    assert (code, retryable) == (OUTPUT_TOO_LARGE, False)
    assert (tmp_path / "big").stat().st_size == MIB


async def test_processes_are_bounded(tmp_path: Path) -> None:
    """A program that starts ever more processes ends with all of them."""
    code, *_ = await breach(tmp_path, FORKS)
    assert code == RESOURCE_LIMIT
    assert MAX_PROCESSES < 200


async def test_messages_are_bounded(tmp_path: Path) -> None:
    """A program that writes for ever to its pipes ends: to read them costs time."""
    code, retryable, lines = await breach(tmp_path, "while True: print('x' * 60000)")
    assert (code, retryable) == (RESOURCE_LIMIT, False)
    assert sum(map(len, lines)) <= MAX_OUTPUT_BYTES


async def test_a_missing_program_does_not_start(tmp_path: Path) -> None:
    """The reason is the system's, and another miner may have it."""
    with pytest.raises(ExecutorError, match="does not start: No such file") as caught:
        await run_program(["/nowhere/program"], folder=tmp_path, timeout_seconds=10)
    assert (caught.value.code, caught.value.retryable) == (EXECUTOR_FAILED, True)


MINER = """
import asyncio, sys
from pathlib import Path
from coordinator.miner.executors import Workspace
from coordinator.miner.executors.process import run_program

async def main():
    folder = Workspace(Path(sys.argv[1])).path
    print(folder, flush=True)
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    told = lambda line: print(line, flush=True)
    await run_program([sys.executable, "-c", script], folder=folder, timeout_seconds=600, on_stdout=told)

asyncio.run(main())
"""


async def test_nothing_is_left_of_a_killed_miner(tmp_path: Path) -> None:
    """Its programs die with it, and the next miner removes its folders, but none that is in use or new."""
    miner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MINER, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert miner.stdout is not None
    left = Path((await miner.stdout.readline()).decode().strip())
    program = int(await miner.stdout.readline())
    own = Workspace(tmp_path)
    new = tmp_path / f"{WORKSPACE_PREFIX}new"
    new.mkdir()
    (left / "input").write_text("a client's file")
    long_ago = time.time() - YOUNG_SECONDS - 1
    for folder in (left, own.path):
        os.utime(folder, (long_ago, long_ago))
    assert remove_left_workspaces(tmp_path) == 0
    assert psutil.pid_exists(program)

    miner.send_signal(signal.SIGKILL)
    await miner.wait()
    await eventually(lambda: not psutil.pid_exists(program))
    assert remove_left_workspaces(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == sorted([own.path.name, new.name])
    own.remove()
    assert os.listdir(tmp_path) == [new.name]


# --- hostile files -----------------------------------------------------------------------------------------
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
        assert living_in(work.folder) == []
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
    ended = await fails(ImagesExecutor(), "image_processing", folder, "images", content)
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


async def test_sound_is_as_long_as_its_samples(tmp_path: Path) -> None:
    """A header that claims hours is not believed, and one with 65,535 channels is no sound."""
    bench = Bench("audio_processing", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with bench.workspace:
        work = bench.work({"input_url": bench.blobs.add(lying_wav()), "output_format": "wav"})
        outcome = await AudioExecutor().run(replace(work, share=SMALL))
        assert 0.9 < outcome.result["duration_seconds"] < 1.1
        many = bench.work({"input_url": bench.blobs.add(lying_wav(p22=65535)), "output_format": "wav"})
        assert await failure(AudioExecutor(), replace(many, share=SMALL)) == (INVALID_PAYLOAD, False)
    assert largest_child() < SMALL.memory_bytes + DATA_SLACK_BYTES + OVERHEAD_BYTES
