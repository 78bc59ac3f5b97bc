"""The packets of a file, as ffmpeg's muxer `framecrc` lists them.

Copying every packet of the source into such a list costs little, and can share the run that decodes: so each
stream's true end and its gaps are known after one pass. ffmpeg's own progress tells neither.
https://ffmpeg.org/ffmpeg-formats.html#framecrc
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

PACKETS_FILE: Final = "packets.txt"
MAX_PACKETS_BYTES: Final = 1 << 30
"""Of a list: two days of sound and pictures take this."""
GAP_SECONDS: Final = 0.15
"""A longer jump between two packets is a gap: containers with times in milliseconds are less exact."""
MAX_GAPS: Final = 100
_UNSET: Final = -(2**62)
"""Below this a time is not set: ffmpeg writes -2**63, or that with an offset."""


class Gap(NamedTuple):
    """Seconds without packets."""

    start: float
    end: float


@dataclass(slots=True)
class Track:
    """The packets of one stream; times in seconds from the beginning of the file."""

    kind: str = ""
    packets: int = 0
    start: float | None = None
    end: float = 0.0
    gaps: list[Gap] = field(default_factory=list)
    _second: float = 0.0
    _next: float | None = None

    @property
    def seconds(self) -> float:
        """From the first packet's beginning to the last one's end."""
        return max(0.0, self.end - (self.start or 0.0))

    def scale(self, base: str) -> None:
        """Take the stream's unit of time, such as `1/44100` of a second."""
        above, _, below = base.partition("/")
        self._second = int(above) / int(below)

    def add(self, dts: int, pts: int, duration: int) -> None:
        """Add a packet. Times that are not set are left out."""
        self.packets += 1
        time = pts if pts > _UNSET else dts
        if time <= _UNSET:
            return
        start, length = time * self._second, max(0, duration) * self._second
        self.start = start if self.start is None else min(start, self.start)
        self.end = max(self.end, start + length)
        decoded = (dts if dts > _UNSET else pts) * self._second
        if self._next is not None and decoded - self._next > GAP_SECONDS and len(self.gaps) < MAX_GAPS:
            self.gaps.append(Gap(self._next, decoded))
        self._next = decoded + length


def listing(*streams: str) -> list[str]:
    """The options of an output that lists the packets of the streams, all of them by default."""
    maps = [option for stream in streams or ("0",) for option in ("-map", stream)]
    return [*maps, "-c", "copy", "-copy_unknown", "-f", "framecrc", f"file:{PACKETS_FILE}"]


def read_packets(path: Path) -> dict[int, Track]:
    """The tracks of a list by the number of their stream; none if there is no list. Blocks."""
    tracks: dict[int, Track] = {}
    if not path.exists():
        return tracks
    with path.open() as lines:
        for line in lines:
            if line.startswith("#"):
                name, _, value = line[1:].strip().partition(": ")
                word, _, number = name.partition(" ")
                if number.isdigit() and word in ("tb", "media_type"):
                    track = tracks.setdefault(int(number), Track())
                    if word == "tb":
                        track.scale(value)
                    else:
                        track.kind = value
                continue
            stream, dts, pts, duration = line.split(",", 4)[:4]
            tracks[int(stream)].add(int(dts), int(pts), int(duration))
    return tracks
