"""The arguments of ffmpeg for a payload and its input: sizes, colours, encoders, tracks."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from coordinator.miner.executors import ExecutorError
from coordinator.miner.executors.errors import INVALID_PAYLOAD, OUTPUT_TOO_LARGE, UNSUPPORTED
from coordinator.miner.executors.ffmpeg.abilities import Abilities, Plan
from coordinator.miner.executors.ffmpeg.arguments import plans_for
from coordinator.miner.executors.ffmpeg.colours import peak_of
from coordinator.miner.executors.ffmpeg.encoders import ENCODERS
from coordinator.miner.executors.ffmpeg.pixel_formats import PixelFormat
from coordinator.miner.executors.ffmpeg.sizes import size_of
from coordinator.miner.executors.ffmpeg.source import Mastering, Pictures, Source, Track, read
from coordinator.miner.executors.ffmpeg.tone_map import nits_to_pq, pq_to_nits, table, to_bt709
from coordinator.miner.executors.media.audio_encoders import SourceSound
from coordinator.miner.executors.media.languages import same_language
from coordinator.services.video_transcoding import SERVICE, TranscodeMedia
from tests.harness.cases import every

REF = "blob:" + "0" * 64
FAMILIES = ("nvenc", "qsv", "vaapi", "amf", "videotoolbox")
SOFTWARE = frozenset(name for names in ENCODERS.values() for name in names if not name.endswith("_nvenc"))
HARDWARE = frozenset(f"{codec}_{family}" for codec in ("h264", "hevc", "av1") for family in FAMILIES)
EVERY = Abilities(
    encoders=SOFTWARE | HARDWARE,
    formats={
        name: frozenset({"yuv420p", "yuv420p10le", "yuv422p", "yuv444p"})
        for name in ("libx264", "libx265", "libvpx-vp9", "libaom-av1")
    }
    | {"libsvtav1": frozenset({"yuv420p", "yuv420p10le"})}
    | {name: frozenset({"nv12"} if name.startswith("h264") else {"nv12", "p010le"}) for name in HARDWARE},
    filters=frozenset({"bwdif", "sidedata", "overlay", "subtitles"}),
    devices={f"{codec}_vaapi": "/dev/dri/renderD128" for codec in ("h264", "hevc", "av1")},
    cues_to_front=True,
    draws_text=True,
)


def pictures(size: str = "1920x1080", pixel_format: str = "yuv420p", **more: Any) -> Pictures:
    width, height = (int(side) for side in size.split("x"))
    aspect = more.pop("pixel_aspect", Fraction(1))
    return Pictures(width, height, aspect, PixelFormat.of(pixel_format), **more)


HDR = pictures(
    pixel_format="yuv420p10le", matrix="bt2020nc", primaries="bt2020", transfer="smpte2084", range="tv"
)


def plans(source: Source | Pictures, abilities: Abilities = EVERY, **parameters: Any) -> list[Plan]:
    payload = SERVICE.payload.validate_python({"input_url": REF, **parameters})
    found = source if isinstance(source, Source) else Source(source, videos=1)
    return plans_for(payload, found, abilities)


def after(option: str, arguments: list[str]) -> str:
    """The value of an option; "" if it is not there."""
    return arguments[arguments.index(option) + 1] if option in arguments else ""


# --- sizes --------------------------------------------------------------------------------------------------


@every(
    ("source", "aspect", "resolution", "fit", "enlarge", "expected"),
    [
        ("240x320", 1, "640x360", "inside", True, (270, 360)),
        ("1920x1080", 1, "1280x720", "inside", True, (1280, 720)),
        ("1920x1080", 1, "640x640", "inside", True, (640, 360)),
        ("1080x1920", 1, "1280x720", "cover", True, (1280, 720)),
        ("1080x1920", 1, "1280x720", "stretch", True, (1280, 720)),
        ("1080x1920", 1, "1280x", "inside", True, (1280, 2276)),
        ("1920x1080", 1, "x480", "cover", True, (854, 480)),
        ("320x240", 1, "640x480", "inside", False, (320, 240)),
        ("320x240", 1, "640x640", "cover", False, (240, 240)),
        ("320x240", 1, "640x120", "stretch", False, (320, 120)),
        ("720x576", Fraction(64, 45), None, "inside", True, (720, 576)),
        ("720x576", Fraction(64, 45), "x576", "inside", True, (1024, 576)),
        ("720x576", Fraction(64, 45), "640x640", "inside", True, (640, 360)),
        ("1440x1080", Fraction(4, 3), "1280x720", "inside", True, (1280, 720)),
        ("161x121", 1, None, "inside", True, (160, 120)),
        ("1x1", 1, None, "inside", True, (2, 2)),
    ],
)
def test_a_picture_has_the_size_of_its_fit(
    source: str, aspect: Any, resolution: str | None, fit: str, enlarge: bool, expected: tuple[int, int]
) -> None:
    """Shapes are kept unless they may be stretched; sides are even; pixels become square with a size."""
    made = size_of(
        pictures(source, pixel_aspect=Fraction(aspect)),
        *(resolution, fit),
        enlarge=enlarge,
        step=2,
        least=2,
        max_pixels=10**8,
    )
    assert expected == made.frame
    assert made.square == (resolution is not None)


def test_a_side_that_follows_from_the_other_has_a_limit() -> None:
    """A column of pixels in full width would be a picture of gigabytes: it is refused."""
    with pytest.raises(ExecutorError) as caught:
        plans(pictures("10x9000"), resolution="4096x")
    assert caught.value.code == OUTPUT_TOO_LARGE
    assert "4096x3686400" in caught.value.detail


@pytest.mark.parametrize(("codec", "least"), [("h264", 10), ("h265", 16), ("av1", 64), ("vp9", 10)])
def test_tiny_pictures_are_laid_into_what_the_encoder_takes(codec: str, least: int) -> None:
    """An encoder with a least size gets the picture on black."""
    plan = plans(pictures("320x320"), resolution="10x10", codec=codec)[0]
    assert f"pad={least}:{least}" in after("-filter:v", plan.after)


# --- colours ------------------------------------------------------------------------------------------------


@every(
    ("parameters", "pixel_format", "transfer", "mapped"),
    [
        ({}, "yuv420p", "bt709", True),
        ({"codec": "h265"}, "yuv420p10le", "smpte2084", False),
        ({"codec": "av1"}, "yuv420p10le", "smpte2084", False),
        ({"output_format": "webm"}, "yuv420p10le", "smpte2084", False),
        ({"codec": "h265", "bit_depth": 8}, "yuv420p", "bt709", True),
        ({"codec": "h265", "hdr": "tone_map"}, "yuv420p10le", "bt709", True),
        ({"codec": "h265", "hdr": "keep"}, "yuv420p10le", "smpte2084", False),
        ({"bit_depth": 10}, "yuv420p10le", "bt709", True),
    ],
)
def test_hdr_is_kept_with_its_bits_or_mapped(
    parameters: dict[str, Any], pixel_format: str, transfer: str, mapped: bool
) -> None:
    """Never 8 bits that say PQ: the tags, the bits and the table of colours belong together."""
    plan = plans(HDR, **parameters)[0]
    filters = after("-filter:v", plan.after)

    assert f"format={pixel_format}," in filters
    assert transfer == after("-color_trc", plan.after)
    assert mapped == ("lut3d" in filters) == (plan.table is not None)
    assert mapped == ("HDR is tone-mapped to BT.709" in plan.warnings)
    assert mapped == ("MASTERING_DISPLAY_METADATA" in filters)


def test_what_an_encoder_lacks_is_for_another_miner() -> None:
    """An x265 of 8 bits tone-maps by itself, and refuses to keep."""
    eight = Abilities(EVERY.encoders, {"libx265": frozenset({"yuv420p"})}, EVERY.filters)
    (plan,) = plans(HDR, eight, codec="h265")
    assert plan.table is not None
    with pytest.raises(ExecutorError) as caught:
        plans(HDR, eight, codec="h265", hdr="keep")
    assert (UNSUPPORTED, True) == (caught.value.code, caught.value.retryable)


def test_dolby_vision_without_a_base_is_refused() -> None:
    """Its profile 5 has colours that no other decoder knows; other profiles have an HDR10 picture."""
    with pytest.raises(ExecutorError) as caught:
        plans(Source(HDR, videos=1, dolby_vision=5), codec="h265")
    assert caught.value.code == UNSUPPORTED
    (plan,) = plans(Source(HDR, videos=1, dolby_vision=8), codec="h265")
    assert "Dolby Vision" in plan.warnings[0]


def test_x265_is_told_of_the_film_s_brightness() -> None:
    """Older versions of ffmpeg don't pass it on. The units are x265's, 0.00002 and 0.0001 cd/m²."""
    mastering = Mastering((0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329), 0.0001, 1000.0)
    film = pictures(
        pixel_format="yuv420p10le", transfer="smpte2084", mastering=mastering, content_light=(900, 400)
    )
    (plan,) = plans(film, codec="h265")

    expected = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    assert ["hdr10=1", "repeat-headers=1", expected, "max-cll=900,400"] == after(
        "-x265-params", plan.after
    ).split(":")
    assert ("bt2020", "bt2020nc") == (after("-color_primaries", plan.after), after("-colorspace", plan.after))
    assert 900 == peak_of(film)


@every(
    ("size", "matrix", "expected"),
    [
        ("1920x1080", "unknown", "bt709"),
        ("720x1280", "unknown", "bt709"),
        ("640x480", "unknown", "smpte170m"),
        ("720x576", "unknown", "bt470bg"),
        ("1920x1080", "smpte170m", "smpte170m"),
        ("320x240", "bt709", "bt709"),
    ],
)
def test_the_matrix_is_said(size: str, matrix: str, expected: str) -> None:
    """Players guess by the size: what was guessed of the source is said of the output, whose size differs."""
    (plan,) = plans(pictures(size, matrix=matrix), resolution="100x100")
    assert (expected, "tv") == (after("-colorspace", plan.after), after("-color_range", plan.after))
    assert f"colorspace={expected}" in after("-filter:v", plan.after)


def test_pq_is_its_own_inverse_and_the_curve_keeps_middle_grey() -> None:
    """The reference values of BT.2100 and BT.2408: 100 cd/m² is 0.508, middle grey stays 18 % of white."""
    assert 0.5081 == pytest.approx(nits_to_pq(100), abs=1e-4)
    assert 203 == pytest.approx(pq_to_nits(nits_to_pq(203)))
    convert = to_bt709("smpte2084", 1000)
    grey = convert((nits_to_pq(36.54),) * 3)
    assert 0.18 ** (1 / 2.4) == pytest.approx(grey[0], abs=1e-3)
    assert 1.0 == pytest.approx(convert((nits_to_pq(1000),) * 3)[1], abs=1e-3)
    assert 0.0 == convert((0.0, 0.0, 0.0))[2]
    assert 0.75 == pytest.approx(nits_to_pq(to_hlg_nits(0.75)) / nits_to_pq(203) * 0.75, abs=0.01)


def to_hlg_nits(code: float) -> float:
    """The light of a grey in HLG on a display of 1,000 cd/m²: BT.2100, table 5."""
    from math import exp

    return float(1000 * ((exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12) ** 1.2)


def test_the_table_of_colours_is_a_cube() -> None:
    """33 × 33 × 33 lines after the header, from black to white, red first."""
    lines = list(table("arib-std-b67"))
    assert ("LUT_3D_SIZE 33\n", 33**3 + 1) == (lines[0], len(lines))
    assert ("0.000000 0.000000 0.000000\n", "1.000000 1.000000 1.000000\n") == (lines[1], lines[-1])
    red = [float(part) for part in lines[33].split()]
    assert red[0] > red[1]
    assert red[0] > red[2]


# --- encoders -----------------------------------------------------------------------------------------------


@every(
    ("codec", "family", "expected"),
    [
        ("h264", "nvenc", "-c:v h264_nvenc -preset p7 -rc vbr -cq 30 -b:v 4000000"),
        ("h265", "qsv", "-c:v hevc_qsv -preset slow -global_quality 30 -b:v 4000000 -maxrate 4000000"),
        ("h264", "vaapi", "-c:v h264_vaapi -rc_mode QVBR -global_quality 30 -b:v 4000000 -maxrate 4000000"),
        ("av1", "vaapi", "-c:v av1_vaapi -rc_mode QVBR -global_quality 150 -b:v 4000000 -maxrate 4000000"),
        ("h265", "amf", "-c:v hevc_amf -quality quality -rc qvbr -qvbr_quality_level 30 -b:v 4000000"),
        ("h264", "videotoolbox", "-c:v h264_videotoolbox -q:v 41 -maxrate 4000000"),
    ],
)
def test_hardware_has_its_own_words_for_quality(codec: str, family: str, expected: str) -> None:
    """Quality, speed and bit rate have other names and scales on each device; software is tried last."""
    only = SOFTWARE | {name for name in HARDWARE if name.endswith(family)}
    abilities = Abilities(only, EVERY.formats, EVERY.filters, EVERY.devices)
    made = plans(pictures(), abilities, codec=codec, encoder="hardware", crf=30, preset="slow", bitrate="4M")
    arguments = made[0].after

    start = arguments.index("-c:v")
    assert expected.split() == arguments[start : start + len(expected.split())]
    assert [True, *(False for _ in ENCODERS[codec])] == [plan.hardware for plan in made]
    filters = after("-filter:v", arguments)
    assert filters.endswith("format=nv12,hwupload" if family == "vaapi" else "format=nv12")
    assert made[0].before == (["-vaapi_device", "/dev/dri/renderD128"] if family == "vaapi" else [])


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["libx264"]),
        ({"encoder": "software", "codec": "av1"}, ["libsvtav1", "libaom-av1"]),
        ({"codec": "av1", "chroma": "4:4:4"}, ["libaom-av1"]),
        ({"codec": "h265_nvenc"}, ["hevc_nvenc", "libx265"]),
        (
            {"encoder": "hardware"},
            ["h264_nvenc", "h264_qsv", "h264_vaapi", "h264_amf", "h264_videotoolbox", "libx264"],
        ),
    ],
)
def test_encoders_are_tried_in_their_order(parameters: dict[str, Any], expected: list[str]) -> None:
    """Devices only where they are wanted, and then software, as devices fail for reasons of their own."""
    assert expected == [plan.encoder for plan in plans(pictures(), **parameters)]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"codec": "h265"}, ("hvc1", "+faststart", "")),
        ({"codec": "h265_nvenc"}, ("hvc1", "+faststart", "")),
        ({"codec": "h265", "output_format": "mkv"}, ("", "", "1")),
        ({"codec": "av1"}, ("", "+faststart", "")),
        ({"output_format": "webm"}, ("", "", "1")),
    ],
)
def test_files_have_what_players_need(parameters: dict[str, Any], expected: tuple[str, ...]) -> None:
    """Apple's tag of H.265, and the index in front of the content."""
    arguments = plans(pictures(), **parameters)[0].after
    assert expected == tuple(after(name, arguments) for name in ("-tag:v", "-movflags", "-cues_to_front"))


@every(
    ("size", "parameters", "expected", "warned"),
    [
        ("1920x1080", {"codec": "av1", "bitrate": "1"}, {"-b:v": "10000"}, ["bitrate"]),
        ("1920x1080", {"codec": "av1", "bitrate": "999M"}, {"-b:v": "100000000"}, ["bitrate"]),
        (
            "1920x1080",
            {"codec": "av1", "crf": 0, "bitrate": "4M"},
            {"-crf": "1", "-maxrate": "4000000"},
            ["crf"],
        ),
        ("1920x1080", {"codec": "av1", "crf": 15}, {"-svtav1-params": "aq-mode=0"}, []),
        ("1920x1080", {"codec": "av1", "crf": 16}, {"-svtav1-params": ""}, []),
        ("6400x3600", {"codec": "av1", "preset": "veryslow"}, {"-preset": "5"}, ["preset"]),
        ("6016x3384", {"codec": "av1", "preset": "veryslow"}, {"-preset": "2"}, []),
        ("16x16", {"codec": "h265", "bitrate": "999999999"}, {"-b:v": "20000000"}, ["bitrate"]),
        ("32x32", {"codec": "h265", "bitrate": "999999999"}, {"-b:v": "999999999"}, []),
        ("640x360", {"crf": 0}, {"-crf": "0", "-maxrate": ""}, []),
        ("640x360", {"crf": 0, "bitrate": "4M"}, {"-crf": "1", "-maxrate": "4000000"}, ["crf"]),
    ],
)
def test_values_are_the_nearest_that_the_encoder_has(
    size: str, parameters: dict[str, Any], expected: dict[str, str], warned: list[str]
) -> None:
    """Limits depend on the encoder and the frame: seen by running them. Each change is a warning."""
    plan = plans(pictures(size), **parameters)[0]
    assert expected == {option: after(option, plan.after) for option in expected}
    assert warned == [warning.partition(":")[0] for warning in plan.warnings]


@pytest.mark.parametrize(
    ("size", "codec", "expected"),
    [
        ("4096x10", "h265", "pad=4096:16"),
        ("4098x10", "h265", "pad=4098:32"),
        ("4098x10", "h264", "pad=4098:10"),
    ],
)
def test_a_long_and_narrow_picture_is_laid_on_black(size: str, codec: str, expected: str) -> None:
    """HEVC's levels for long pictures have no blocks of 16 pixels, and x265 refuses to start."""
    assert expected in after("-filter:v", plans(pictures(size), codec=codec)[0].after)


# --- tracks -------------------------------------------------------------------------------------------------

TRACKS = Source(
    pictures(),
    sounds=(
        Track(0, "ac3", "eng", SourceSound(48_000, "5.1(side)")),
        Track(1, "aac", "ger", SourceSound(44_100, "stereo")),
        Track(2, "dts", "", SourceSound(48_000, "5.1(side)")),
    ),
    subtitles=(Track(0, "subrip", "eng"), Track(1, "dvd_subtitle", "fre"), Track(2, "ass", "ger")),
    videos=1,
    attachments=1,
)


def mapped(arguments: list[str]) -> list[str]:
    return [arguments[at + 1] for at, option in enumerate(arguments) if option == "-map"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("first", ["0:a:0"]),
        ("none", []),
        ("all", ["0:a:0", "0:a:1", "0:a:2"]),
        ([2, "de"], ["0:a:2", "0:a:1"]),
        (["deu", 1], ["0:a:1"]),
    ],
)
def test_tracks_are_chosen_by_number_and_language(wanted: Any, expected: list[str]) -> None:
    """In the order of the request, each once; a language by any of its ISO 639 codes."""
    (plan,) = plans(TRACKS, audio_tracks=wanted)
    assert ["0:V:0", *expected] == mapped(plan.after)


def test_sound_is_copied_where_the_format_holds_it() -> None:
    """Otherwise it is encoded, and a warning says so."""
    (plan,) = plans(TRACKS, audio_tracks="all", audio_codec="copy")
    found = [after(f"-c:a:{number}", plan.after) for number in range(3)]
    assert ["copy", "copy", "aac"] == found
    assert "audio_codec: mp4 holds no dts; track 2 became aac" in plan.warnings


def test_subtitles_are_kept_as_the_format_holds_them() -> None:
    """mkv keeps all with their fonts; mp4 text only, without styles, and pictures are left out."""
    (mkv,) = plans(TRACKS, subtitles="keep", output_format="mkv")
    assert ["0:s:0", "0:s:1", "0:s:2", "0:t?"] == mapped(mkv.after)[2:]
    (mp4,) = plans(TRACKS, subtitles="keep")
    assert ["0:s:0", "0:s:2"] == mapped(mp4.after)[2:]
    assert ["mov_text", "mov_text"] == [after(f"-c:s:{number}", mp4.after) for number in range(2)]
    assert [
        "subtitles: mp4 keeps the text of track 2, not its styles",
        "subtitles: mp4 can't hold track 1, which is pictures (dvd_subtitle); it is left out",
    ] == mp4.warnings


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"subtitles": "keep", "subtitle_track": 1}, "mp4 can't hold track 1"),
        ({"subtitles": "burn", "subtitle_track": "it"}, "no subtitles it; the input has 0 (eng), 1 (fre)"),
        ({"audio_tracks": [7]}, "no track 7; the input has 0 (eng), 1 (ger), 2 (und)"),
        ({"operation": "extract_audio", "audio_track": "pl"}, "no track pl"),
    ],
)
def test_what_is_not_there_is_refused(parameters: dict[str, Any], words: str) -> None:
    """The words name what the input has."""
    with pytest.raises(ExecutorError) as caught:
        plans(TRACKS, **parameters)
    assert caught.value.code == INVALID_PAYLOAD
    assert words in caught.value.detail


def test_subtitles_are_drawn_as_text_or_as_pictures() -> None:
    """Text comes from a file of ours; pictures are scaled to the whole picture."""
    (text,) = plans(TRACKS, subtitles="burn", subtitle_track="de", resolution="1280x720")
    assert (2, True) == (
        text.text_track,
        "subtitles=filename=subtitles.ass" in after("-filter:v", text.after),
    )
    (drawn,) = plans(TRACKS, subtitles="burn", subtitle_track=1, resolution="1280x720")
    assert "[0:s:1]scale=1280:720[drawn]" in after("-filter_complex", drawn.after)
    with pytest.raises(ExecutorError) as caught:
        plans(TRACKS, Abilities(EVERY.encoders, EVERY.formats), subtitles="burn")
    assert (UNSUPPORTED, True) == (caught.value.code, caught.value.retryable)


def test_languages_have_several_codes() -> None:
    """ISO 639-1, 639-2/T and 639-2/B are one language; others are not."""
    assert all(same_language("de", other) for other in ("deu", "ger", "DE", "de-AT"))
    assert not any(same_language("de", other) for other in ("", "und", "dut", "en"))


# --- the source ---------------------------------------------------------------------------------------------

MESSAGES = """\
Input #0, matroska,webm, from 'file:input':
  Metadata:
    title           : x
                    :   Stream #0:9: Video: h264, yuv420p, 9x9
  Duration: 00:00:02.00, start: 0.000000, bitrate: 627 kb/s
  Stream #0:0: Video: mjpeg (Baseline), yuvj420p(pc), 600x600, 90k tbr, 90k tbn (attached pic)
  Stream #0:1(eng): Video: hevc (Main 10), yuv420p10le(tv, top first), 720x576, 25 fps, 50 tbr
    Side data:
      DOVI configuration record: version: 1.0, profile: 8, level: 6, rpu flag: 1, el flag: 0, bl flag: 1
  Stream #0:2[0x81](ger): Audio: ac3, 44100 Hz, 5.1(side), fltp, 448 kb/s
  Stream #0:3(fre): Subtitle: hdmv_pgs_subtitle (pgssub), 1920x1080
  Stream #0:4: Attachment: ttf
Stream mapping:
  Stream #0:1 -> #0:0 (hevc (native) -> wrapped_avframe (native))
[Parsed_showinfo_0 @ 0x1] n:   0 pts:      0 pts_time:0 fmt:yuv420p10le sar:16/11 s:720x576 i:P iskey:1 type:I
[Parsed_showinfo_0 @ 0x1]   side data - Mastering display metadata: has_primaries:1 has_luminance:1 \
r(0.6800,0.3200) g(0.2650,0.6900) b(0.1500 0.0600) wp(0.3127, 0.3290) min_luminance=0.000100, \
max_luminance=1000.000000
[Parsed_showinfo_0 @ 0x1]   side data - Content light level metadata: MaxCLL=1000, MaxFALL=400
[Parsed_showinfo_0 @ 0x1] color_range:tv color_space:bt2020nc color_primaries:bt2020 color_trc:smpte2084
[Parsed_showinfo_0 @ 0x1] n:   1 pts:     40 pts_time:0.04 fmt:yuv420p10le sar:16/11 s:720x576 i:T iskey:0
Output #0, null, to 'pipe:':
  Stream #0:0: Video: wrapped_avframe, yuv420p10le, 720x576 [SAR 16:11 DAR 20:11], q=2-31, 200 kb/s, 25 fps
"""


def test_ffmpeg_s_words_are_a_source() -> None:
    """Covers are no videos, tags can't pretend to be streams, and frames know better than the header."""
    source = read(MESSAGES)
    found = source.pictures
    assert found is not None

    assert (720, 576, Fraction(16, 11), 10) == (
        found.width,
        found.height,
        found.pixel_aspect,
        found.format.depth,
    )
    assert (True, True, "tv", 50.0) == (found.hdr, found.interlaced, found.range, found.fps)
    assert found.mastering == Mastering((0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329), 0.0001, 1000.0)
    assert (1000, 400) == found.content_light
    assert (Track(0, "ac3", "ger", SourceSound(44_100, "5.1(side)")),) == source.sounds
    assert (Track(0, "hdmv_pgs_subtitle", "fre"),) == source.subtitles
    assert (1, 1, 8) == (source.videos, source.attachments, source.dolby_vision)


@every(
    ("name", "depth", "rgb", "alpha"),
    [
        ("yuv420p", 8, False, False),
        ("nv12", 8, False, False),
        ("p010le", 10, False, False),
        ("yuva444p12le", 12, False, True),
        ("gbrp10le", 10, True, False),
        ("rgba64be", 16, True, True),
        ("gray10le", 10, False, False),
        ("pal8", 8, True, True),
        ("x2rgb10le", 10, True, False),
    ],
)
def test_names_of_pixel_formats_are_read(name: str, depth: int, rgb: bool, alpha: bool) -> None:
    """Bits, colours and transparency are in the name."""
    found = PixelFormat.of(name)
    assert (depth, rgb, alpha) == (found.depth, found.rgb, found.alpha)


# --- payloads -----------------------------------------------------------------------------------------------


@every(
    ("parameters", "member"),
    [
        ({"hdr": "keep"}, "hdr"),
        ({"hdr": "keep", "codec": "h265", "bit_depth": 8}, "hdr"),
        ({"encoder": "software", "codec": "h264_nvenc"}, "encoder"),
        ({"encoder": "hardware", "chroma": "4:4:4"}, "chroma"),
        ({"encoder": "hardware", "bit_depth": 10}, "bit_depth"),
        ({"subtitle_track": 0}, "subtitle_track"),
        ({"resolution": "9998x9998", "fit": "stretch"}, "resolution"),
    ],
)
def test_what_contradicts_itself_is_refused(parameters: dict[str, Any], member: str) -> None:
    """The words begin with the member that is to be changed."""
    problem = SERVICE.payload.validate_python({"input_url": REF, **parameters}).contradiction()
    assert problem is not None
    assert problem.startswith(f"{member}: ")


def test_hardware_is_needed_by_name() -> None:
    """A job for a device goes to miners whose encoder was tried; a codec ending in _nvenc to NVIDIA's."""
    needs = [
        SERVICE.payload.validate_python({"input_url": REF, **more}).needs()
        for more in (
            {},
            {"encoder": "hardware", "codec": "av1"},
            {"codec": "h264_nvenc", "encoder": "hardware"},
        )
    ]
    assert [(), ("video-encoder:av1",), ()] == [one.models for one in needs]
    assert [None, None, "nvidia"] == [one.gpu for one in needs]


def test_a_typed_body_means_its_format_s_codec() -> None:
    """The body for every format has h264 as its default; webm is vp9 all the same, and sound has none."""

    def body(**more: Any) -> TranscodeMedia:
        return TranscodeMedia.model_validate({"input_url": REF, **more})

    assert "hdr" in str(body(hdr="keep").contradiction())
    assert body(hdr="keep", output_format="webm").contradiction() is None
    assert body(hdr="keep", output_format="mp3").contradiction() is None
    assert ("video-encoder:vp9",) == body(encoder="hardware", output_format="webm").needs().models
    assert () == body(encoder="hardware", output_format="png").needs().models


@pytest.mark.parametrize(
    ("seconds", "fps", "expected"),
    [(2.0, 1, "round"), (1.0, 1, "round"), (0.9, 1, "pass"), (0.9, 2, "round"), (None, 1, "pass")],
)
def test_a_constant_rate_has_as_many_frames_as_fit(seconds: float | None, fps: int, expected: str) -> None:
    """A length is rounded to whole frames; what is shorter than one, or of unknown length, keeps its last."""
    filters = after("-filter:v", plans(pictures(seconds=seconds), fps=fps)[0].after)
    assert f"fps=fps={fps}:eof_action={expected}" in filters


def test_an_encoder_that_refuses_a_rate_gets_a_usual_one() -> None:
    """The clock of a container is no rate; other encoders leave the frames at their times."""
    clock = pictures(fps=90_000.0)
    av1 = plans(clock, codec="av1")[0]
    assert "fps=fps=60:" in after("-filter:v", av1.after)
    assert ["fps: the input names no rate that av1 can have; it became 60"] == av1.warnings
    (h264,) = plans(clock)
    assert "fps=" not in after("-filter:v", h264.after)


def test_other_videos_of_a_file_are_not_silently_left_out() -> None:
    """A warning says that the first one was taken."""
    (plan,) = plans(Source(pictures(), videos=3))
    assert ["the first of the input's 3 videos is taken"] == plan.warnings
