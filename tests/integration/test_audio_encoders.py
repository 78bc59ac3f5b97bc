"""The table of sound encoders, held against the encoders themselves."""

from __future__ import annotations

import array
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from coordinator.miner.executors.ffmpeg.executor import find_ffmpeg
from coordinator.miner.executors.media.audio_encoders import (
    ENCODERS,
    MP3_RATE_IN_MP4,
    SourceSound,
    bits_per_second,
    settings_for,
    sound_in,
)
from coordinator.miner.executors.media.channel_layouts import (
    SPEAKERS,
    channels_of,
    conversion,
    lost_speakers,
    nearest_layout,
)

MUXERS = {"libvorbis": "ogg", "libopus": "ogg", "aac": "ipod", "libmp3lame": "mp3", "flac": "flac"}
COMMON_RATES = (7_350, 8_000, 11_025, 16_000, 22_050, 32_000, 44_056, 44_100, 48_000, 50_001, 96_000, 192_000)
WINDOW = 0.02
"""Seconds in which one channel speaks."""


def ffmpeg(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    program = find_ffmpeg()
    assert program is not None
    command = [program, "-hide_banner", "-nostdin", "-v", "error", *arguments]
    return subprocess.run(command, capture_output=True, timeout=120)


def encode_all(source: str, encoder: str, outputs: Iterable[tuple[str, ...]]) -> str:
    """The complaints of one ffmpeg that encodes one source in many ways."""
    muxer = MUXERS.get(encoder, "wav")
    each = [part for options in outputs for part in (*options, "-f", muxer, "-y", "/dev/null")]
    done = ffmpeg("-f", "lavfi", "-i", source, *each)
    return done.stderr.decode() if done.returncode else ""


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_corner_of_the_table_encodes(encoder: str) -> None:
    """The least and the greatest bit rate at each rate, in each number of channels, are its encoder's."""
    able = ENCODERS[encoder]
    rates = able.rates if isinstance(able.rates, tuple) else COMMON_RATES
    outputs = []
    for rate in rates:
        for layout in able.layouts or ("mono", "stereo", "5.1(side)", "cube"):
            for asked in (1, 999_000_000):
                settings = settings_for(encoder, SourceSound(rate, layout), bitrate=asked)
                filters = f"aresample={settings.rate},aformat=channel_layouts={layout}"
                outputs.append(("-af", filters, *settings.options))
    for start in range(0, len(outputs), 40):
        assert "" == encode_all("sine=d=0.05", encoder, outputs[start : start + 40])


def test_the_lists_of_rates_are_the_encoders_own() -> None:
    """What ffmpeg says of an encoder's sample rates is what the table says."""
    for encoder in ("libopus", "aac", "libmp3lame"):
        told = ffmpeg("-h", f"encoder={encoder}").stdout.decode()
        listed = re.search(r"Supported sample rates: ([\d ]+)", told)
        assert listed is not None
        assert sorted(map(int, listed[1].split())) == list(ENCODERS[encoder].rates)


def test_the_layouts_are_the_ones_of_ffmpeg() -> None:
    """Each of ffmpeg's layouts has the speakers that ffmpeg lists; older versions know fewer."""
    told = ffmpeg("-layouts").stdout.decode().partition("DECOMPOSITION")[2]
    listed = {
        name: tuple(parts.split("+")) for name, parts in re.findall(r"^(\S+) +(\S+)$", told, re.MULTILINE)
    }
    assert len(listed) > 20
    assert listed == {name: speakers for name, speakers in SPEAKERS.items() if name in listed}


@pytest.mark.parametrize("layout", SPEAKERS)
def test_each_speaker_is_heard_after_mixing(layout: str, tmp_path: Path) -> None:
    """No speaker is lost on the way to Opus or to mono, but that of low frequencies where it has no place."""
    speakers = SPEAKERS[layout]
    parts = [f"0.9*between(t,{n * WINDOW},{(n + 1) * WINDOW})" for n in range(len(speakers))]
    source = f"aevalsrc='{'|'.join(parts)}':s=8000:d={len(speakers) * WINDOW}:c={layout}"
    targets = sorted({"mono", nearest_layout(layout, ENCODERS["libopus"].layouts or ())})
    outputs = []
    for target in targets:
        chain = ",".join(conversion(layout, target)) or "anull"
        outputs += ["-af", chain, "-c:a", "pcm_f32le", "-f", "f32le", str(tmp_path / target)]
    assert 0 == ffmpeg("-f", "lavfi", "-i", source, *outputs).returncode
    for target in targets:
        samples = array.array("f", (tmp_path / target).read_bytes())
        width = int(8000 * WINDOW) * channels_of(target)
        middles = (n * width + width // 4 for n in range(len(speakers)))
        heard = [max(map(abs, samples[middle : middle + width // 2])) for middle in middles]
        expected = [not speaker.startswith("LFE") or "LFE" in SPEAKERS[target] for speaker in speakers]
        assert expected == [peak > 0.02 for peak in heard], (target, heard)
        assert max(heard) <= 0.91


@pytest.mark.parametrize(
    ("encoder", "source", "asked", "expected"),
    [
        ("libvorbis", (8_000, "mono"), {}, (8_000, "mono", 42_000)),
        ("libvorbis", (44_100, "stereo"), {"bitrate": 192_000}, (44_100, "stereo", 192_000)),
        ("libvorbis", (96_000, "mono"), {"channels": 2}, (96_000, "stereo", None)),
        ("libvorbis", (384_000, "mono"), {}, (200_000, "mono", None)),
        ("libopus", (44_100, "5.1(side)"), {"bitrate": 384_000}, (48_000, "5.1", 384_000)),
        ("libopus", (11_025, "2.1"), {}, (12_000, "5.1", 128_000)),
        ("libopus", (48_000, "stereo"), {"bitrate": 4_000_000}, (48_000, "stereo", 512_000)),
        ("aac", (192_000, "quad"), {}, (96_000, "5.0", 128_000)),
        ("aac", (7_350, "1 channels (FL)"), {}, (7_350, "mono", 44_100)),
        ("libmp3lame", (44_056, "22.2"), {}, (44_100, "stereo", 128_000)),
        ("libmp3lame", (16_000, "mono"), {"bitrate": 320_000}, (16_000, "mono", 160_000)),
        ("libmp3lame", (8_000, "mono"), {"muxer": "mp4"}, (MP3_RATE_IN_MP4, "mono", 128_000)),
        ("flac", (44_056, "3 channels"), {}, (44_056, "3 channels", None)),
        ("flac", (48_000, "22.2"), {}, (48_000, "7.1", None)),
        ("pcm_s16le", (192_000, "22.2"), {}, (192_000, "22.2", None)),
    ],
)
def test_the_nearest(
    encoder: str, source: tuple[int, str], asked: dict[str, Any], expected: tuple[int, str, int | None]
) -> None:
    """A rate, a layout or a bit rate that an encoder lacks becomes the nearest that it has."""
    settings = settings_for(encoder, SourceSound(*source), **asked)
    assert expected == (settings.rate, settings.layout, settings.bitrate)


def test_differences_are_told() -> None:
    """Each field that differs from the request has its warning; what nobody asked for has none."""
    settings = settings_for(
        "libmp3lame", SourceSound(44_100, "5.1"), sample_rate=7_000, bitrate=bits_per_second("192k")
    )
    assert (
        "sample_rate: mp3 has no 7000; it is 8000",
        "channels: mp3 has no 5.1; it is stereo",
        "bitrate: mp3 has no 192k at 8000 samples per second in stereo; it is 64k",
    ) == settings.warnings
    assert () == settings_for("libopus", SourceSound(44_100, "5.1(side)")).warnings
    assert () == settings_for("libmp3lame", SourceSound(44_100, "5.1"), channels=1).warnings
    unknown = settings_for("libopus", SourceSound(48_000, "4 channels"))
    assert ("channels: the input does not say where its 4 channels belong; it is quad",) == unknown.warnings
    lossless = settings_for("flac", SourceSound(48_000, "mono"), bitrate=96_000)
    assert ("bitrate: flac is lossless and has none; it was ignored",) == lossless.warnings


@pytest.mark.parametrize(
    ("layout", "channels"),
    [
        ("5.1(side)", 6),
        ("3 channels", 3),
        ("2 channels (FL+LFE)", 2),
        ("ambisonic 1", 4),
        ("ambisonic 2+stereo", 11),
    ],
)
def test_channels_are_counted(layout: str, channels: int) -> None:
    """Every form in which ffmpeg writes a layout has its number of channels."""
    assert channels == channels_of(layout)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  Stream #0:1: Audio: ac3, 44100 Hz, 5.1(side), fltp, 448 kb/s", SourceSound(44_100, "5.1(side)")),
        (
            "  Stream #0:0: Audio: pcm_s16le, 8000 Hz, 2 channels (FL+LFE), s16",
            SourceSound(8_000, "2 channels (FL+LFE)"),
        ),
        ("  Stream #0:0: Audio: mp3, 0 channels", None),
        ("  Stream #0:0: Video: h264, 320x240, 25 fps", None),
        ("  Stream #0:0: Audio: aac, 44100 Hz, nonsense, fltp", None),
    ],
)
def test_streams_are_read_from_ffmpegs_words(line: str, expected: SourceSound | None) -> None:
    """Rate and layout of a sound are in the line about its stream; other lines have none."""
    assert expected == sound_in(line)


def test_speakers_without_a_place_are_counted() -> None:
    """Sides may become backs, and a centre both fronts; without that, a speaker is lost."""
    assert 0 == lost_speakers("5.1(side)", "5.1")
    assert 0 == lost_speakers("4.0", "5.0")
    assert 1 == lost_speakers("2.1", "stereo")
    assert 4 == lost_speakers("5.1", "stereo")
    assert 3 == lost_speakers("3 channels", "3.0")
