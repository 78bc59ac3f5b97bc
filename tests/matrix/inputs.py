"""Inputs of many kinds, which ffmpeg makes: rates, layouts, sample formats, containers, tags, lengths."""

from __future__ import annotations

import subprocess
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SECONDS: Final = 0.4


@dataclass(frozen=True, slots=True)
class Input:
    """A file, by what is odd about it, and what it holds."""

    name: str
    suffix: str
    arguments: tuple[str, ...] = ()
    """ffmpeg's, between the program and the output; none for a file that is written otherwise."""
    sound: bool = True
    pictures: bool = False
    seconds: float = SECONDS
    silent: bool = False
    languages: tuple[str, ...] = ("",)
    """Of the tracks of sound, if there is sound."""
    texts: tuple[str, ...] = ()
    """Languages of the subtitles."""


def _tone(
    rate: int = 48_000, seconds: float = SECONDS, channels: int = 1, layout: str = ""
) -> tuple[str, ...]:
    each = "|".join(f"0.3*sin({2500 + 100 * number}*t)" for number in range(channels))
    place = f":c={layout}" if layout else ""
    return ("-f", "lavfi", "-i", f"aevalsrc={each}:s={rate}:d={seconds:.6f}{place}")


def _pictures(size: str = "64x48", seconds: float = SECONDS) -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"testsrc2=size={size}:rate=10:duration={seconds}")


_STEREO: Final = _tone(44_100, channels=2)
_H264: Final = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
_TAGS: Final = (
    "-metadata",
    "title=Grüße \u2603\nStream #0:0: Audio: none, 1 Hz",
    "-metadata",
    "artist=\u65e5\u672c",
)

SOUNDS: Final = (
    Input("stereo", "wav", _STEREO),
    Input("telephone, 8 kHz mono", "wav", _tone(8_000)),
    Input("8-bit, 11025 Hz", "wav", (*_tone(11_025), "-c:a", "pcm_u8")),
    Input("24-bit, 96 kHz", "wav", (*_tone(96_000, channels=2), "-c:a", "pcm_s24le")),
    Input("32-bit, 192 kHz", "wav", (*_tone(192_000, channels=2), "-c:a", "pcm_s32le")),
    Input("64-bit float, 44056 Hz", "wav", (*_tone(44_056, channels=2), "-c:a", "pcm_f64le")),
    Input("A-law, 7350 Hz", "wav", (*_tone(7_350), "-c:a", "pcm_alaw")),
    Input("quad", "wav", _tone(channels=4, layout="quad")),
    Input("7.1", "flac", _tone(channels=8, layout="7.1")),
    Input("22.2", "wav", _tone(channels=24, layout="22.2")),
    Input("only a left channel", "wav", _tone(layout="FL")),
    Input("five channels of no layout", "wav"),
    Input("nine channels of no layout", "wav"),
    Input(
        "5.1(side) AC-3 beside a video",
        "mkv",
        (*_pictures(), *_tone(channels=6, layout="5.1(side)"), *_H264, "-c:a", "ac3"),
        pictures=True,
    ),
    Input("one sample", "wav", _tone(seconds=1 / 48_000), seconds=1 / 48_000),
    Input("10 ms", "wav", _tone(seconds=0.01), seconds=0.01),
    Input("silence", "flac", ("-f", "lavfi", "-i", f"anullsrc=r=44100:d={SECONDS}"), silent=True),
    Input(
        "cover and tags",
        "mp3",
        (
            *_STEREO,
            *_pictures(seconds=0.1),
            "-map",
            "0",
            "-map",
            "1",
            "-c:v",
            "mjpeg",
            "-disposition:v",
            "attached_pic",
            *_TAGS,
            "-id3v2_version",
            "3",
        ),
    ),
    Input("chapters", "m4a", (*_STEREO, "-i", "chapters.txt", "-map_metadata", "1", "-c:a", "aac")),
    Input("ADTS", "aac", (*_STEREO, "-c:a", "aac")),
    Input("WMA", "wma", (*_STEREO, "-c:a", "wmav2")),
    Input("AMR", "amr", (*_tone(8_000), "-c:a", "libopencore_amrnb")),
    Input("Opus", "opus", (*_tone(channels=2), "-c:a", "libopus")),
    Input(
        "two tracks of sound",
        "mkv",
        (
            *_pictures(),
            *_STEREO,
            *_tone(8_000),
            *_H264,
            "-map",
            "0",
            "-map",
            "1",
            "-map",
            "2",
            "-c:a",
            "aac",
            "-metadata:s:a:0",
            "language=deu",
        ),
        pictures=True,
        languages=("deu", ""),
    ),
)
"""Inputs with sound."""
VIDEOS: Final = (
    Input("video", "mp4", (*_pictures(), *_STEREO, *_H264, "-c:a", "aac"), pictures=True),
    Input(
        "video with subtitles",
        "mkv",
        (*_pictures(), *_STEREO, "-i", "words.srt", *_H264, "-c:a", "aac"),
        pictures=True,
        texts=("",),
    ),
    Input("video without sound", "mp4", (*_pictures(), *_H264), sound=False, pictures=True),
    Input(
        "video of odd sides",
        "mkv",
        (*_pictures("63x47"), *_tone(8_000), "-c:v", "ffv1", "-pix_fmt", "yuv444p", "-c:a", "pcm_s16le"),
        pictures=True,
    ),
    Input(
        "10-bit video, 22.05 kHz",
        "mkv",
        (
            *_pictures(),
            *_tone(22_050),
            "-c:v",
            "libx265",
            "-x265-params",
            "log-level=none",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p10le",
            "-c:a",
            "libvorbis",
            "-q:a",
            "3",
        ),
        pictures=True,
    ),
    Input(
        "video of one frame",
        "mp4",
        (*_pictures(seconds=0.1), *_H264),
        sound=False,
        pictures=True,
        seconds=0.1,
    ),
    Input(
        "transport stream, 5.1 AC-3",
        "ts",
        (*_pictures(), *_tone(channels=6, layout="5.1"), "-c:v", "mpeg2video", "-c:a", "ac3"),
        pictures=True,
    ),
    Input(
        "film in two languages",
        "mkv",
        (
            *(*_pictures("96x54"), *_STEREO, *_tone(channels=6, layout="5.1"), "-i", "words.srt"),
            *("-map", "0", "-map", "1", "-map", "2", "-map", "3", "-map", "3", *_H264),
            *("-c:a:0", "ac3", "-c:a:1", "flac", "-c:s:0", "srt", "-c:s:1", "ass"),
            *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=ger"),
            *("-metadata:s:s:0", "language=eng", "-metadata:s:s:1", "language=fre"),
        ),
        pictures=True,
        languages=("eng", "ger"),
        texts=("eng", "fre"),
    ),
    Input(
        "HDR10",
        "mkv",
        (
            *(*_pictures(), *_STEREO, "-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le"),
            *("-x265-params", "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"),
            *("-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc"),
            *("-c:a", "eac3"),
        ),
        pictures=True,
    ),
    Input(
        "interlaced, pixels that are not square",
        "mpg",
        (
            *(
                *_pictures("96x80"),
                "-vf",
                "setsar=16/15,interlace",
                "-c:v",
                "mpeg2video",
                "-flags",
                "+ildct+ilme",
            ),
            *("-r", "25"),
        ),
        sound=False,
        pictures=True,
    ),
    Input(
        "transparent",
        "webm",
        (
            *("-f", "lavfi", "-i", f"testsrc2=size=64x48:rate=10:duration={SECONDS},format=yuva420p"),
            *(*_tone(), "-c:v", "libvpx-vp9", "-deadline", "realtime", "-c:a", "libopus"),
        ),
        pictures=True,
    ),
    Input(
        "frames at odd times",
        "mkv",
        (
            *(
                "-f",
                "lavfi",
                "-i",
                "testsrc2=size=64x48:rate=30:duration=1,select='not(mod(n,7))+not(mod(n,5))'",
            ),
            *("-f", "lavfi", "-i", "sine=duration=1", "-fps_mode", "vfr", *_H264, "-c:a", "mp3"),
        ),
        pictures=True,
        seconds=1.0,
    ),
)
"""Inputs with pictures."""
_SUBTITLES: Final = "1\n00:00:00,000 --> 00:00:00,300\nGrüße\n"
_CHAPTERS: Final = ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=200\ntitle=Eins\n"


def make(program: str, one: Input, folder: Path) -> bytes:
    """The content of an input's file."""
    target = folder / f"{one.name.replace(' ', '-')}.{one.suffix}"
    if not one.arguments:
        _write_channels(target, {"five": 5, "nine": 9}[one.name.split()[0]])
        return target.read_bytes()
    (folder / "chapters.txt").write_text(_CHAPTERS)
    (folder / "words.srt").write_text(_SUBTITLES)
    command = [program, "-nostdin", "-v", "error", "-y", *one.arguments, str(target)]
    subprocess.run(command, cwd=folder, check=True)
    return target.read_bytes()


def _write_channels(target: Path, channels: int) -> None:
    """A WAV file whose header is older than layouts."""
    with wave.open(str(target), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(48_000)
        frames = (
            int(6000 * ((n // 50) % 2 * 2 - 1)).to_bytes(2, "little", signed=True) for n in range(19_200)
        )
        file.writeframes(b"".join(frame * channels for frame in frames))
