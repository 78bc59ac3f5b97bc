"""The log of a run of ffmpeg: its view of the source, its complaints, and its counts at the end.

It needs `LOG_LEVEL`: each line then begins with its contexts and its level, as in
`[in#0/wav @ 0x55d0] [warning] Packet corrupt (stream = 0, dts = NOPTS).`
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

LOG_LEVEL: Final = ("-loglevel", "+level+verbose", "-nostats")
MAX_COMPLAINTS: Final = 500
"""Kept of the first complaints, and as many of the last: a broken file may cause one for each frame."""
_LINE: Final = re.compile(r"^((?:\[[^\]]* @ 0x[0-9a-f]+\] )*)\[(\w+)\] (.*)$")
_CONTEXT: Final = re.compile(r"\[([^\]]*) @ 0x[0-9a-f]+\]")
_LEVELS: Final = ("warning", "error", "fatal", "panic")
_FILE: Final = re.compile(r"^(Input|Output) #(\d+), (\S+),")
_DURATION: Final = re.compile(r"^ *Duration: (N/A|(\d+):(\d\d):(\d\d(?:\.\d+)?)), (?:start|bitrate): ")
_STREAM: Final = re.compile(r"^ *Stream #0:(\d+)[^:]*: (Video|Audio|Subtitle|Data|Attachment): ([\w-]+)(.*)$")
_MAPPED: Final = re.compile(r"^ *Stream #0:(\d+) -> #(\d+):(\d+) \(copy\)")
_RATE: Final = re.compile(r", (\d{1,7}) Hz, ([^,]+)")
_FRAMES: Final = re.compile(r", (\d+(?:\.\d+)?) fps")
_COUNTS: Final = re.compile(r"^ *(Input|Output) stream #(\d+):(\d+) \(\w+\): (.*)$")
_SOURCE, _OUTPUT = "Input 0", "Output 0"
_CORRUPT_FRAME: Final = re.compile(
    r"ist#0:(\d+).* corrupt decoded frame|Error while decoding stream #0:(\d+)"  # the latter before ffmpeg 7
)
_NO_FRAMES: Final = "No filtered frames for output stream"
_ESTIMATED: Final = "Estimating duration from bitrate"


class Complaint(NamedTuple):
    """A warning or an error; `context` is the part of ffmpeg that has it, such as `in#0/wav` or `libopus`."""

    context: str
    level: str
    text: str

    @property
    def is_error(self) -> bool:
        """Whether it is more than a warning."""
        return self.level != "warning"


class Stream(NamedTuple):
    """A stream as ffmpeg describes it; `sample_rate` and `frames` are a second's, or 0 where it has none.

    `layout` is of a sound's channels, in ffmpeg's words: `5.1(side)`, `3 channels`.
    """

    kind: str
    codec: str
    sample_rate: int
    frames: float
    is_cover: bool
    layout: str = ""


class Counts(NamedTuple):
    """What went through a stream by the end: packets, frames and samples; `errors` could not be decoded."""

    packets: int = 0
    frames: int = 0
    samples: int = 0
    errors: int = 0


@dataclass(slots=True)
class Log:
    """Hand `line` to a run of ffmpeg as the reader of its stderr."""

    format: str = ""
    """The source's formats, such as `matroska,webm`; empty if ffmpeg could not open it."""
    duration: float | None = None
    """The source's seconds by its header."""
    is_estimated: bool = False
    """Whether the duration is a guess from the file's size."""
    streams: dict[int, Stream] = field(default_factory=dict)
    """Of the source, by number."""
    made: dict[int, Stream] = field(default_factory=dict)
    """Of the first output, by number."""
    read: dict[int, Counts] = field(default_factory=dict)
    """By stream of the source."""
    written: dict[int, Counts] = field(default_factory=dict)
    """By stream of the first output."""
    copied: dict[tuple[int, int], int] = field(default_factory=dict)
    """The stream of the source that goes unchanged into an output, by output and stream."""
    corrupt_frames: dict[int, int] = field(default_factory=dict)
    """Frames that were decoded with faults, by stream of the source."""
    complaint_count: int = 0
    has_no_frames: bool = False
    """Whether nothing came to the encoder, as with a moment beyond the end."""
    _section: str = ""
    _first: list[Complaint] = field(default_factory=list)
    _last: deque[Complaint] = field(default_factory=lambda: deque(maxlen=MAX_COMPLAINTS))

    @property
    def seconds_of_sound(self) -> float:
        """The length of the sound that went to the encoder of the first output."""
        for number, counts in self.written.items():
            if counts.samples and number in self.made and self.made[number].sample_rate:
                return counts.samples / self.made[number].sample_rate
        return 0.0

    @property
    def complaints(self) -> list[Complaint]:
        """The first and the last ones, in their order."""
        return [*self._first, *self._last]

    def line(self, line: str) -> None:
        """Read a line of stderr."""
        if not (found := _LINE.match(line)):
            return
        contexts, level, text = found.groups()
        if level in _LEVELS:
            self._complain(_CONTEXT.findall(contexts), level, text)
        elif mapped := _MAPPED.match(text):
            self.copied[int(mapped[2]), int(mapped[3])] = int(mapped[1])
        elif counts := _COUNTS.match(text):
            self._count(*counts.groups())
        elif level == "info":
            self._header(text)

    def _complain(self, contexts: list[str], level: str, text: str) -> None:
        self.complaint_count += 1
        if _ESTIMATED in text:
            self.is_estimated = True
            return
        if _NO_FRAMES in text:
            self.has_no_frames = True
        context = " ".join(contexts)
        faulty = _CORRUPT_FRAME.search(f"{context} {text}")
        if faulty:
            number = int(faulty[1] or faulty[2])
            self.corrupt_frames[number] = self.corrupt_frames.get(number, 0) + 1
        kept = self._first if len(self._first) < MAX_COMPLAINTS else self._last
        kept.append(Complaint(context, level, text))

    def _header(self, text: str) -> None:
        if file := _FILE.match(text):
            self._section = f"{file[1]} {file[2]}"
            if self._section == _SOURCE:
                self.format = file[3]
        elif self._section not in (_SOURCE, _OUTPUT):
            return
        elif stream := _STREAM.match(text):
            rate, frames = _RATE.search(stream[4]), _FRAMES.search(stream[4])
            streams = self.streams if self._section == _SOURCE else self.made
            streams[int(stream[1])] = Stream(
                kind=stream[2].lower(),
                codec=stream[3],
                sample_rate=int(rate[1]) if rate else 0,
                frames=float(frames[1]) if frames else 0.0,
                is_cover="(attached pic)" in stream[4],
                layout=rate[2].strip() if rate else "",
            )
        elif (duration := _DURATION.match(text)) and duration[1] != "N/A":
            self.duration = int(duration[2]) * 3600 + int(duration[3]) * 60 + float(duration[4])

    def _count(self, side: str, file: str, stream: str, text: str) -> None:
        counts = Counts(
            packets=_number(r"(\d+) packets (?:read|muxed)", text),
            frames=_number(r"(\d+) frames (?:decoded|encoded)", text),
            samples=_number(r"\((\d+) samples\)", text),
            errors=_number(r"(\d+) decode errors", text),
        )
        if side == "Input":
            self.read[int(stream)] = counts
        elif file == "0":
            self.written[int(stream)] = counts


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
