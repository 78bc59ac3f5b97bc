"""Segments of speech as subtitles: SubRip, and WebVTT (W3C)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Subtitle(NamedTuple):
    """Speech from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


def as_srt(subtitles: Iterable[Subtitle]) -> str:
    """SubRip: numbered, with commas before the milliseconds."""
    return "".join(
        f"{number}\n{_clock(s.start, ',')} --> {_clock(s.end, ',')}\n{_lines(s.text)}\n\n"
        for number, s in enumerate(subtitles, start=1)
    )


def as_vtt(subtitles: Iterable[Subtitle]) -> str:
    """WebVTT. Arrows and possible tags are escaped."""
    cues = (
        f"{_clock(s.start, '.')} --> {_clock(s.end, '.')}\n{_escaped(_lines(s.text))}\n\n" for s in subtitles
    )
    return "WEBVTT\n\n" + "".join(cues)


def _lines(text: str) -> str:
    # A blank line would end the subtitle.
    return "\n".join(line for line in text.splitlines() if line.strip())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
