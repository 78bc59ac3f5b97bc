"""Sources of media that are cut, damaged, empty or merely odd, in all services that read them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coordinator.miner.executors import ExecutorError
from coordinator.miner.executors.audio.executor import AudioExecutor
from coordinator.miner.executors.errors import INVALID_PAYLOAD
from coordinator.miner.executors.ffmpeg.executor import FfmpegExecutor
from coordinator.miner.executors.speech import SpeechExecutor
from tests.harness.media_files import (
    FAST,
    H264,
    PICTURES,
    SECONDS,
    SOUND,
    SOUNDS,
    VIDEOS,
    MediaFiles,
    cut,
    make_file,
    run_ffmpeg,
    with_hole,
)
from tests.harness.stand_in import StandIn
from tests.harness.works import Bench, FolderBlobs, check_output

FONT = ("-metadata:s:t", "mimetype=application/x-truetype-font")
TRANSCODE = {"operation": "transcode", "preset": "ultrafast"}
EXTRACT = {"operation": "extract_audio", "output_format": "wav"}


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> MediaFiles:
    return MediaFiles(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="session")
def video() -> FfmpegExecutor:
    executor = FfmpegExecutor()
    assert asyncio.run(executor.check()) is None
    return executor


@pytest.fixture
async def engine() -> AsyncIterator[StandIn]:
    async with StandIn("Systran/faster-whisper-base").serving() as made:
        yield made


class Services:
    """The services that read media, on one file after the other."""

    def __init__(self, folder: Path, video: FfmpegExecutor, engine: StandIn) -> None:
        self.folder = folder
        self.video = video
        self.engine = engine
        self.blobs = FolderBlobs(folder / "blobs")

    async def one(
        self, executor: Any, service: str, payload: dict[str, Any]
    ) -> dict[str, Any] | ExecutorError:
        bench = Bench(service, self.folder, self.blobs)
        with bench.workspace:
            try:
                return check_output(service, await executor.run(bench.work(payload))).result
            except ExecutorError as error:
                return error

    async def on(self, content: bytes, *, pictures: bool, only: str | None = None) -> dict[str, Any]:
        """The result or the error of each service, or of one."""
        ref = self.blobs.add(content)
        runs = {
            "extract": partial(self.one, self.video, "video_transcoding", {"input_url": ref, **EXTRACT}),
            "audio": partial(self.one, AudioExecutor(), "audio_processing", {"input_url": ref}),
            "speech": partial(
                self.one, SpeechExecutor(self.engine.settings()), "speech_recognition", {"audio_url": ref}
            ),
        }
        if pictures:
            payload = {"input_url": ref, **TRANSCODE}
            runs["transcode"] = partial(self.one, self.video, "video_transcoding", payload)
        chosen = {name: make for name, make in runs.items() if only in (None, name)}
        ended = await asyncio.gather(*(make() for make in chosen.values()))
        return dict(zip(chosen, ended, strict=True))


@pytest.fixture
def services(tmp_path: Path, video: FfmpegExecutor, engine: StandIn) -> Services:
    return Services(tmp_path, video, engine)


def refusals(ended: dict[str, Any]) -> list[str]:
    """The details of refusals for good by all services, without any name of ours or ffmpeg's addresses."""
    for service, error in ended.items():
        assert isinstance(error, ExecutorError), (service, error)
        assert (INVALID_PAYLOAD, False) == (error.code, error.retryable), (service, error)
        assert not re.search(r"0x[0-9a-f]{6}|/tmp|file:|packets\.txt|@", error.detail), error.detail
        assert len(error.detail) <= 400
    return [error.detail for error in ended.values()]


def completed(ended: dict[str, Any], seconds: float) -> list[list[str]]:
    """The warnings of each service, all of which gave this length."""
    for service, result in ended.items():
        assert not isinstance(result, ExecutorError), (service, result)
        assert float(result["duration_seconds"]) == pytest.approx(seconds, abs=0.11), service
    return [result.get("warnings", []) for result in ended.values()]


# --- cut ----------------------------------------------------------------------------------------------------
NO_PROMISE = ("ts", "ogg", "aac")


@pytest.mark.parametrize("ending", [*VIDEOS, *SOUNDS])
async def test_a_cut_file_is_refused_by_every_service(
    services: Services, media: MediaFiles, ending: str
) -> None:
    """At half and at 90 % of its bytes: with the seconds reached, and those promised where a header does."""
    for part in (0.5, 0.9):
        content = cut(media.whole(ending), part)
        for detail in refusals(await services.on(content, pictures=ending in VIDEOS)):
            numbers = [float(number) for number in re.findall(r"(\d+\.\d\d) s\b", detail)]
            assert numbers, detail
            # Ogg's pages are a second long.
            assert part * SECONDS - 1.1 < numbers[0] < part * SECONDS + 0.3, detail
            if ending in NO_PROMISE:
                assert "ends too early, after" in detail
            else:
                assert re.match(r"the source ends after [\d.]+ s of the [\d.]+ s that its header", detail)
                assert numbers[1] == pytest.approx(SECONDS, abs=0.1)
    assert [] == services.engine.received  # no engine hears half of a recording


async def test_whole_files_give_their_whole_length(services: Services, media: MediaFiles) -> None:
    """The same files, whole, are done, and only formats without a promise have a warning."""
    for ending in [*VIDEOS, *SOUNDS]:
        ended = await services.on(media.whole(ending), pictures=ending in VIDEOS)
        for warnings in completed(ended, SECONDS):
            expected = 1 if ending in ("ts", "aac") else 0
            assert expected == len(warnings), (ending, warnings)
            assert all("does not say here how long the source should be" in one for one in warnings)


async def test_an_index_that_never_came_is_named(services: Services, media: MediaFiles) -> None:
    """An mp4 with its index at the end, cut: every service says so, and what to do."""
    content = cut(make_file(media.folder, "index-last.mp4", *PICTURES, *SOUND, *H264), 0.9)
    details = refusals(await services.on(content, pictures=True))
    assert 1 == len(set(details))
    assert "moov atom not found" in details[0]
    assert "send the whole file" in details[0]


async def test_fragments_and_live_streams_that_are_cut(services: Services, media: MediaFiles) -> None:
    """Files without a length in their header are refused as well where they end inside of a packet."""
    fragments = make_file(
        media.folder,
        "fragments.mp4",
        *(*PICTURES, *SOUND, *H264, "-movflags", "frag_keyframe+empty_moov"),
    )
    live = run_ffmpeg(*VIDEOS["webm"], "-live", "1", "-f", "webm", "-")
    for content in (fragments, live):
        refusals(await services.on(cut(content, 0.5), pictures=True))


async def test_a_cut_that_can_not_be_told_is_a_warning(services: Services, media: MediaFiles) -> None:
    """An mp3 without a header for its length, and a transport stream that ends with a packet."""
    plain = make_file(media.folder, "plain.mp3", *SOUND, "-write_xing", "0")
    stream = media.whole("ts")
    for content, pictures in ((cut(plain, 0.5), False), (stream[: len(stream) // 376 * 188], True)):
        ended = await services.on(content, pictures=pictures)
        for result in ended.values():
            assert not isinstance(result, ExecutorError), result
            assert 1.5 < float(result["duration_seconds"]) < 2.3
            assert any("whether more is missing can't be told" in one for one in result["warnings"])


def ends_of_fragments(content: bytes) -> list[int]:
    """The places at which the fragments of an mp4 begin."""
    places, start = list[int](), 0
    while start < len(content):
        if content[start + 4 : start + 8] == b"moof":
            places.append(start)
        start += int.from_bytes(content[start : start + 4], "big")
    return places


def ends_of_tags(content: bytes) -> list[int]:
    """The places at which the tags of an FLV begin."""
    places = [13]
    while places[-1] < len(content):
        size = int.from_bytes(content[places[-1] + 1 : places[-1] + 4], "big")
        places.append(places[-1] + 15 + size)
    return places


def ends_of_frames(content: bytes, head: int, size_of: Callable[[bytes], int]) -> list[int]:
    """The places at which frames of a plain container begin; `size_of` reads what a frame begins with."""
    places = [head]
    while places[-1] < len(content):
        places.append(places[-1] + size_of(content[places[-1] : places[-1] + 12]))
    return places


async def test_recordings_that_promise_no_length(services: Services, media: MediaFiles) -> None:
    """Where the length is only what is there, half the fragments, tags or frames are a warning."""
    small = (*PICTURES, "-s", "64x48")
    live = ("-movflags", "frag_keyframe+empty_moov", "-g", "10")
    fragments = make_file(media.folder, "parts.mp4", *PICTURES, *SOUND, *H264, *live)
    tags = run_ffmpeg(*PICTURES, "-c:v", "flv", "-flvflags", "no_duration_filesize", "-f", "flv", "-")
    ivf = run_ffmpeg(*small, "-c:v", "libvpx", "-deadline", "realtime", "-f", "ivf", "-")
    y4m = run_ffmpeg(*small, "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-")
    nut = make_file(media.folder, "live.nut", *small, "-c:v", "mjpeg")
    frames = ends_of_frames(ivf, 32, lambda head: 12 + int.from_bytes(head[:4], "little"))
    planes = ends_of_frames(y4m, y4m.index(b"FRAME"), lambda _: 6 + 64 * 48 * 3 // 2)

    for content, places in (
        (fragments, ends_of_fragments(fragments)),
        (tags, ends_of_tags(tags)),
        (ivf, frames),
        (y4m, planes),
    ):
        half = content[: places[len(places) // 2]]
        ended = await services.on(half, pictures=True, only="transcode")
        for name, result in ended.items():
            assert not isinstance(result, ExecutorError), (name, result)
            assert 0 < float(result["duration_seconds"]) < 0.8 * SECONDS
            assert any("whether more is missing can't be told" in one for one in result["warnings"]), name
    refusals(await services.on(y4m[: planes[5] + 100], pictures=True, only="transcode"))

    # The wholes: a promise that can't be kept, as that of an IVF from a pipe, is none.
    for content in (fragments, ivf, nut):
        completed(await services.on(content, pictures=True, only="transcode"), SECONDS)


# --- damaged and empty --------------------------------------------------------------------------------------
async def test_holes_are_refused_or_told(services: Services, media: MediaFiles) -> None:
    """A fifth of the bytes is zeros or noise: refused, or in the warnings where the format has no promise."""
    for number, ending in enumerate(
        ("mp4", "mkv", "webm", "ts", "flv", "avi", "mp3", "flac", "ogg", "m4a", "aac", "mkv", "mp4")
    ):
        content = with_hole(media.whole(ending), noise=number % 2 == 1)
        ended = await services.on(content, pictures=ending in VIDEOS)
        for service, result in ended.items():
            if isinstance(result, ExecutorError):
                assert (INVALID_PAYLOAD, False) == (result.code, result.retryable), (ending, service, result)
                assert re.search(r"damaged|ends after", result.detail), result.detail
            else:
                # A video's pictures hide what is missing of an AVI's sound.
                assert ending in ("aac", "avi"), (ending, service)
                assert result["warnings"], (ending, service)


async def test_nothing_inside_is_nothing_to_do(services: Services, media: MediaFiles) -> None:
    """A recording without samples, a video without frames, and files that are no media."""
    whole = media.whole("wav")
    place = whole.index(b"data") + 4
    silent = whole[:place] + bytes(4)
    frameless = make_file(media.folder, "frameless.mkv", *PICTURES, *SOUND, *H264, "-t", "0")
    for content in (silent, frameless, b"", b"text, and no media" * 100, b"RIFF" + bytes(2000)):
        for detail in refusals(await services.on(content, pictures=True)):
            assert re.search(r"nothing in the source|not a media file|no pictures|no sound", detail), detail


async def test_a_stream_that_is_not_there_is_named(services: Services, media: MediaFiles) -> None:
    """Sound of a silent video, and pictures of a recording."""
    mute = make_file(media.folder, "mute.mp4", *PICTURES, *H264, *FAST)
    assert {"the source has no sound"} == set(refusals(await services.on(mute, pictures=False)))
    sound = {"input_url": services.blobs.add(media.whole("wav")), **TRANSCODE}
    error = await services.one(services.video, "video_transcoding", sound)
    assert isinstance(error, ExecutorError)
    assert (INVALID_PAYLOAD, "the source has no pictures") == (error.code, error.detail)


async def test_moments_beyond_the_end(services: Services, media: MediaFiles) -> None:
    """A thumbnail and a trim after the last picture and sample are the client's mistake."""
    ref = services.blobs.add(media.whole("mp4"))
    thumbnail = {"input_url": ref, "operation": "thumbnail", "at_seconds": 9}
    trim = {"input_url": ref, "operations": [{"operation": "trim", "start_seconds": 9}]}
    for executor, service, payload, words in (
        (services.video, "video_transcoding", thumbnail, "no picture at 9 s; its header says 4.00 s"),
        (AudioExecutor(), "audio_processing", trim, "they leave no sound"),
    ):
        error = await services.one(executor, service, payload)
        assert isinstance(error, ExecutorError)
        assert (INVALID_PAYLOAD, False) == (error.code, error.retryable)
        assert words in error.detail


async def test_a_moment_within_the_last_picture(services: Services, media: MediaFiles) -> None:
    """The last picture is shown until the video's end, and is the thumbnail of every moment until then."""
    two_a_second = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=2:duration=4")
    slow = make_file(media.folder, "slow.mkv", *two_a_second, "-c:v", "mpeg4")
    ref = services.blobs.add(slow)
    pictures = []
    for moment in (3.5, 3.9):
        payload = {"input_url": ref, "output_format": "png", "at_seconds": moment}
        result = await services.one(services.video, "video_transcoding", payload)
        assert not isinstance(result, ExecutorError), (moment, result)
        pictures.append(result["outputs"])
    assert pictures[0] == pictures[1]
    over = {"input_url": ref, "output_format": "png", "at_seconds": 4.1}
    error = await services.one(services.video, "video_transcoding", over)
    assert isinstance(error, ExecutorError)
    assert "no picture at 4.1 s" in error.detail


# --- odd, and good ------------------------------------------------------------------------------------------
def wav_with(content: bytes, *, whole: int | None = None, sound: int | None = None) -> bytes:
    """A WAV with other sizes in its header."""
    made, place = bytearray(content), content.index(b"data") + 4
    if whole is not None:
        made[4:8] = whole.to_bytes(4, "little")
    if sound is not None:
        made[place : place + 4] = sound.to_bytes(4, "little")
    return bytes(made)


async def test_headers_of_wav_files(services: Services, media: MediaFiles) -> None:
    """Sizes that writers to pipes leave, and a wrong RIFF size, are no cut; too small a size is told."""
    whole = media.whole("wav")
    good = [
        wav_with(whole, whole=0xFFFFFFFF, sound=0xFFFFFFFF),
        wav_with(whole, whole=0, sound=0),
        wav_with(whole, whole=0x7FFFF024, sound=0x7FFFF000),
        wav_with(whole, whole=1000),
        wav_with(whole, whole=10_000_000),
        whole + b"junk" + bytes(4),
        make_file(media.folder, "large.wav", *SOUND, "-rf64", "always"),
    ]
    for content in good:
        completed(await services.on(content, pictures=False), SECONDS)
    short = await services.on(wav_with(whole, sound=44_100 * 2), pictures=False)
    for warnings in completed(short, 1):
        assert ["264600 bytes behind the sound were not read: by its header the sound ends before them"] == [
            one.replace(str(len(whole) - 88_278), "264600") for one in warnings
        ]


def odd_files(media: MediaFiles) -> dict[str, tuple[bytes, float, bool]]:
    """Good files that look suspicious: content, seconds, and whether they have pictures as well as sound."""
    folder = media.folder
    for ending in ("mp4", "mkv", "m4a", "mp3", "flac"):
        media.whole(ending)
    run_ffmpeg("-f", "lavfi", "-i", "color=red:size=32x32", "-frames:v", "1", "cover.jpg", folder=folder)
    (folder / "words.srt").write_text("1\n00:00:03,000 --> 00:00:09,000\nhello\n")
    cover = ("-i", "cover.jpg", "-map", "0", "-map", "1", "-c", "copy", "-disposition:v", "attached_pic")
    short = ("-f", "lavfi", "-i", "sine=duration=1")
    vfr = ("-vf", "select='lt(t,1)+gt(t,3)'", "-fps_mode", "vfr", *H264)

    def made(name: str, *arguments: str) -> bytes:
        return make_file(folder, name, *arguments)

    stream = media.whole("ts")
    packets = len(stream) // 188
    return {
        "variable rate": (made("vbr.mp3", *SOUND, "-q:a", "5"), 4, False),
        "variable rate, no length": (made("v.mp3", *SOUND, "-q:a", "5", "-write_xing", "0"), 4.03, False),
        "tags behind": (media.whole("mp3") + b"TAG" + bytes(125), 4, False),
        "zeros in front": (bytes(700) + made("z.mp3", *SOUND, "-write_xing", "0"), 4.03, False),
        "cover of an mp3": (made("c.mp3", "-i", "whole.mp3", *cover), 4, False),
        "cover of an m4a": (made("c.m4a", "-i", "whole.m4a", *cover), 4, False),
        "cover of a flac": (made("c.flac", "-i", "whole.flac", *cover), 4, False),
        "flac from a pipe": (run_ffmpeg(*SOUND, "-f", "flac", "-"), 4, False),
        "subtitles are longer": (
            made("s.mkv", "-i", "whole.mkv", "-i", "words.srt", "-map", "0", "-map", "1", "-c", "copy"),
            4,
            True,
        ),
        "an edit list": (made("e.mp4", "-ss", "1.3", "-i", "whole.mp4", "-c", "copy"), 2.7, True),
        "an attached font": (
            made("f.mkv", "-i", "whole.mkv", "-c", "copy", "-attach", "words.srt", *FONT),
            4,
            True,
        ),
        "a time code": (made("t.mov", *PICTURES, *SOUND, *H264, "-timecode", "00:00:01:00"), 4, True),
        "mkv from a pipe": (run_ffmpeg(*PICTURES, *SOUND, *H264, "-f", "matroska", "-"), 4, True),
        "avi from a pipe": (run_ffmpeg(*PICTURES, *SOUND, "-c:v", "mpeg4", "-f", "avi", "-"), 4, True),
        "flv from a pipe": (run_ffmpeg(*PICTURES, *SOUND, *H264, "-f", "flv", "-"), 4.04, True),
        "a lying title": (
            made("l.mp4", *PICTURES, *SOUND, *H264, "-metadata", "title=partial file"),
            4,
            True,
        ),
        "joined mid-stream": (stream[packets // 4 * 188 : packets * 3 // 4 * 188], 2, True),
        "sound is shorter": (made("q.mp4", *PICTURES, *short, *H264, *FAST), 1, False),
        "rare pictures": (made("r.mkv", *PICTURES, *SOUND, *vfr), 4, True),
    }


async def test_odd_files_that_are_good(services: Services, media: MediaFiles) -> None:
    """Imprecise headers, covers, edit lists, files from pipes and joined streams: none is refused."""
    for name, (content, seconds, pictures) in odd_files(media).items():
        ended = await services.on(content, pictures=pictures, only=("transcode" if pictures else "audio"))
        for service, result in ended.items():
            assert not isinstance(result, ExecutorError), (name, service, result)
            slack = 0.7 if name == "joined mid-stream" else 0.11
            assert float(result["duration_seconds"]) == pytest.approx(seconds, abs=slack), (name, service)


# --- outputs ------------------------------------------------------------------------------------------------
async def test_the_length_is_that_of_the_output(services: Services, media: MediaFiles) -> None:
    """An encoder that reorders its frames, without sound: the last ones count, too."""
    mute = make_file(media.folder, "silent.mp4", *PICTURES, *H264, *FAST)
    payload = {"input_url": services.blobs.add(mute), **TRANSCODE}
    for more in ({"codec": "h265"}, {"output_format": "webm"}, {"fps": 50}, {"output_format": "gif"}):
        if more.get("output_format") == "gif":
            payload = {"input_url": payload["input_url"]}
        result = await services.one(services.video, "video_transcoding", payload | more)
        assert not isinstance(result, ExecutorError), result
        assert "4.000" == result["duration_seconds"], more
