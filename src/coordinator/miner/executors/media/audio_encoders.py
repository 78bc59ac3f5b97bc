"""The sample rates, channel layouts and bit rates of ffmpeg's sound encoders, and the nearest of each. Pure.

The executors of `audio_processing` and `video_transcoding` ask `settings_for`, so that every value that their
schemas accept can be encoded. The limits are tried on the encoders themselves in
tests/integration/test_audio_encoders.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from coordinator.miner.executors.media.channel_layouts import (
    channels_of,
    conversion,
    lost_speakers,
    nearest_layout,
    speakers_of,
)

BitRates = Callable[[int, int], range | tuple[int, ...] | None]
"""The bits per second at a rate with so many channels: a range, one of some, or None if it has no choice."""


@dataclass(frozen=True, slots=True)
class AudioEncoder:
    """An encoder's abilities. None: whatever comes."""

    codec: str
    """Its name in messages."""
    rates: tuple[int, ...] | range
    """Samples per second."""
    layouts: tuple[str, ...] | None
    most_channels: int
    bitrates: BitRates | None = None
    """None: lossless."""
    padding: tuple[str, ...] = ()
    """Filters that fill up a sound that is too short for it."""


@dataclass(frozen=True, slots=True)
class SourceSound:
    """The sound before it is encoded: samples per second, and the channel layout in ffmpeg's words."""

    rate: int
    layout: str


@dataclass(frozen=True, slots=True)
class SoundSettings:
    """What an encoder is given."""

    encoder: str
    rate: int
    layout: str
    bitrate: int | None
    """Bits per second; None if the encoder has no choice of them."""
    filters: tuple[str, ...]
    """ffmpeg's filters, after all others, in a graph of their own or at a chain's end."""
    options: tuple[str, ...]
    """ffmpeg's options of the output, with the encoder."""
    padding: tuple[str, ...]
    """ffmpeg's filters behind all others, for an encoder that does not take every length."""
    warnings: tuple[str, ...]
    """How it differs from the request, each as `field: difference`."""


# --- the encoders -------------------------------------------------------------------------------------------
_VORBIS_LIMITS: Final = (
    # At least so many samples per second: bits per second of mono, of stereo, of each of more channels.
    (8_000, (8_000, 42_000), (12_000, 84_000), (8_000, 42_000)),
    (9_000, (12_000, 50_000), (16_000, 100_000), (12_000, 50_000)),
    (15_000, (16_000, 100_000), (24_000, 200_000), (16_000, 100_000)),
    (19_000, (16_000, 90_000), (30_000, 180_000), (16_000, 90_000)),
    (26_000, (30_000, 190_000), (36_000, 380_000), (30_000, 190_000)),
    (40_000, (32_000, 240_000), (45_000, 500_000), (32_000, 240_000)),
)
"""libvorbis 1.3.7, lib/modes/setup_*.h: `rate_mapping`."""
VORBIS_MANAGED_RATE: Final = 50_000
"""Above this many samples per second libvorbis takes a quality, and no bit rate."""
_VORBIS_QUALITIES: Final = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)
"""Nominal kbit/s of stereo at the qualities 0 to 10."""
_MP3_1: Final = tuple(1000 * k for k in (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320))
_MP3_2: Final = tuple(1000 * k for k in (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160))
_MP3_2_5: Final = tuple(1000 * k for k in (8, 16, 24, 32, 40, 48, 56, 64))
_XIPH_LAYOUTS: Final = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")


def _vorbis(rate: int, channels: int) -> range | None:
    if rate > VORBIS_MANAGED_RATE:
        return None
    _, mono, stereo, more = next(row for row in reversed(_VORBIS_LIMITS) if rate >= row[0])
    low, high = {1: mono, 2: stereo}.get(channels, (more[0] * channels, more[1] * channels))
    return range(low, high + 1)


def _mp3(rate: int, channels: int) -> tuple[int, ...]:
    """ISO/IEC 11172-3 §2.4.2.3, 13818-3 §2.4.2.3; below 16 kHz the common extension MPEG 2.5."""
    if rate >= 32_000:
        return _MP3_1
    return _MP3_2 if rate >= 16_000 else _MP3_2_5


def _aac(rate: int, channels: int) -> range:
    """A frame of 1,024 samples has at most 6,144 bits a channel (ISO/IEC 14496-3 §4.5.3.1)."""
    return range(8_000 * channels, max(6 * rate, 8_000) * channels + 1)


def _opus(rate: int, channels: int) -> range:
    """RFC 6716 §2.1.1, and libopus's upper limit."""
    return range(6_000 * channels, 256_000 * channels + 1)


_FLAC_BLOCKS: Final = ("apad=whole_len=16", "asetnsamples=n=4096:p=0")
"""Its blocks are what comes at a time, 16 samples at least (RFC 9639 §8.2)."""

ENCODERS: Final = {
    "libvorbis": AudioEncoder("vorbis", range(8_000, 200_001), _XIPH_LAYOUTS, 8, _vorbis),
    "libopus": AudioEncoder("opus", (8_000, 12_000, 16_000, 24_000, 48_000), _XIPH_LAYOUTS, 8, _opus),
    "aac": AudioEncoder(
        "aac",
        (7350, 8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000),
        # The standard's own; a layout described in the stream (PCE) plays in few players.
        ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1"),
        8,
        _aac,
    ),
    "libmp3lame": AudioEncoder(
        "mp3",
        (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
        ("mono", "stereo"),
        2,
        _mp3,
    ),
    "flac": AudioEncoder("flac", range(1, 1_048_576), None, 8, padding=_FLAC_BLOCKS),
    "pcm_s16le": AudioEncoder("wav", range(1, 2**31), None, 65_535),
}
_MP4_MUXERS: Final = ("mp4", "mov", "ipod", "3gp")
MP3_RATE_IN_MP4: Final = 16_000
"""mp4 has no object type for MPEG 2.5: ffmpeg's muxer refuses lower rates of mp3."""


# --- the nearest --------------------------------------------------------------------------------------------
def settings_for(
    encoder: str,
    source: SourceSound,
    *,
    muxer: str = "",
    sample_rate: int | None = None,
    channels: int | None = None,
    bitrate: int | None = None,
    default_bitrate: int = 128_000,
    bitrate_field: str = "bitrate",
) -> SoundSettings:
    """The settings nearest to a request for one of ENCODERS. What is None is not asked for.

    A rate that the encoder lacks becomes its next higher one, or its highest; a layout the one with a place
    for most of its speakers; a bit rate the nearest. A warning names each difference from the request, and
    a layout with fewer speakers. Raises KeyError for another encoder, ValueError for an unknown layout.
    """
    able = ENCODERS[encoder]
    warnings: list[str] = []
    # 1. Samples per second.
    rates = able.rates
    if able.codec == "mp3" and muxer in _MP4_MUXERS:
        rates = tuple(one for one in rates if one >= MP3_RATE_IN_MP4)
    rate = _nearest_rate(sample_rate or source.rate, rates)
    if sample_rate is not None and rate != sample_rate:
        warnings.append(f"sample_rate: {able.codec} has no {sample_rate}; it is {rate}")
    # 2. Channels.
    layout = _layout(able, source.layout, channels)
    if channels is None and (problem := _changed(able, source.layout, layout)):
        warnings.append(problem)
    # 3. Bits per second.
    wanted = bitrate or default_bitrate
    options: tuple[str, ...]
    if able.bitrates is None:
        used, options = None, ()
        if bitrate is not None:
            warnings.append(f"{bitrate_field}: {able.codec} is lossless and has none; it was ignored")
    elif (choices := able.bitrates(rate, channels_of(layout))) is None:
        used, options = None, ("-q:a", str(_vorbis_quality(wanted, channels_of(layout))))
        if bitrate is not None:
            warnings.append(
                f"{bitrate_field}: {able.codec} has no bit rates at {rate} samples per second; "
                f"it has the quality that is nearest to {_short(bitrate)}"
            )
    else:
        used = _nearest_bitrate(wanted, choices)
        options = ("-b:a", str(used))
        if bitrate is not None and used != bitrate:
            warnings.append(
                f"{bitrate_field}: {able.codec} has no {_short(bitrate)} at {rate} samples per second "
                f"in {layout}; it is {_short(used)}"
            )
    return SoundSettings(
        encoder=encoder,
        rate=rate,
        layout=layout,
        bitrate=used,
        filters=conversion(source.layout, layout),
        options=("-c:a", encoder, *options, "-ar", str(rate)),
        padding=able.padding,
        warnings=tuple(warnings),
    )


def bits_per_second(written: str) -> int:
    """A bit rate as the schemas write it: `192k`, `4M`, `64000`."""
    factor = {"k": 1000, "M": 1_000_000}.get(written[-1:], 1)
    return int(written.rstrip("kM")) * factor


def _nearest_rate(rate: int, choices: tuple[int, ...] | range) -> int:
    if rate in choices:
        return rate
    if isinstance(choices, range):
        return min(max(rate, choices[0]), choices[-1])
    # A higher rate keeps all that is heard.
    return min((one for one in choices if one > rate), default=max(choices))


def _nearest_bitrate(bitrate: int, choices: tuple[int, ...] | range) -> int:
    if isinstance(choices, range):
        return min(max(bitrate, choices[0]), choices[-1])
    return min(choices, key=lambda one: (abs(one - bitrate), one))


def _layout(able: AudioEncoder, layout: str, channels: int | None) -> str:
    if channels is not None:
        return nearest_layout(layout, ("mono", "stereo")[channels - 1 : channels])
    if able.layouts is not None:
        return nearest_layout(layout, able.layouts)
    return layout if channels_of(layout) <= able.most_channels else nearest_layout(layout, _XIPH_LAYOUTS)


def _changed(able: AudioEncoder, layout: str, made: str) -> str | None:
    """What the client should know of a layout that it did not ask for."""
    if layout == made or (channels_of(layout) == 1 and made == "mono"):
        return None
    if speakers_of(layout) is None:
        return (
            f"channels: the input does not say where its {channels_of(layout)} channels belong; it is {made}"
        )
    if lost_speakers(layout, made) or channels_of(layout) != channels_of(made):
        return f"channels: {able.codec} has no {layout}; it is {made}"
    return None


def _vorbis_quality(bitrate: int, channels: int) -> int:
    stereo = bitrate * 2 / channels / 1000
    return min(range(len(_VORBIS_QUALITIES)), key=lambda one: abs(_VORBIS_QUALITIES[one] - stereo))


def _short(bitrate: int) -> str:
    return f"{bitrate // 1000}k" if bitrate % 1000 == 0 else str(bitrate)


# --- ffmpeg's messages --------------------------------------------------------------------------------------
_RATE_AND_LAYOUT: Final = re.compile(r", (\d{1,7}) Hz, ([^,]{1,200}?)(?:,|$)")


def sound_in(stream_line: str) -> SourceSound | None:
    """The sound that a line of ffmpeg's describes: `  Stream #0:1: Audio: ac3, 44100 Hz, 5.1(side), …`."""
    _, found, described = stream_line.partition(" Audio: ")
    match = _RATE_AND_LAYOUT.search(described) if found else None
    if match is None:
        return None
    try:
        channels_of(match[2])
    except ValueError:
        return None
    return SourceSound(int(match[1]), match[2])
