"""The service `audio_processing`: trims, levels and cleans a recording, or changes its speed or pitch."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from coordinator.services.base import (
    NOT_NULL,
    FileRef,
    KnownService,
    OutputFile,
    Payload,
    Result,
    Strict,
    Warnings,
    Whole,
)

SoundFormat = Literal["wav", "flac", "mp3", "ogg", "m4a"]
SampleRate = Annotated[Literal[8000, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000], Whole]
Seconds = Annotated[float, Field(ge=0, le=1_000_000)]
Count = Annotated[int, Field(ge=1)]


class Trim(Strict):
    operation: Literal["trim"]
    start_seconds: Seconds = 0.0
    end_seconds: Annotated[Seconds | None, NOT_NULL] = None
    """The default is the end of the recording."""


class Fade(Strict):
    operation: Literal["fade"]
    in_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0
    out_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0


class ReduceNoise(Strict):
    operation: Literal["reduce_noise"]
    strength: Annotated[float, Field(ge=0, le=1)] = 0.5


class Normalize(Strict):
    operation: Literal["normalize"]
    loudness_lufs: Annotated[float, Field(ge=-70, le=-5)] = -16.0
    """-16 is usual for podcasts, -23 for broadcasts (EBU R 128)."""


class RemoveSilence(Strict):
    operation: Literal["remove_silence"]
    threshold_db: Annotated[float, Field(ge=-90, le=-10)] = -50.0
    """Anything quieter is silence."""
    min_seconds: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    """Shorter pauses stay."""


class ChangeSpeed(Strict):
    operation: Literal["change_speed"]
    factor: Annotated[float, Field(ge=0.25, le=4)]
    """2 is twice as fast; the pitch stays."""


class ChangePitch(Strict):
    operation: Literal["change_pitch"]
    semitones: Annotated[float, Field(ge=-24, le=24)]
    """The speed stays."""


class Separate(Strict):
    operation: Literal["separate"]
    stems: Literal["vocals_and_rest", "vocals_drums_bass_rest"] = "vocals_and_rest"
    """Each stem is one output."""


SoundOperation = Annotated[
    Trim | Fade | ReduceNoise | Normalize | RemoveSilence | ChangeSpeed | ChangePitch | Separate,
    Field(discriminator="operation"),
]


class AudioPayload(Payload):
    """One recording, and the operations on it."""

    input_url: FileRef
    """A recording, or a video with sound."""
    operations: Annotated[tuple[SoundOperation, ...], Field(max_length=20, strict=False)] = ()
    """Applied in this order; an empty list only converts."""
    output_format: SoundFormat = "wav"
    sample_rate: Annotated[SampleRate | None, NOT_NULL] = None
    """Samples per second, or the next that the format has; the default is the input's."""
    channels: Annotated[Annotated[int, Field(ge=1, le=2), Whole] | None, NOT_NULL] = None
    """1 is mono, 2 is stereo; the default is the input's, or the nearest that the format has."""
    bitrate: Literal["64k", "96k", "128k", "192k", "256k", "320k"] = "192k"
    """Bits per second, for mp3, ogg and m4a, or the nearest that the format has at this rate and channels."""


class ProcessedAudio(Result):
    output_format: SoundFormat
    outputs: Annotated[list[OutputFile], Field(min_length=1, max_length=4)]
    """One file, or one for each stem."""
    duration_seconds: Annotated[float, Field(ge=0)]
    """Of the longest output."""
    loudness_lufs: float | None = None
    """Of the whole first output (EBU R 128)."""
    sample_rate: Count | None = None
    """Of the first output in samples per second, as measured."""
    channels: Count | None = None
    """Of the first output, as measured."""
    bitrate: Count | None = None
    """Of the first output's whole file in bits per second, as measured."""
    warnings: Warnings | None = None
    """How the output differs from the request; and about the source: small faults, and lengths that its
    format can't prove."""


SERVICE: Final = KnownService("audio_processing", TypeAdapter(AudioPayload), ProcessedAudio)
