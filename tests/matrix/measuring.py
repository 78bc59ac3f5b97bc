"""What a media file really is: ffmpeg decodes all of it. It also says what is broken."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CONTAINER: Final = re.compile(r"^Input #0, (\S+), from", re.MULTILINE)
_SOUND: Final = re.compile(
    r"^  Stream #0:\d\S*: Audio: (\w+).*?, (\d+) Hz, ([^,]+), \w+(?: \(\d+ bit\))?(?:, (\d+) kb/s)?",
    re.MULTILINE,
)
_PICTURES: Final = re.compile(r"^  Stream #0:\d\S*: Video: (\w+).*?, (\d+)x(\d+)", re.MULTILINE)
_TEXT: Final = re.compile(r"^  Stream #0:\d\S*: Subtitle: ", re.MULTILINE)
_SPREAD: Final = re.compile(r"^\[Parsed_showinfo_.* stdev:\[([0-9.]+)", re.MULTILINE)
_SAMPLES: Final = re.compile(r"n_samples: ([1-9]\d*)")
_LOUDEST: Final = re.compile(r"max_volume: (-?[\d.]+|-inf) dB")
_TIME: Final = re.compile(r"time=(\d+):(\d\d):(\d\d\.\d+)")
_COUNTED: Final = re.compile(r"(\d+) channels")
_COUNTS: Final = {"mono": 1, "stereo": 2, "quad": 4}
_PROBLEM: Final = re.compile(r"^(?!\[(?:null|out#)).*(?:rror|nvalid|orrupt)")
_NO_FAULT: Final = "non monotonically increasing dts to muxer"
"""Of this run's own output; another thread's line may be in front of it."""
SILENCE_DB: Final = -80.0


@dataclass(frozen=True, slots=True)
class Sound:
    """A track of sound, as its header says, and as it decodes."""

    codec: str
    rate: int
    layout: str
    channels: int
    bitrate: int | None
    """Of the header, in bits per second."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A file after decoding. Lengths are in seconds."""

    container: str
    sounds: tuple[Sound, ...]
    pictures: tuple[str, int, int] | None
    """Codec, width and height."""
    seconds: float
    loudest_db: float | None
    """The peak of the first sound; None without one."""
    problems: tuple[str, ...]
    texts: int
    """Tracks of subtitles."""
    spread: float | None
    """The greatest standard deviation of a frame's brightness, of 0 to 255; None without pictures."""


def measure(program: str, path: Path) -> Measured:
    """Decode a file whole."""
    command = [
        *(program, "-hide_banner", "-nostdin", "-i", str(path)),
        *("-map", "0:v?", "-map", "0:a?", "-map", "0:s?"),
        *("-c:s", "copy", "-af", "volumedetect", "-vf", "showinfo", "-f", "null", "-"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    header = done.stderr.partition("Output #0")[0]
    sounds = tuple(
        Sound(codec, int(rate), layout, _channels(layout), int(kbits) * 1000 if kbits else None)
        for codec, rate, layout, kbits in _SOUND.findall(header)
    )
    shown = _PICTURES.search(header)
    container = _CONTAINER.search(header)
    loudest = _LOUDEST.findall(done.stderr)
    return Measured(
        container=container[1] if container else "none",
        sounds=sounds,
        pictures=(shown[1], int(shown[2]), int(shown[3])) if shown else None,
        seconds=_seconds(done.stderr, sounds if not shown else ()),
        loudest_db=float(loudest[0]) if loudest else None,
        problems=tuple(_problems(done)),
        texts=len(_TEXT.findall(header)),
        spread=max(map(float, _SPREAD.findall(done.stderr)), default=0.0) if shown else None,
    )


def _seconds(messages: str, sounds: tuple[Sound, ...]) -> float:
    samples = _SAMPLES.findall(messages)
    if sounds and samples:
        return int(samples[-1]) / sounds[0].channels / sounds[0].rate
    times = _TIME.findall(messages)
    return 3600 * int(times[-1][0]) + 60 * int(times[-1][1]) + float(times[-1][2]) if times else 0.0


def _channels(layout: str) -> int:
    if counted := _COUNTED.match(layout):
        return int(counted[1])
    return _COUNTS.get(layout) or sum(int(part) for part in re.findall(r"\d+", layout.partition("(")[0]))


def _problems(done: subprocess.CompletedProcess[str]) -> list[str]:
    found = [line for line in done.stderr.splitlines() if _PROBLEM.search(line) and _NO_FAULT not in line]
    return [*found[:3], *([f"ffmpeg ended with {done.returncode}"] if done.returncode else [])]
