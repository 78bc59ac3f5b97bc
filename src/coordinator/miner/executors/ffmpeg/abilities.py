"""What an ffmpeg can do, and a run of it that makes use of that."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.miner.executors.ffmpeg.encoders import ENCODERS, family_of


@dataclass(frozen=True, slots=True)
class Abilities:
    """What one ffmpeg on this machine can do, as its check has found."""

    encoders: frozenset[str] = frozenset()
    """Working ones, software and hardware."""
    formats: dict[str, frozenset[str]] = field(default_factory=dict)
    """The pixel formats of video encoders."""
    filters: frozenset[str] = frozenset()
    devices: dict[str, str] = field(default_factory=dict)
    """Of hardware encoders that have to be told theirs."""
    cues_to_front: bool = False
    """Whether the muxer of webm and mkv can write its index at the front."""
    draws_text: bool = False
    decoders: frozenset[str] = frozenset()
    frame_times: str = "-fps_mode"
    """The option that says what happens to the times of frames: before ffmpeg 5.1 -vsync."""

    def of_codec(self, codec: str) -> str:
        """The encoder for a codec. Raises KeyError if there is none."""
        for name in ENCODERS[codec]:
            if name in self.encoders:
                return name
        raise KeyError(codec)

    @property
    def hardware(self) -> frozenset[str]:
        """The working hardware encoders."""
        return frozenset(name for name in self.encoders if family_of(name))


@dataclass(frozen=True, slots=True)
class Plan:
    """A run of ffmpeg: its options before and after the input, and what else it needs."""

    before: list[str]
    after: list[str]
    warnings: list[str] = field(default_factory=list)
    encoder: str | None = None
    table: tuple[str, float] | None = None
    """The table of colours to write first: a transfer, and its peak in cd/m²."""
    text_track: int | None = None
    """The subtitles to extract first."""

    @property
    def hardware(self) -> bool:
        """Whether a device encodes."""
        return self.encoder is not None and family_of(self.encoder) is not None
