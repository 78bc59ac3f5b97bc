"""Media files for tests, made by ffmpeg: whole ones, and ones that are cut or have holes."""

from __future__ import annotations

import random
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

from coordinator.miner.executors.ffmpeg.executor import find_ffmpeg

SECONDS: Final = 4
PICTURES: Final = ("-f", "lavfi", "-i", f"testsrc2=size=96x64:rate=25:duration={SECONDS}")
SOUND: Final = ("-f", "lavfi", "-i", f"sine=frequency=440:duration={SECONDS}")
H264: Final = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-c:a", "aac")
FAST: Final = ("-movflags", "+faststart")

VIDEOS: Final = {
    "mp4": (*PICTURES, *SOUND, *H264, *FAST),
    "mov": (*PICTURES, *SOUND, *H264, *FAST),
    "mkv": (*PICTURES, *SOUND, *H264),
    "webm": (*PICTURES, *SOUND, "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "25"),
    "avi": (*PICTURES, *SOUND, "-c:v", "mpeg4", "-c:a", "libmp3lame"),
    "ts": (*PICTURES, *SOUND, *H264),
    "flv": (*PICTURES, *SOUND, *H264),
}
SOUNDS: Final = {
    "wav": SOUND,
    "mp3": SOUND,
    "flac": SOUND,
    "ogg": (*SOUND, "-c:a", "libvorbis", "-page_duration", "200000"),
    "m4a": (*SOUND, *FAST),
    "aac": SOUND,
}
"""ffmpeg's arguments for a whole file of SECONDS, by the ending of its name."""


def run_ffmpeg(*arguments: str, folder: Path | None = None) -> bytes:
    """Run ffmpeg to its end; returns its stdout."""
    program = find_ffmpeg()
    assert program is not None
    command = [program, "-v", "error", "-nostdin", "-y", *arguments]
    return subprocess.run(command, check=True, timeout=60, cwd=folder, capture_output=True).stdout


def make_file(folder: Path, name: str, *arguments: str) -> bytes:
    """The content of a file that ffmpeg makes in a folder."""
    run_ffmpeg(*arguments, name, folder=folder)
    return (folder / name).read_bytes()


class MediaFiles:
    """Whole files by their ending; each is made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole = cache(self._make)

    def _make(self, ending: str) -> bytes:
        return make_file(self.folder, f"whole.{ending}", *(VIDEOS | SOUNDS)[ending])


def cut(content: bytes, part: float) -> bytes:
    """The beginning of a file: an odd number of bytes, so that it ends inside of a packet or sample."""
    return content[: int(len(content) * part) | 1]


def with_hole(content: bytes, *, noise: bool = False) -> bytes:
    """A file whose middle fifth is zeros or noise."""
    start, end = len(content) * 4 // 10, len(content) * 6 // 10
    filling = random.Random(1).randbytes(end - start) if noise else bytes(end - start)
    return content[:start] + filling + content[end:]
