"""The demo's jobs: real work on a real video, for all services that miners can run here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from coordinator.dev.demo.media import SECONDS


class Planned(NamedTuple):
    """A job to submit. `title` is for people."""

    title: str
    service: str
    payload: dict[str, Any]


class Inputs(NamedTuple):
    """The uploaded files, as references (`blob:<sha256>`)."""

    video: str
    source: str
    """This source file: a small input for checksums."""


SOURCE: Final = Path(__file__)
_SIZES: Final = ("320x180", "256x144", "426x240", "160x90")


def plan(inputs: Inputs, number: int) -> list[Planned]:
    """`number` jobs: each kind once, then the same with other sizes and times."""
    return list(islice(_endless(inputs), number))


def _endless(inputs: Inputs) -> Iterator[Planned]:
    for turn in count():
        size = _SIZES[turn % len(_SIZES)]
        second = round((0.5 + turn * 0.37) % SECONDS, 2)

        def video(title: str, **payload: Any) -> Planned:
            return Planned(title, "video_transcoding", {"input_url": inputs.video, **payload})

        def digest(title: str, algorithm: str, *refs: str) -> Planned:
            return Planned(title, "checksum", {"algorithm": algorithm, "inputs": list(refs)})

        yield video(
            f"h264 {size}", output_format="mp4", resolution=size, preset="veryfast", crf=20 + turn % 20
        )
        yield digest("sha256 of the video", "sha256", inputs.video)
        yield video(f"jpg at {second} s", operation="thumbnail", output_format="jpg", at_seconds=second)
        yield video("sound as mp3", operation="extract_audio", output_format="mp3")
        yield video(f"vp9 {size}", output_format="webm", resolution=size, preset="ultrafast", crf=40)
        yield digest("sha512 of two files", "sha512", inputs.video, inputs.source)
        yield video(f"gif {size}", output_format="gif", resolution=size, fps=8)
        yield video("sound as flac", operation="extract_audio", output_format="flac")
        yield video(f"h265 {size}", codec="h265", resolution=size, preset="ultrafast", crf=30)
        yield digest("blake2b of a source file", "blake2b", inputs.source)
        yield video(f"png at {second} s", operation="thumbnail", output_format="png", at_seconds=second)
        yield video("h264 as mkv", output_format="mkv", preset="ultrafast", fps=12, audio_codec="mp3")
        yield video("sound as wav", operation="extract_audio", output_format="wav")
        yield video("h264 200 kbit/s", preset="veryfast", bitrate="200k", audio_bitrate="64k")
        yield video("sound as m4a", operation="extract_audio", output_format="m4a", audio_bitrate="96k")
        yield video(f"small jpg at {second} s", operation="thumbnail", at_seconds=second, resolution=size)
