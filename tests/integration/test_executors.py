"""Executors do real work, refuse hostile jobs, and leave no process or file behind."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from coordinator.miner.blobs import HttpBlobs
from coordinator.miner.executors import Work, Workspace, base, discover_executors, errors, load_executors
from coordinator.miner.executors.checksum import ChecksumExecutor
from coordinator.miner.executors.ffmpeg.encoders import ENCODERS
from coordinator.miner.executors.ffmpeg.executor import FfmpegExecutor, find_ffmpeg
from coordinator.miner.executors.process import run_program
from coordinator.miner.fetch import UNSAFE_URL
from tests.harness.works import Bench, FolderBlobs, check_output, failure, processes_in

FFMPEG = find_ffmpeg() or "ffmpeg"


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


@pytest.fixture
def checksum(tmp_path: Path, blobs: FolderBlobs) -> Bench:
    return Bench("checksum", tmp_path, blobs)


@pytest.fixture
def video(tmp_path: Path, blobs: FolderBlobs) -> Iterator[Bench]:
    bench = Bench("video_transcoding", tmp_path, blobs)
    with bench.workspace:
        yield bench
    assert not list(tmp_path.glob("job-*"))


# --- checksum ---------------------------------------------------------------------------------------


async def test_a_text_is_digested_without_a_folder(checksum: Bench) -> None:
    """The tiny job gives the right digest and touches no file."""
    outcome = await ChecksumExecutor().run(checksum.work({"text": "héllo"}))
    content = "héllo".encode()

    expected = [{"input": "text", "digest": hashlib.sha256(content).hexdigest(), "size": 6}]
    assert {"algorithm": "sha256", "digests": expected} == check_output("checksum", outcome).result
    assert not checksum.workspace.used


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "blake2b"])
async def test_files_are_digested_in_order(checksum: Bench, algorithm: str) -> None:
    """Each input gets its digest and size; progress ends at 1 and no copy stays."""
    contents = [b"", b"one", bytes(3_000_000)]
    refs = [checksum.blobs.add(content) for content in contents]
    outcome = await ChecksumExecutor().run(checksum.work({"inputs": refs, "algorithm": algorithm}))

    expected = [
        {"input": ref, "digest": hashlib.new(algorithm, content).hexdigest(), "size": len(content)}
        for ref, content in zip(refs, contents, strict=True)
    ]
    assert expected == check_output("checksum", outcome).result["digests"]
    assert checksum.progress[-1] == (1.0, "digesting")
    assert list(checksum.workspace.path.iterdir()) == []
    checksum.workspace.remove()


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"text": 1},
        {"text": "\ud800"},
        {"inputs": []},
        {"inputs": ["../x"]},
        {"text": "x", "algorithm": "md5"},
    ],
)
async def test_bad_checksum_jobs_are_refused_for_good(checksum: Bench, payload: dict[str, Any]) -> None:
    """A malformed payload is not worth another attempt, and the error quotes none of it."""
    assert await failure(ChecksumExecutor(), checksum.work(payload)) == (errors.INVALID_PAYLOAD, False)


async def test_an_input_over_the_limit_is_refused(checksum: Bench) -> None:
    """The limit reaches the download."""
    ref = checksum.blobs.add(bytes(1001))
    executor = ChecksumExecutor(max_input_bytes=1000)

    assert await failure(executor, checksum.work({"inputs": [ref]})) == (errors.INPUT_TOO_LARGE, False)
    checksum.workspace.remove()


# --- ffmpeg: what it makes --------------------------------------------------------------------------


def make_media(*arguments: str, suffix: str, folder: Path) -> bytes:
    path = folder / f"made.{suffix}"
    subprocess.run([FFMPEG, "-v", "error", "-y", *arguments, str(path)], check=True, timeout=60)
    return path.read_bytes()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two seconds of picture and sound, with odd sides as screen recordings have them."""
    return make_media(
        *("-f", "lavfi", "-i", "testsrc=size=161x121:rate=10:duration=2"),
        *("-f", "lavfi", "-i", "sine=frequency=440:duration=2"),
        *("-c:v", "ffv1", "-c:a", "pcm_s16le"),
        suffix="mkv",
        folder=tmp_path_factory.mktemp("clip"),
    )


def describe(content: bytes, folder: Path) -> str:
    """What ffmpeg says about a file."""
    path = folder / "described"
    path.write_bytes(content)
    run = subprocess.run(
        [FFMPEG, "-hide_banner", "-i", str(path)], capture_output=True, text=True, timeout=60
    )
    return run.stderr


async def test_ffmpeg_is_ready_and_knows_its_encoders() -> None:
    """The check passes, finds the software encoders, and offers no hardware that it has not tried."""
    executor = FfmpegExecutor()

    assert await executor.check() is None
    assert {"libx264", "aac"} <= executor.encoders
    assert executor.encoders <= {name for names in ENCODERS.values() for name in names}


@pytest.mark.parametrize(
    ("parameters", "streams"),
    [
        ({}, ["Video: h264", "Audio: aac", "160x120"]),
        (
            {"codec": "h265", "preset": "ultrafast", "crf": 30, "resolution": "80x60", "fps": 5},
            ["Video: hevc", "Audio: aac", "80x60", "5 fps"],
        ),
        ({"output_format": "mkv", "bitrate": "100k", "audio_codec": "mp3"}, ["matroska", "h264", "mp3"]),
        ({"output_format": "webm", "preset": "ultrafast"}, ["Video: vp9", "Audio: opus"]),
        ({"output_format": "mp4", "codec": "av1", "preset": "ultrafast"}, ["Video: av1"]),
        ({"output_format": "gif", "fps": 5}, ["Video: gif"]),
        ({"output_format": "mp3", "audio_bitrate": "64k"}, ["Audio: mp3", "64 kb/s"]),
        ({"operation": "extract_audio"}, ["Audio: aac"]),
        ({"operation": "extract_audio", "output_format": "wav"}, ["Audio: pcm_s16le"]),
        ({"operation": "extract_audio", "output_format": "flac"}, ["Audio: flac"]),
        ({"operation": "extract_audio", "output_format": "ogg"}, ["Audio: vorbis"]),
        ({"operation": "thumbnail", "at_seconds": 1.5}, ["Video: mjpeg", "161x121"]),
        ({"output_format": "png", "resolution": "40x30"}, ["Video: png", "40x30"]),
    ],
)
async def test_real_media_is_made(
    video: Bench, clip: bytes, tmp_path: Path, parameters: dict[str, Any], streams: list[str]
) -> None:
    """Every operation gives a file that ffmpeg reads back as what was asked for."""
    ref = video.blobs.add(clip)
    outcome = await FfmpegExecutor().run(video.work({"input_url": ref, **parameters}))
    check_output("video_transcoding", outcome)
    (output,) = outcome.result["outputs"]
    text = describe(video.blobs.read(output), tmp_path)

    assert [stream for stream in streams if stream not in text] == [], text
    assert video.progress[0] == (0.0, "running")
    assert all(0 <= fraction < 1 for fraction, _ in video.progress)
    if "Audio" in streams[0] or not parameters:
        assert 1.9 < float(outcome.result["duration_seconds"]) < 2.2


async def test_sources_without_sound_and_audio_files_work(video: Bench, tmp_path: Path) -> None:
    """A silent video transcodes, and an audio file changes its format."""
    silent = make_media("-f", "lavfi", "-i", "testsrc=duration=1", suffix="mp4", folder=tmp_path)
    audio = make_media("-f", "lavfi", "-i", "sine=duration=1", suffix="wav", folder=tmp_path)
    executor = FfmpegExecutor()
    first = await executor.run(video.work({"input_url": video.blobs.add(silent), "preset": "ultrafast"}))
    second = await executor.run(video.work({"input_url": video.blobs.add(audio), "output_format": "mp3"}))

    assert "Audio" not in describe(video.blobs.read(first.result["outputs"][0]), tmp_path)
    assert "Audio: mp3" in describe(video.blobs.read(second.result["outputs"][0]), tmp_path)


# --- ffmpeg: what it refuses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"resolution": "640x480;rm -rf"},
        {"resolution": "640x480\n"},
        {"resolution": "641x480"},
        {"bitrate": "4M -f null"},
        {"preset": "$(reboot)"},
        {"codec": "copy"},
        {"output_format": "m3u8"},
        {"fps": "10"},
        {"crf": -1},
        {"custom_args": ["-vf", "movie=/etc/passwd"]},
        {"input_url": "/etc/passwd"},
        {"input_url": "file:///etc/passwd"},
        {"input_url": "concat:/etc/passwd|/etc/hostname"},
        {"operation": "thumbnail", "at_seconds": -1},
        {"operation": "thumbnail", "at_seconds": float("inf")},
        {"operation": "thumbnail", "at_seconds": float("nan")},
    ],
)
async def test_hostile_parameters_never_reach_a_command_line(
    video: Bench, parameters: dict[str, Any]
) -> None:
    """Anything but typed, bounded values is refused before a process or a folder exists."""
    payload = {"input_url": "blob:" + "0" * 64, **parameters}

    assert await failure(FfmpegExecutor(), video.work(payload)) == (errors.INVALID_PAYLOAD, False)
    assert not video.workspace.used


async def test_a_video_comes_by_url(tmp_path: Path, clip: bytes) -> None:
    """What the service's schema takes is done: a URL goes to the miner's own way to files, as it is."""
    url = "https://example.com/clip.mov"

    class Web(FolderBlobs):
        async def download(self, ref: str, to: Path, *, max_bytes: int) -> None:
            assert ref == url
            await super().download(self.add(clip), to, max_bytes=max_bytes)

    bench = Bench("video_transcoding", tmp_path, Web(tmp_path / "web"))
    with bench.workspace:
        outcome = await FfmpegExecutor().run(bench.work({"input_url": url, "operation": "thumbnail"}))
    assert ["image/jpeg"] == [output["media_type"] for output in outcome.result["outputs"]]


async def test_other_peoples_urls_do_not_lead_into_the_miners_network(video: Bench) -> None:
    """A URL that leads inwards is refused with a code of its own, before anything is asked of anybody."""
    blobs = HttpBlobs("http://127.0.0.1:9", "rig:secret-of-rig")
    work = video.work({"input_url": "http://169.254.169.254/latest/meta-data"})

    assert await failure(FfmpegExecutor(), replace(work, blobs=blobs.of_job("job-1"))) == (UNSAFE_URL, False)
    await blobs.close()


DASH = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>
<AdaptationSet><Representation><BaseURL>{path}</BaseURL></Representation></AdaptationSet></Period></MPD>"""


@pytest.mark.parametrize(
    "script",
    [
        "ffconcat version 1.0\nfile '{path}'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{path}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nconcat:{path}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/x\n#EXT-X-ENDLIST\n",
        '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><image href="file://{path}"/></svg>',
        DASH,
    ],
)
@pytest.mark.parametrize("operation", ["transcode", "extract_audio", "thumbnail"])
async def test_an_input_that_names_other_files_is_not_followed(
    video: Bench, clip: bytes, tmp_path: Path, script: str, operation: str
) -> None:
    """Playlists and scripts are refused, even where the file that they name would be a fine video."""
    neighbour = tmp_path / "neighbour.mkv"
    neighbour.write_bytes(clip)
    # An operation reads its input as the others do, so one of them tries every path.
    others = (Path("/etc/passwd"), Path("neighbour.mkv")) if operation == "transcode" else ()
    for path in (neighbour, *others):
        ref = video.blobs.add(script.format(path=path).encode())
        work = video.work({"input_url": ref, "operation": operation})
        (work.folder / "neighbour.mkv").write_bytes(clip)

        assert await failure(FfmpegExecutor(), work) == (errors.INVALID_PAYLOAD, False)


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"\x00\x00\x00\x18ftypmp42" + bytes(500)])
async def test_garbage_fails_for_good(video: Bench, content: bytes) -> None:
    """What is no media fails on every miner, so it is not tried again; the detail is ffmpeg's own word."""
    work = video.work({"input_url": video.blobs.add(content)})

    assert await failure(FfmpegExecutor(), work) == (errors.INVALID_PAYLOAD, False)


async def test_a_moment_after_the_end_has_no_frame(video: Bench, clip: bytes) -> None:
    """ffmpeg calls an empty thumbnail a success; we do not."""
    work = video.work({"input_url": video.blobs.add(clip), "operation": "thumbnail", "at_seconds": 60})

    assert await failure(FfmpegExecutor(), work) == (errors.INVALID_PAYLOAD, False)


async def test_an_oversized_output_is_refused(video: Bench, clip: bytes) -> None:
    """ffmpeg ends with success at its size limit; a cut-off file is not a result."""
    executor = FfmpegExecutor(max_output_bytes=20_000)
    payload = {"input_url": video.blobs.add(clip), "output_format": "wav"}

    assert await failure(executor, video.work(payload)) == (errors.OUTPUT_TOO_LARGE, False)


async def test_an_oversized_input_is_refused(video: Bench, clip: bytes) -> None:
    """The limit on inputs reaches the download."""
    executor = FfmpegExecutor(max_input_bytes=len(clip) - 1)

    assert await failure(executor, video.work({"input_url": video.blobs.add(clip)})) == (
        errors.INPUT_TOO_LARGE,
        False,
    )


async def test_a_missing_encoder_is_for_another_miner(video: Bench, clip: bytes) -> None:
    """What this ffmpeg cannot encode, another one may."""
    executor = FfmpegExecutor()
    await executor.check()
    executor.abilities = replace(executor.abilities, encoders=frozenset({"libx264", "aac"}))
    payload = {"input_url": video.blobs.add(clip), "codec": "h265"}

    assert await failure(executor, video.work(payload)) == (errors.UNSUPPORTED, True)


@pytest.mark.parametrize("program", ["/nonexistent/ffmpeg", "false", "true"])
async def test_a_broken_ffmpeg_is_not_offered(video: Bench, program: str) -> None:
    """No program, one that fails and one that knows no encoders: the check says why, a run is retryable."""
    executor = FfmpegExecutor(program)

    problem = await executor.check()
    assert problem is not None
    assert "ffmpeg" in problem
    work = video.work({"input_url": "blob:" + "0" * 64})
    assert await failure(executor, work) == (errors.UNSUPPORTED, True)


# --- processes --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A minute of small pictures: quick to make."""
    return make_media(
        *("-f", "lavfi", "-i", "testsrc=size=160x120:rate=5:duration=60", "-preset", "ultrafast"),
        suffix="mkv",
        folder=tmp_path_factory.mktemp("long"),
    )


SLOW: dict[str, Any] = {"preset": "veryslow", "resolution": "640x480", "fps": 120}
"""With these it takes half a minute to encode, and says within a second how far it is."""


async def test_the_time_limit_kills(video: Bench, long_clip: bytes) -> None:
    """Out of time, the job fails retryably and no process stays."""
    executor = FfmpegExecutor(timeout_seconds=1.0)
    work = video.work({"input_url": video.blobs.add(long_clip), **SLOW})

    assert await failure(executor, work) == (errors.EXECUTOR_TIMEOUT, True)
    assert processes_in(work.folder) == []


async def test_cancelling_a_run_kills_its_processes(video: Bench, long_clip: bytes) -> None:
    """When a cancelled run returns, ffmpeg is gone."""
    work = video.work({"input_url": video.blobs.add(long_clip), **SLOW})
    encoding = asyncio.Event()
    work = Work(
        work.job_id,
        work.attempt,
        work.service,
        work.payload,
        work.workspace,
        work.blobs,
        lambda fraction, _: encoding.set() if fraction > 0 else None,
    )
    run = asyncio.create_task(FfmpegExecutor().run(work))
    await encoding.wait()
    assert len(processes_in(work.folder)) == 1
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert processes_in(work.folder) == []


async def test_a_program_that_forks_is_killed_with_its_children(tmp_path: Path) -> None:
    """The whole process group goes, also where the program itself has ended before its child."""
    script = "import os, time\nif os.fork():\n    os._exit(0)\nprint('child', flush=True)\ntime.sleep(600)\n"
    started = asyncio.Event()
    run = asyncio.create_task(
        run_program(
            [sys.executable, "-c", script],
            folder=tmp_path,
            timeout_seconds=60,
            on_stdout=lambda line: started.set() if line == "child" else None,
        )
    )
    await started.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert processes_in(tmp_path) == []


async def test_a_callback_that_fails_ends_the_program(tmp_path: Path) -> None:
    """An error on our side does not leave the program running."""

    def fail(line: str) -> None:
        raise RuntimeError(line)

    script = "import time\nprint('hello', flush=True)\ntime.sleep(600)\n"
    with pytest.raises(RuntimeError, match="hello"):
        await run_program([sys.executable, "-c", script], folder=tmp_path, timeout_seconds=60, on_stdout=fail)

    assert processes_in(tmp_path) == []


async def test_a_talkative_program_costs_no_memory(tmp_path: Path) -> None:
    """Only the end of stderr is kept, and endless lines are cut."""
    script = "import sys\nfor _ in range(100): sys.stderr.write('x' * 100_000)\nsys.stderr.write('end')\n"
    lengths: list[int] = []
    finished = await run_program(
        [sys.executable, "-c", script],
        folder=tmp_path,
        timeout_seconds=60,
        on_stderr=lambda line: lengths.append(len(line)),
    )

    assert finished.returncode == 0
    assert finished.stderr.endswith("xend")
    assert len(finished.stderr) <= 32 * 1024
    assert max(lengths) <= 128 * 1024


async def test_a_program_sees_none_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a program holds neither keys nor anything else of the miner's."""
    monkeypatch.setenv("MINER_API_KEY", "miner:secret")
    lines: list[str] = []
    script = "import os\nprint(sorted(os.environ))\n"
    await run_program(
        [sys.executable, "-c", script], folder=tmp_path, timeout_seconds=60, on_stdout=lines.append
    )

    assert "MINER_API_KEY" not in lines[0]
    assert "PATH" in lines[0]


async def test_a_program_cannot_fill_the_disk(tmp_path: Path) -> None:
    """Whatever a program does about its own limits, the operating system bounds its files."""
    script = (
        "import resource, time\n"
        "while resource.getrlimit(resource.RLIMIT_FSIZE)[0] == -1: time.sleep(0.01)\n"  # set once it runs
        "with open('big', 'wb') as file:\n    while True: file.write(bytes(100_000))\n"
    )
    finished = await run_program(
        [sys.executable, "-c", script], folder=tmp_path, timeout_seconds=60, max_file_bytes=1_000_000
    )

    assert finished.returncode != 0
    assert (tmp_path / "big").stat().st_size <= 1_000_000


# --- discovery --------------------------------------------------------------------------------------


class FakeEntry:
    """An entry point that loads what it is told to."""

    def __init__(self, name: str, loads: Any) -> None:
        self.name = name
        self.loads = loads

    def load(self) -> Any:
        if isinstance(self.loads, Exception):
            raise self.loads
        return self.loads


def test_a_broken_plug_in_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import errors, classes that are no executors and services taken twice are reported, the rest works."""

    class Clash:
        services = ("checksum",)

    entries = [
        FakeEntry("a-checksum", ChecksumExecutor),
        FakeEntry("b-missing", ImportError("no module")),
        FakeEntry("c-nonsense", object),
        FakeEntry("d-clash", Clash),
    ]
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: entries if group == base.ENTRY_POINT_GROUP else []
    )
    found = discover_executors()

    assert ["checksum"] == list(found.executors) == list(load_executors())
    assert list(found.broken) == ["b-missing", "c-nonsense", "d-clash"]
    assert "no module" in found.broken["b-missing"]


def test_a_workspace_exists_only_while_it_is_used(tmp_path: Path) -> None:
    """No folder before the first use, the same one during, none afterwards; removing twice is fine."""
    workspace = Workspace(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with workspace:
        (workspace.path / "file").touch()
        assert [workspace.path] == list(tmp_path.iterdir())
    workspace.remove()

    assert list(tmp_path.iterdir()) == []
