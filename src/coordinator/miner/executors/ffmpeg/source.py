"""What an input file holds, read from ffmpeg's own words about it. Pure, but for `probe`.

ffprobe is not everywhere that ffmpeg is. `probe` decodes the first frames through the filter `showinfo`:
files and frames disagree about colours, and only frames say what a decoder really gives, turned upright.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Final, Self

from coordinator.miner.executors.errors import ExecutorError
from coordinator.miner.executors.ffmpeg.pixel_formats import PixelFormat
from coordinator.miner.executors.media.audio_encoders import SourceSound, sound_in
from coordinator.miner.executors.media.first_sound import NO_GUESSES
from coordinator.miner.executors.media.run import RunLimits
from coordinator.miner.executors.process import run_program

PROBED_FRAMES: Final = 12
"""Film that became video has some frames that are interlaced and some that are not."""
PROBE_SECONDS: Final = 60.0
UNKNOWN: Final = "unknown"
PQ: Final = "smpte2084"
HLG: Final = "arib-std-b67"

_STREAM: Final = re.compile(
    r"^  Stream #0:\d+(?:\[0x[0-9a-f]+\])?(?:\((?P<language>[^)]*)\))?: "
    r"(?P<kind>Video|Audio|Subtitle|Attachment|Data): (?P<codec>\w+)(?P<more>.*)$"
)
_FRAME: Final = re.compile(
    r"^\[Parsed_showinfo_\d+ @ \w+\] n: *\d+ .*?fmt:(?P<format>\w+) .*?sar:(?P<aspect>\d+/\d+) "
    r"s:(?P<width>\d+)x(?P<height>\d+) i:(?P<field>.)"
)
_COLOURS: Final = re.compile(
    r"^\[Parsed_showinfo_\d+ @ \w+\] color_range:(?P<range>\S+) color_space:(?P<matrix>\S+) "
    r"color_primaries:(?P<primaries>\S+) color_trc:(?P<transfer>\S+)"
)
_NUMBER: Final = r"([0-9.]+)"
_MASTERING: Final = re.compile(
    r"^\[Parsed_showinfo_.*[Mm]astering [Dd]isplay [Mm]etadata.*?has_primaries:1 has_luminance:1 "
    rf"r\({_NUMBER},? *{_NUMBER}\) g\({_NUMBER},? *{_NUMBER}\) b\({_NUMBER},? *{_NUMBER}\) "
    rf"wp\({_NUMBER},? *{_NUMBER}\) min_luminance={_NUMBER}, max_luminance={_NUMBER}"
)
_LIGHT: Final = re.compile(
    r"^\[Parsed_showinfo_.*[Cc]ontent [Ll]ight.*?MaxCLL=(?P<content>\d+), MaxFALL=(?P<frames>\d+)"
)
_TIME: Final = re.compile(r"^\[Parsed_showinfo_\d+ @ \w+\] n: *\d+ .*?pts_time: *(-?[0-9.]+)")
_LENGTH: Final = re.compile(r"^  Duration: (\d+):(\d\d):([0-9.]+),")
_SIZE: Final = re.compile(r", (\d+)x(\d+)")
_FPS: Final = re.compile(r", ([0-9.]+)(k?) (fps|tbr)")
_DOLBY_VISION: Final = re.compile(r"^\s+DOVI configuration record: .*?profile: (\d+)")
_ALPHA: Final = re.compile(r"^      alpha_mode +: 1$")
_READS_ALPHA: Final = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Transparency of these is a second video in each packet, which ffmpeg's own decoders leave out."""
_END_OF_INPUT: Final = ("Stream mapping:", "Output #0", "Press [q]")


@dataclass(frozen=True, slots=True)
class Mastering:
    """The display on which a film was mastered (SMPTE ST 2086): red, green, blue and white in CIE 1931 x and
    y, and the luminance in cd/m²."""

    chromaticities: tuple[float, ...]
    """Eight numbers: x and y of red, green, blue and white."""
    darkest: float
    brightest: float


@dataclass(frozen=True, slots=True)
class Pictures:
    """The first video as its decoder gives it, upright."""

    width: int
    height: int
    pixel_aspect: Fraction
    """A pixel's width by its height."""
    format: PixelFormat
    interlaced: bool = False
    range: str = UNKNOWN
    matrix: str = UNKNOWN
    primaries: str = UNKNOWN
    transfer: str = UNKNOWN
    mastering: Mastering | None = None
    content_light: tuple[int, int] | None = None
    """The brightest pixel and the brightest frame's mean in cd/m² (MaxCLL, MaxFALL)."""
    fps: float | None = None
    """The highest rate that the file or its frames suggest."""
    seconds: float | None = None
    """The length by the header, or by the frames of a video that has few; None if neither says it."""

    @classmethod
    def unknown(cls) -> Self:
        """Pictures of which nothing is known."""
        return cls(640, 360, Fraction(1), PixelFormat.of("yuv420p"))

    @property
    def hdr(self) -> bool:
        """Whether the brightness is coded for HDR displays."""
        return self.transfer in (PQ, HLG)

    @property
    def full_range(self) -> bool:
        """Whether black is 0 and white the greatest value."""
        return self.range in ("pc", "full", "jpeg") or self.format.full_range or self.format.rgb


@dataclass(frozen=True, slots=True)
class Track:
    """A track of sound or subtitles; `number` counts those of its kind from 0."""

    number: int
    codec: str
    language: str = ""
    """As the file says it, in lower case; empty if it does not."""
    sound: SourceSound | None = None
    """Of sound, if ffmpeg could describe it."""


@dataclass(frozen=True, slots=True)
class Source:
    """The tracks of an input file."""

    pictures: Pictures | None = None
    sounds: tuple[Track, ...] = ()
    subtitles: tuple[Track, ...] = ()
    videos: int = 0
    """Pictures of covers are not counted."""
    attachments: int = 0
    dolby_vision: int | None = None
    """The profile."""
    alpha_decoder: str | None = None
    """The decoder that reads the pictures' transparency, where ffmpeg's own would leave it out."""


async def probe(program: str, options: Iterable[str], name: str, folder: Path, limits: RunLimits) -> Source:
    """What the file `name` in `folder` holds; an empty Source if ffmpeg can't tell.

    `options` bound what the file can do to its reader.
    """
    reading = _Reading()
    # Without an end, as much of the input as wanted is read; the others' streams are not decoded.
    frames = ("-map", "0:V:0", "-frames:v", str(PROBED_FRAMES), "-vf", "showinfo", "-f", "null", "-")
    try:
        await run_program(
            [
                *(program, "-hide_banner", "-nostdin", "-nostats", *options),
                *(*NO_GUESSES, "-i", f"file:{name}", *frames),
            ],
            folder=folder,
            timeout_seconds=PROBE_SECONDS,
            max_file_bytes=limits.file_bytes,
            max_memory=limits.memory,
            max_disk=limits.disk,
            on_stderr=reading.line,
        )
    except ExecutorError:
        return reading.source()  # the job itself will run into the same limit, and say so
    return reading.source()


def read(messages: str) -> Source:
    """The source that these messages of ffmpeg are about."""
    reading = _Reading()
    for line in messages.splitlines():
        reading.line(line)
    return reading.source()


@dataclass(slots=True)
class _Reading:
    """Collects what the lines say. Tags of the file can't pretend to be such lines: they are indented."""

    sounds: list[Track] = field(default_factory=list)
    subtitles: list[Track] = field(default_factory=list)
    videos: int = 0
    attachments: int = 0
    dolby_vision: int | None = None
    ended: bool = False
    header: Pictures | None = None
    frame: Pictures | None = None
    interlaced: bool = False
    colours: dict[str, str] = field(default_factory=dict)
    mastering: Mastering | None = None
    content_light: tuple[int, int] | None = None
    alpha_decoder: str | None = None
    latest: str = ""
    """The codec of the latest stream, if it is the first video."""
    length: float | None = None
    times: list[float] = field(default_factory=list)

    def line(self, line: str) -> None:
        """Read one line."""
        if line.startswith(_END_OF_INPUT):
            self.ended = True
        elif not self.ended:
            self._stream(line)
        elif line.startswith("[Parsed_showinfo"):
            self._frame(line)

    def source(self) -> Source:
        """What was read."""
        pictures = self.frame or self.header
        if pictures is not None:
            pictures = _replaced(
                pictures,
                interlaced=self.interlaced,
                mastering=self.mastering,
                content_light=self.content_light,
                fps=self.header.fps if self.header else None,
                seconds=self._seconds(),
                **self.colours,
            )
        return Source(
            pictures,
            tuple(self.sounds),
            tuple(self.subtitles),
            self.videos,
            self.attachments,
            self.dolby_vision,
            self.alpha_decoder,
        )

    def _seconds(self) -> float | None:
        shown = len(self.times)
        if self.length is None or shown == PROBED_FRAMES or shown < 2:
            return self.length if shown != 1 else None
        # These are all of its frames, and the sound may go on.
        return min(self.length, (max(self.times) - min(self.times)) * shown / (shown - 1))

    def _stream(self, line: str) -> None:
        if found := _LENGTH.match(line):
            self.length = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
        if (dolby := _DOLBY_VISION.match(line)) and self.dolby_vision is None:
            self.dolby_vision = int(dolby[1])
        if _ALPHA.match(line):
            self.alpha_decoder = self.alpha_decoder or _READS_ALPHA.get(self.latest)
        if not (found := _STREAM.match(line)):
            return
        self.latest = ""
        language = (found["language"] or "").lower()
        codec, more = found["codec"], found["more"]
        match found["kind"]:
            case "Audio":
                self.sounds.append(Track(len(self.sounds), codec, language, sound_in(line)))
            case "Subtitle":
                self.subtitles.append(Track(len(self.subtitles), codec, language))
            case "Attachment":
                self.attachments += 1
            case "Video" if "(attached pic)" not in more:
                self.videos += 1
                self.latest = codec if self.videos == 1 else ""
                if self.header is None and (size := _SIZE.search(more)):
                    rates = [float(n) * (1000 if k else 1) for n, k, _ in _FPS.findall(more)]
                    self.header = Pictures(
                        *(int(size[1]), int(size[2]), Fraction(1), PixelFormat.of("yuv420p")),
                        fps=max(rates, default=None),
                    )
                    self.interlaced = any(f"{first} first" in more for first in ("top", "bottom"))

    def _frame(self, line: str) -> None:
        if found := _TIME.match(line):
            self.times.append(float(found[1]))
        if found := _FRAME.match(line):
            self.interlaced = self.interlaced or found["field"] in "TB"
            across, down = (int(part) for part in found["aspect"].split("/"))
            if self.frame is None:
                self.frame = Pictures(
                    int(found["width"]),
                    int(found["height"]),
                    Fraction(across, down) if across and down else Fraction(1),
                    PixelFormat.of(found["format"]),
                )
        elif (found := _COLOURS.match(line)) and not self.colours:
            self.colours = {name: _known(text) for name, text in found.groupdict().items()}
        elif (found := _MASTERING.match(line)) and self.mastering is None:
            numbers = [float(number) for number in found.groups()]
            self.mastering = Mastering(tuple(numbers[:8]), numbers[8], numbers[9])
        elif (found := _LIGHT.match(line)) and self.content_light is None:
            self.content_light = (int(found["content"]), int(found["frames"]))


def _replaced(pictures: Pictures, **values: object) -> Pictures:
    return replace(pictures, **values)  # type: ignore[arg-type]


def _known(text: str) -> str:
    """One word for what is not said."""
    return UNKNOWN if text in (UNKNOWN, "unspecified", "reserved", "nb", "(null)") else text
