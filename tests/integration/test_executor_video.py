"""Videos as people have them: turned, HDR, interlaced, with several tracks. Transcoded and looked at."""

from __future__ import annotations

import asyncio
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.miner.executors import Outcome, errors
from coordinator.miner.executors.ffmpeg.executor import FfmpegExecutor, find_ffmpeg
from coordinator.miner.executors.ffmpeg.tone_map import to_bt709
from tests.harness.works import Bench, FolderBlobs, check_output, failure

FFMPEG = find_ffmpeg() or "ffmpeg"
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
CORNERS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))
CARD = (
    "color=black:s=160x96:r=10:d=1,drawbox=0:0:80:48:red:fill,drawbox=80:0:80:48:lime:fill,"
    "drawbox=0:48:80:48:blue:fill,drawbox=80:48:80:48:white:fill"
)
"""Red and green above blue and white."""
FAST = {"preset": "ultrafast"}


def ffmpeg(*arguments: str | Path) -> bytes:
    command = [FFMPEG, "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs."""
    made = tmp_path_factory.mktemp("inputs")
    card = ("-f", "lavfi", "-i", CARD)
    x264 = ("-c:v", "libx264", "-preset", "ultrafast")
    ffmpeg(*card, "-vf", "scale=out_color_matrix=bt601:out_range=tv,format=yuv420p", *x264, made / "card.mp4")
    return made


@pytest.fixture(scope="module")
def executor() -> FfmpegExecutor:
    """An executor that has been checked once."""
    made = FfmpegExecutor()
    assert asyncio.run(made.check()) is None
    return made


class Studio(Bench):
    """Runs jobs and looks at their files."""

    def __init__(self, folder: Path, executor: FfmpegExecutor) -> None:
        super().__init__("video_transcoding", folder, FolderBlobs(folder / "blobs"))
        self.executor = executor
        self.made = folder / "made"

    def payload(self, source: Path, **parameters: Any) -> dict[str, Any]:
        return {"input_url": self.blobs.add(source.read_bytes()), **parameters}

    async def make(self, source: Path, **parameters: Any) -> Outcome:
        """The outcome; its file is `made`."""
        if {"operation", "output_format"}.isdisjoint(parameters):
            parameters = {**FAST, **parameters}
        outcome = await self.executor.run(self.work(self.payload(source, **parameters)))
        check_output("video_transcoding", outcome)
        self.made.write_bytes(self.blobs.read(outcome.result["outputs"][0]))
        return outcome

    def says(self) -> str:
        """What ffmpeg says about the file and its first frame."""
        arguments = [FFMPEG, "-hide_banner", "-i", str(self.made), "-map", "0:v:0", "-vf", "showinfo"]
        run = subprocess.run(
            [*arguments, "-frames:v", "1", "-f", "null", "-"], capture_output=True, text=True, timeout=60
        )
        return run.stderr

    def frame(self, number: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A frame as shown: height × width × red, green, blue."""
        scale = f"select=eq(n\\,{number}),scale=flags=accurate_rnd+full_chroma_int,format=rgb24"
        raw = ffmpeg("-i", self.made, "-frames:v", "1", "-vf", scale, "-f", "image2pipe", "-c:v", "ppm", "-")
        head = re.match(rb"P6\s(\d+) (\d+)\s255\s", raw)
        assert head is not None
        width, height = int(head[1]), int(head[2])
        return np.frombuffer(raw[head.end() :], np.uint8).reshape(height, width, 3)

    def colours(
        self, places: tuple[tuple[float, float], ...] = CORNERS, number: int = 0
    ) -> list[tuple[int, ...]]:
        """The colours of a frame at places, as parts of width and height."""
        shown = self.frame(number)
        height, width, _ = shown.shape
        return [tuple(int(part) for part in shown[int(y * height), int(x * width)]) for x, y in places]

    def times(self, path: Path | None = None) -> list[float]:
        """The times of the frames."""
        listed = ffmpeg(
            *("-copyts", "-i", path or self.made, "-map", "0:v:0", "-fps_mode", "passthrough"),
            *("-enc_time_base", "1/1000", "-f", "framecrc", "-"),
        )
        return [int(line.split(b",")[2]) / 1000 for line in listed.splitlines() if not line.startswith(b"#")]


@pytest.fixture
def studio(tmp_path: Path, executor: FfmpegExecutor) -> Iterator[Studio]:
    made = Studio(tmp_path, executor)
    with made.workspace:
        yield made


def near(expected: Any, seen: Any, by: int = 6) -> bool:
    """Whether all colours are the expected ones, within what a codec changes."""
    return bool(np.all(np.abs(np.asarray(expected, int) - np.asarray(seen, int)) <= by))


# --- shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(90, [GREEN, WHITE, RED, BLUE]), (180, [WHITE, BLUE, GREEN, RED]), (270, [BLUE, RED, WHITE, GREEN])],
)
@pytest.mark.parametrize(
    "parameters", [{}, {"operation": "thumbnail", "output_format": "png"}, {"output_format": "gif"}]
)
async def test_a_turned_video_is_upright(
    studio: Studio, folder: Path, degrees: int, expected: Any, parameters: dict[str, Any]
) -> None:
    """Its pixels are turned once, and no matrix is left that would turn them again."""
    turned = studio.made.with_name("turned.mp4")
    ffmpeg("-display_rotation", str(degrees), "-i", folder / "card.mp4", "-c", "copy", turned)
    result = (await studio.make(turned, **parameters)).result

    assert ((160, 96) if degrees == 180 else (96, 160)) == (result["width"], result["height"])
    assert near(expected, studio.colours())
    assert "matrix" not in studio.says().lower().split("output #0")[0]


@pytest.mark.parametrize(
    ("parameters", "size", "places", "expected"),
    [
        ({"resolution": "320x320"}, (320, 192), CORNERS, [RED, GREEN, BLUE, WHITE]),
        ({"resolution": "96x96", "fit": "cover"}, (96, 96), CORNERS, [RED, GREEN, BLUE, WHITE]),
        ({"resolution": "96x96", "fit": "stretch"}, (96, 96), CORNERS, [RED, GREEN, BLUE, WHITE]),
        ({"resolution": "x48"}, (80, 48), CORNERS, [RED, GREEN, BLUE, WHITE]),
        ({"resolution": "640x", "enlarge": False}, (160, 96), CORNERS, [RED, GREEN, BLUE, WHITE]),
        ({"operation": "thumbnail", "resolution": "50x50"}, (50, 30), CORNERS, [RED, GREEN, BLUE, WHITE]),
        ({"codec": "h265", "resolution": "10x10"}, (16, 16), ((0.5, 0.05), (0.5, 0.95)), [BLACK, BLACK]),
    ],
)
async def test_pictures_have_the_size_that_was_asked_for(
    studio: Studio, folder: Path, parameters: dict[str, Any], size: Any, places: Any, expected: Any
) -> None:
    """The result says the measured size, and every corner shows what it should."""
    result = (await studio.make(folder / "card.mp4", **parameters)).result

    assert size == (result["width"], result["height"])
    assert near(expected, studio.colours(places), by=12)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, "160x96 [SAR 16:11 DAR 80:33]"),
        ({"resolution": "320x320"}, "320x132 [SAR 1:1"),
        ({"operation": "thumbnail"}, "233x96 [SAR 1:1"),
    ],
)
async def test_pixels_that_are_not_square(
    studio: Studio, folder: Path, parameters: dict[str, Any], expected: str
) -> None:
    """A video keeps them as they are; with a resolution, and as a picture, they become square."""
    ffmpeg(
        "-i",
        folder / "card.mp4",
        "-vf",
        "setsar=16/11",
        "-c:v",
        "ffv1",
        wide := studio.made.with_name("w.mkv"),
    )
    await studio.make(wide, **parameters)
    assert expected in studio.says()


async def test_a_phone_that_is_turned_while_it_films(studio: Studio, folder: Path) -> None:
    """Later frames of another shape are laid into the first ones' size, not squashed."""
    parts = [studio.made.with_name(f"{number}.ts") for number in range(2)]
    for part, size in zip(parts, ("160x96", "96x160"), strict=True):
        source = f"color=red:s={size}:r=10:d=1,format=yuv420p"
        ffmpeg("-f", "lavfi", "-i", source, "-c:v", "mpeg2video", "-q:v", "2", part)
    both = studio.made.with_name("both.ts")
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    await studio.make(both)

    last = studio.made.with_name("last.mkv")
    ffmpeg("-sseof", "-0.3", "-i", studio.made, "-c:v", "ffv1", last)
    studio.made.write_bytes(last.read_bytes())
    shown = studio.frame()
    assert (96, 160, 3) == shown.shape
    red = shown[48, :, 0] > 128
    assert 96 * 96 / 160 == pytest.approx(int(red.sum()), abs=4)
    assert [False, True, False] == [bool(red[at]) for at in (20, 80, 140)]


# --- colours ------------------------------------------------------------------------------------------------

NITS = (36.54, 100.0, 203.0, 1000.0)
PQ_CODES, HLG_CODES = (0.4109, 0.5081, 0.5807, 0.7518), (0.38, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def hdr(folder: Path) -> dict[str, Path]:
    """Four greys in PQ, with what a film says about its brightness, and in HLG."""
    x265 = "log-level=error:lossless=1:repeat-headers=1"
    film = (
        f"{x265}:hdr10=1:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
        ":max-cll=1000,400"
    )
    made = {}
    for name, codes, options in (("smpte2084", PQ_CODES, film), ("arib-std-b67", HLG_CODES, x265)):
        luma = np.repeat(np.round(64 + 876 * np.asarray(codes)).astype("<u2"), 64)
        picture = np.tile(luma, 64).tobytes() + np.full(2 * 128 * 32, 512, "<u2").tobytes()
        (folder / "raw").write_bytes(picture * 5)
        tags = f"setparams=range=tv:colorspace=bt2020nc:color_primaries=bt2020:color_trc={name}"
        ffmpeg(
            *("-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", "256x64", "-r", "10", "-i", folder / "raw"),
            *("-vf", tags, "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", options),
            folder / f"{name}.mkv",
        )
        made[name] = folder / f"{name}.mkv"
    return made


GREYS = tuple((x, 0.5) for x in (0.125, 0.375, 0.625, 0.875))


@pytest.mark.parametrize(
    ("transfer", "codes", "parameters"),
    [
        ("smpte2084", PQ_CODES, {}),
        ("smpte2084", PQ_CODES, {"codec": "h265", "bit_depth": 8}),
        ("smpte2084", PQ_CODES, {"operation": "thumbnail"}),
        ("arib-std-b67", HLG_CODES, {}),
        ("arib-std-b67", HLG_CODES, {"operation": "thumbnail", "output_format": "png"}),
    ],
)
async def test_hdr_is_tone_mapped(
    studio: Studio, hdr: dict[str, Path], transfer: str, codes: Any, parameters: dict[str, Any]
) -> None:
    """Each grey is where the curve puts it, the tags say BT.709, and nothing says HDR any more."""
    outcome = await studio.make(hdr[transfer], **parameters)
    convert = to_bt709(transfer, 1000)

    expected = [[round(255 * part) for part in convert((code, code, code))] for code in codes]
    assert near(expected, studio.colours(GREYS), by=3), (expected, studio.colours(GREYS))
    assert ["HDR is tone-mapped to BT.709"] == outcome.result["warnings"]
    said = studio.says()
    assert not re.search("smpte2084|arib-std|bt2020|[Mm]astering|MaxCLL", said), said
    assert "operation" in parameters or "yuv420p(tv, bt709" in said


@pytest.mark.parametrize(
    ("parameters", "profile"),
    [
        ({"codec": "h265"}, "hevc (Main 10) (hvc1"),
        ({"output_format": "webm", **FAST}, "vp9 (Profile 2)"),
        ({"codec": "av1", "output_format": "mkv", **FAST}, "av1"),
    ],
)
async def test_hdr_is_kept(
    studio: Studio, hdr: dict[str, Path], parameters: dict[str, Any], profile: str
) -> None:
    """10 bits with the source's colours and values, and what the film says about its brightness."""
    outcome = await studio.make(hdr["smpte2084"], **parameters)
    said = studio.says()

    assert profile in said
    assert "yuv420p10le(tv, bt2020nc/bt2020/smpte2084" in said
    assert "MaxCLL=1000, MaxFALL=400" in said
    assert re.search(r"r\(0.6800,0.3200\).*max_luminance=1000", said)
    assert "warnings" not in outcome.result
    assert near([[round(255 * code)] * 3 for code in PQ_CODES], studio.colours(GREYS), by=3)


@pytest.mark.parametrize(
    ("made_by", "expected"),
    [
        ("scale=out_color_matrix=bt601:out_range=pc,format=yuvj420p", "yuv420p(tv, bt470bg"),
        ("scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,setparams=colorspace=bt709", "(tv, bt709"),
        (
            "scale=out_color_matrix=bt709:out_range=tv,format=yuv444p10le,setparams=colorspace=bt709",
            "420p(tv, bt",
        ),
        ("format=gbrp", "yuv420p(tv, bt709/bt709/iec61966-2-1"),
    ],
)
async def test_colours_stay_what_they_are(studio: Studio, made_by: str, expected: str) -> None:
    """Full range, BT.601, BT.709, RGB and deep colours look the same in tagged video, JPEG and PNG."""
    source = studio.made.with_name("source.mkv")
    ffmpeg("-f", "lavfi", "-i", CARD, "-vf", made_by, "-c:v", "ffv1", source)
    for parameters in ({}, {"operation": "thumbnail"}, {"operation": "thumbnail", "output_format": "png"}):
        await studio.make(source, **parameters)
        assert near([RED, GREEN, BLUE, WHITE], studio.colours()), (parameters, studio.colours())
        assert parameters or expected in studio.says()


async def test_what_is_transparent_becomes_black(studio: Studio) -> None:
    """A video has no transparency; a PNG keeps it."""
    source = studio.made.with_name("half.mov")
    half = f"{CARD},format=rgba,colorchannelmixer=aa=0.5"
    ffmpeg("-f", "lavfi", "-i", half, "-c:v", "png", source)
    await studio.make(source)
    assert near([(128, 0, 0), (0, 128, 0), (0, 0, 128), (128, 128, 128)], studio.colours())
    await studio.make(source, operation="thumbnail", output_format="png")
    assert "rgba" in studio.says()


async def test_transparency_of_webm(studio: Studio) -> None:
    """VP9 has it in a second video, which ffmpeg's own decoder leaves out: what lay beneath would show."""
    source = studio.made.with_name("half.webm")
    half = f"{CARD},format=rgba,colorchannelmixer=aa=0.5,format=yuva420p"
    ffmpeg("-f", "lavfi", "-i", half, "-c:v", "libvpx-vp9", "-deadline", "realtime", "-crf", "5", source)
    result = (await studio.make(source)).result
    assert ["the source's transparency became black"] == result["warnings"]
    assert near([(128, 0, 0), (0, 128, 0), (0, 0, 128), (128, 128, 128)], studio.colours(), by=12)
    await studio.make(source, operation="thumbnail", output_format="png")
    assert "rgba" in studio.says()


@pytest.mark.parametrize("moment", [0.0, 0.2, 0.37, 0.75])
async def test_a_picture_of_a_stream_without_an_index(studio: Studio, moment: float) -> None:
    """Seeking in it misses frames that are there: they are found on the way from the beginning."""
    source = studio.made.with_name("broadcast.mpg")
    shade = "color=black:s=64x48:r=25:d=0.8,format=yuv420p,lutyuv=y=30,geq=lum='16+10*N':cb=128:cr=128"
    ffmpeg("-f", "lavfi", "-i", shade, "-c:v", "mpeg2video", "-q:v", "1", source)
    await studio.make(source, output_format="png", at_seconds=moment)
    told = round(int(studio.frame()[20, 20, 1]) * 219 / 255 / 10)
    assert abs(told - moment * 25) <= 1


async def test_interlaced_frames_are_woven_out(studio: Studio) -> None:
    """Two moments in the lines of one frame become one moment; progressive frames are not touched."""
    source = studio.made.with_name("interlaced.mpg")
    moving = "color=black:s=160x96:r=50:d=1,drawbox=x=0:y=0:w=80:h=96:c=white:t=fill:enable='mod(n,2)'"
    ffmpeg(
        *("-f", "lavfi", "-i", f"{moving},tinterlace=interleave_top,setfield=tff"),
        *("-c:v", "mpeg2video", "-q:v", "2", "-flags", "+ildct+ilme", source),
    )
    for wanted, combed in (("never", True), ("auto", False)):
        await studio.make(source, deinterlace=wanted, crf=10)
        lines = studio.frame()[:, 40, 0].astype(int)
        assert combed == bool(np.abs(np.diff(lines)).mean() > 100), wanted


# --- times --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [{}, {"codec": "h265"}, {"output_format": "mkv", **FAST}])
async def test_frames_keep_their_times(studio: Studio, folder: Path, parameters: dict[str, Any]) -> None:
    """Of a source whose rate changes, each frame stays where it was, and none is added or lost."""
    source = studio.made.with_name("variable.mkv")
    times = "settb=1/1000,setpts='floor(N*37+N*N*3)'"
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc=s=64x64:r=30:d=0.5", "-vf", times, "-fps_mode", "passthrough"),
        *("-enc_time_base", "1/1000", "-c:v", "ffv1", source),
    )
    await studio.make(source, **parameters)
    assert [number * 37 + number * number * 3 for number in range(15)] == pytest.approx(
        [1000 * time for time in studio.times()], abs=1
    )


async def test_a_constant_rate_fills_and_leaves_out(studio: Studio, folder: Path) -> None:
    """With fps, frames are as far apart as they say; one frame is enough for the slowest animation."""
    await studio.make(folder / "card.mp4", fps=25)
    assert [number / 25 for number in range(25)] == pytest.approx(studio.times(), abs=0.001)
    short = studio.made.with_name("short.mp4")
    ffmpeg("-i", folder / "card.mp4", "-t", "0.4", "-c", "copy", short)
    await studio.make(short, output_format="gif", fps=1)
    assert [0.0] == studio.times()


async def test_a_clock_of_90_khz_is_no_rate(studio: Studio) -> None:
    """Frames are not repeated up to the ticks of the container's clock."""
    source = studio.made.with_name("clock.mkv")
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc=s=64x64:r=90000:d=0.2"),
        *("-vf", "select='not(mod(n,2971))',settb=1/90000", "-fps_mode", "passthrough"),
        *("-enc_time_base", "1/90000", "-c:v", "ffv1", source),
    )
    await studio.make(source)
    assert len(studio.times(source)) == len(studio.times())


# --- tracks -------------------------------------------------------------------------------------------------

SRT = "1\n00:00:00,000 --> 00:00:02,000\nHHHHHHHH\n"


@pytest.fixture(scope="module")
def film(folder: Path) -> Path:
    """A black video with English 5.1(side), German stereo, and English and French subtitles."""
    (folder / "text.srt").write_text(SRT)
    text = folder / "text.srt"
    ffmpeg(
        *("-f", "lavfi", "-i", "color=black:s=160x96:r=10:d=1", "-f", "lavfi", "-i", "sine=440:d=1"),
        *("-i", text, "-i", text, "-map", "0:v", "-map", "1:a", "-map", "1:a", "-map", "2:s", "-map", "3:s"),
        *("-c:v", "ffv1", "-c:a", "ac3", "-filter:a:0", "aformat=channel_layouts=5.1(side)", "-ac:a:1", "2"),
        *("-c:s:0", "srt", "-c:s:1", "ass", "-metadata:s:a:0", "language=eng"),
        *("-metadata:s:a:1", "language=ger", "-metadata:s:s:0", "language=eng"),
        *("-metadata:s:s:1", "language=fre", folder / "film.mkv"),
    )
    return folder / "film.mkv"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["Audio: aac (LC) (mp4a / 0x6134706D), 44100 Hz, 5.1"]),
        ({"audio_tracks": "none"}, []),
        ({"output_format": "webm", **FAST}, ["(eng): Audio: opus, 48000 Hz, 5.1"]),
        (
            {"audio_tracks": ["de", 0], "audio_codec": "copy", "subtitles": "keep"},
            [
                "(ger): Audio: ac3 (ac-3 / 0x332D6361), 44100 Hz, stereo",
                "(eng): Audio: ac3 (ac-3 / 0x332D6361), 44100 Hz, 5.1(side)",
                "(eng): Subtitle: mov_text",
                "(fre): Subtitle: mov_text",
            ],
        ),
        (
            {"output_format": "mkv", "audio_tracks": "all", "subtitles": "keep", **FAST},
            [
                "(eng): Audio: aac (LC), 44100 Hz, 5.1",
                "(ger): Audio: aac (LC), 44100 Hz, stereo",
                "(eng): Subtitle: subrip",
                "(fre): Subtitle: ass",
            ],
        ),
        (
            {
                "output_format": "webm",
                "audio_tracks": [1],
                "subtitles": "keep",
                "subtitle_track": "fra",
                **FAST,
            },
            ["(ger): Audio: opus, 48000 Hz, stereo", "(fre): Subtitle: webvtt"],
        ),
        ({"operation": "extract_audio", "audio_track": "de"}, ["(ger): Audio: aac (LC)"]),
    ],
)
async def test_tracks_of_sound_and_text(
    studio: Studio, film: Path, parameters: dict[str, Any], expected: list[str]
) -> None:
    """The file has the tracks that were asked for, in their order, and no others."""
    await studio.make(film, **parameters)
    lines = re.findall(r"Stream #0:\d+.*", studio.says().split("Stream mapping")[0])
    found = [line for line in lines if "Video" not in line]

    assert len(expected) == len(found), found
    assert all(part in line for part, line in zip(expected, found, strict=True)), found


async def test_text_is_drawn(studio: Studio, film: Path) -> None:
    """Subtitles are white at the bottom, and only there; a language that is not there is refused."""
    await studio.make(film, subtitles="burn", subtitle_track="en", resolution="640x384")
    bright = studio.frame(5)[:, :, 1] > 180
    assert bright[256:].sum() > 200
    assert not bright[:192].any()

    work = studio.work(studio.payload(film, subtitles="burn", subtitle_track="pl"))
    assert (errors.INVALID_PAYLOAD, False) == await failure(studio.executor, work)


def subtitle_picture(width: int, height: int) -> bytes:
    """A white box in the lower half for a second, as Blu-rays have it (PGS, US patent 7620297)."""
    left, top, across, down = width // 4, height // 2, width // 2, height // 2 - 4

    def segment(kind: int, seconds: float, content: bytes) -> bytes:
        clock = round(seconds * 90_000).to_bytes(4, "big")
        return b"PG" + clock + bytes(4) + bytes([kind]) + len(content).to_bytes(2, "big") + content

    def composition(seconds: float, number: int, objects: bytes) -> bytes:
        size = width.to_bytes(2, "big") + height.to_bytes(2, "big") + b"\x10" + number.to_bytes(2, "big")
        state = b"\x80" if objects else b"\x00"
        return segment(0x16, seconds, size + state + bytes(2) + bytes([len(objects) // 8]) + objects)

    place = left.to_bytes(2, "big") + top.to_bytes(2, "big")
    window = b"\x01\x00" + place + across.to_bytes(2, "big") + down.to_bytes(2, "big")
    line = b"\x00" + bytes([0xC0 | across >> 8, across & 0xFF, 1]) + bytes(2)
    picture = across.to_bytes(2, "big") + down.to_bytes(2, "big") + line * down
    return b"".join(
        [
            composition(0, 0, bytes(4) + place),
            segment(0x17, 0, window),
            segment(0x14, 0, bytes(2) + bytes([1, 235, 128, 128, 255])),
            segment(0x15, 0, bytes(3) + b"\xc0" + len(picture).to_bytes(3, "big") + picture),
            segment(0x80, 0, b""),
            composition(0.8, 1, b""),
            segment(0x17, 0.8, window),
            segment(0x80, 0.8, b""),
        ]
    )


async def test_subtitles_that_are_pictures(studio: Studio) -> None:
    """mkv keeps them, mp4 refuses them alone, and they can be drawn into a picture of another size."""
    source, drawn = studio.made.with_name("film.mkv"), studio.made.with_name("drawn.sup")
    drawn.write_bytes(subtitle_picture(320, 192))
    ffmpeg(
        *("-f", "lavfi", "-i", "color=black:s=160x96:r=10:d=1", "-i", drawn, "-map", "0", "-map", "1"),
        *("-c:v", "ffv1", "-c:s", "copy", source),
    )
    await studio.make(source, output_format="mkv", subtitles="keep", **FAST)
    assert "Subtitle: hdmv_pgs_subtitle" in studio.says()
    assert "warnings" not in (await studio.make(source, subtitles="burn", resolution="80x48")).result
    assert near([WHITE, BLACK, BLACK], studio.colours(((0.5, 0.7), (0.5, 0.3), (0.1, 0.7)), 5), by=20)
    assert "yuv420p(" in studio.says()

    work = studio.work(studio.payload(source, subtitles="keep"))
    assert (errors.INVALID_PAYLOAD, False) == await failure(studio.executor, work)


# --- devices ------------------------------------------------------------------------------------------------

DEVICE = """#!{python}
import os, sys
arguments = sys.argv[1:]
name = arguments[arguments.index("-c:v") + 1] if "-c:v" in arguments else ""
# As it is, this ffmpeg has no driver for any of them: so hevc_nvenc fails, and all do once the card is busy.
if name in ("h264_nvenc", "av1_nvenc") and not os.path.exists({busy!r}):
    arguments[arguments.index("-c:v") + 1] = "libx264"
    if name == "av1_nvenc":  # encodes, but only black
        arguments[arguments.index("-vf") + 1] += ",lutyuv=y=16"
    for option in ("-rc", "-cq", "-preset"):
        if option in arguments:
            del arguments[arguments.index(option) : arguments.index(option) + 2]
os.execv({ffmpeg!r}, [{ffmpeg!r}, *arguments])
"""
"""An ffmpeg whose h264_nvenc works, in software; hevc_nvenc has no driver, and av1_nvenc makes black."""


async def test_devices_are_tried_and_replaced(studio: Studio, folder: Path) -> None:
    """Listed is not working: only the encoder that gave its frames back is offered. Its failure is no job's.

    There may be no GPU where this runs: the device is a program that encodes in software.
    """
    program, busy, devices = (studio.made.with_name(name) for name in ("device", "busy", "dev"))
    program.write_text(DEVICE.format(python=sys.executable, busy=str(busy), ffmpeg=FFMPEG))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    devices.mkdir()
    nothing = FfmpegExecutor(str(program), devices=devices)
    assert await nothing.check() is None
    assert () == nothing.models

    (devices / "nvidia0").touch()
    studio.executor = FfmpegExecutor(str(program), devices=devices)
    assert await studio.executor.check() is None
    assert ("video-encoder:h264",) == studio.executor.models
    assert {"h264_nvenc"} == {name for name in studio.executor.encoders if name.endswith("_nvenc")}

    card = folder / "card.mp4"
    assert "warnings" not in (await studio.make(card, encoder="hardware")).result
    assert near([RED, GREEN, BLUE, WHITE], studio.colours())
    busy.touch()
    for parameters in ({"encoder": "hardware"}, {"codec": "h264_nvenc"}):
        result = (await studio.make(card, **parameters)).result
        assert ["encoder: h264_nvenc failed here; libx264 took its place"] == result["warnings"]
        assert near([RED, GREEN, BLUE, WHITE], studio.colours())
    work = studio.work({"input_url": studio.blobs.add(b"x"), "encoder": "hardware", "codec": "h265"})
    assert (errors.UNSUPPORTED, True) == await failure(studio.executor, work)


ASKED = """#!{python}
import os, sys
with open({asked!r}, "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
os.execv({ffmpeg!r}, [{ffmpeg!r}, *sys.argv[1:]])
"""


async def test_a_build_is_asked_once(tmp_path: Path) -> None:
    """All executors share the answers of one ffmpeg, in any event loop; that it runs is tried each time."""
    program, asked = tmp_path / "ffmpeg", tmp_path / "asked"

    async def questions() -> list[str]:
        asked.write_text("")
        checks = await asyncio.gather(*(FfmpegExecutor(str(program)).check() for _ in range(2)))
        assert [None, None] == checks
        return asked.read_text().splitlines()

    def install(text: str) -> None:
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    install(ASKED.format(python=sys.executable, asked=str(asked), ffmpeg=FFMPEG))
    first, second = await questions(), await asyncio.to_thread(lambda: asyncio.run(questions()))
    assert (1, 0) == tuple(told.count("-hide_banner -encoders") for told in (first, second))
    assert (2, 2) == tuple(told.count("-version") for told in (first, second))
    install(program.read_text() + "# another build")
    assert 1 == (await questions()).count("-hide_banner -encoders")


async def test_no_device_is_offered_where_none_is(executor: FfmpegExecutor) -> None:
    """This ffmpeg lists encoders of devices; those that are not here are not offered."""
    listed = ffmpeg("-hide_banner", "-encoders").decode()
    assert "nvenc" in listed or "vaapi" in listed
    hardware = {name for name in executor.encoders if name.endswith(("_nvenc", "_qsv", "_vaapi", "_amf"))}
    assert hardware == executor.abilities.hardware
    assert bool(hardware) == bool(executor.models)
