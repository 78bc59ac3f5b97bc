"""The demo's input: a real video with sound, made by ffmpeg."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from coordinator.miner.executors.ffmpeg.executor import find_ffmpeg

SECONDS: Final = 4
SIZE: Final = "640x360"
FRAMES_PER_SECOND: Final = 24
TIMEOUT_S: Final = 60


class NoVideo(Exception):
    """The video could not be made; the text says what to do."""


def make_video(path: Path) -> None:
    """Write a few seconds of a moving test picture with a tone. Raises NoVideo."""
    program = find_ffmpeg()
    if program is None:
        raise NoVideo("ffmpeg is missing: put it on PATH, or run `pip install 'coordinator[ffmpeg]'`")
    command = [
        program,
        *("-hide_banner", "-nostdin", "-y", "-loglevel", "error"),
        *("-f", "lavfi", "-i", f"testsrc2=size={SIZE}:rate={FRAMES_PER_SECOND}:duration={SECONDS}"),
        *("-f", "lavfi", "-i", f"sine=frequency=440:duration={SECONDS}"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"),
        *("-c:a", "aac", "-shortest", str(path)),
    ]
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoVideo(f"ffmpeg could not make the video: {error}") from None
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()[-500:]
        raise NoVideo(f"ffmpeg could not make the video: {reason}")
