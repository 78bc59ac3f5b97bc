"""What a job of `audio_processing` may ask for, and the ffmpeg filters that it becomes. Pure.

Nothing of a client's reaches the command line but numbers within bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from coordinator.miner.executors.base import INVALID_PAYLOAD, UNSUPPORTED, ExecutorError, FileRef
from coordinator.miner.executors.llm.payload import GIVEN, Strict, Whole

FORMATS: Final = {
    "wav": ("pcm_s16le", "wav", "audio/wav"),
    "flac": ("flac", "flac", "audio/flac"),
    "mp3": ("libmp3lame", "mp3", "audio/mpeg"),
    "ogg": ("libvorbis", "ogg", "audio/ogg"),
    "m4a": ("aac", "ipod", "audio/mp4"),
}
"""Encoder, muxer and media type of each output format."""
LOSSLESS: Final = ("wav", "flac")
MP3_SAMPLES_PER_SECOND: Final = 48_000
PEAK: Final = 0.89
"""What levelling never exceeds: -1 dB of full scale."""
SILENCE_LUFS: Final = -70.0
"""Nothing is heard below this (EBU R 128), so that there is nothing to level."""
Seconds = Annotated[float, Field(ge=0, le=1_000_000)]


class Trim(Strict):
    operation: Literal["trim"]
    start_seconds: Seconds = 0.0
    end_seconds: Annotated[Seconds | None, GIVEN] = None


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


class RemoveSilence(Strict):
    operation: Literal["remove_silence"]
    threshold_db: Annotated[float, Field(ge=-90, le=-10)] = -50.0
    min_seconds: Annotated[float, Field(ge=0.1, le=60)] = 1.0


class ChangeSpeed(Strict):
    operation: Literal["change_speed"]
    factor: Annotated[float, Field(ge=0.25, le=4)]


class ChangePitch(Strict):
    operation: Literal["change_pitch"]
    semitones: Annotated[float, Field(ge=-24, le=24)]


class Separate(Strict):
    operation: Literal["separate"]
    stems: Literal["vocals_and_rest", "vocals_drums_bass_rest"] = "vocals_and_rest"


Operation = Annotated[
    Trim | Fade | ReduceNoise | Normalize | RemoveSilence | ChangeSpeed | ChangePitch | Separate,
    Field(discriminator="operation"),
]


class AudioPayload(Strict):
    """What the catalogue's schema says."""

    input_url: FileRef
    operations: Annotated[tuple[Operation, ...], Field(max_length=20, strict=False)] = ()
    output_format: Literal["wav", "flac", "mp3", "ogg", "m4a"] = "wav"
    sample_rate: Annotated[Literal[8000, 16000, 22050, 32000, 44100, 48000, 96000] | None, Whole, GIVEN] = (
        None
    )
    channels: Annotated[Annotated[int, Field(ge=1, le=2), Whole] | None, GIVEN] = None
    bitrate: Literal["64k", "96k", "128k", "192k", "256k", "320k"] = "192k"


@dataclass(frozen=True, slots=True)
class Sound:
    """What is known of a sound: seconds, samples per second, and loudness over all of it in LUFS."""

    seconds: float
    sample_rate: int
    loudness: float


def check_possible(payload: AudioPayload) -> None:
    """Raise ExecutorError for what ffmpeg alone can't do, or a format can't hold."""
    if any(isinstance(operation, Separate) for operation in payload.operations):
        raise ExecutorError(UNSUPPORTED, "separate: there is no model for it here", retryable=True)
    if payload.output_format == "mp3" and (payload.sample_rate or 0) > MP3_SAMPLES_PER_SECOND:
        raise ExecutorError(INVALID_PAYLOAD, f"sample_rate: mp3 has {MP3_SAMPLES_PER_SECOND} at most")


def needs_measuring(operation: Operation) -> bool:
    """Whether its filters depend on the sound as the operations before have left it."""
    return isinstance(operation, Normalize) or (isinstance(operation, Fade) and operation.out_seconds > 0)


def filters_of(operation: Operation, sound: Sound) -> list[str]:
    """ffmpeg's filters for one operation on a sound; none where it changes nothing."""
    match operation:
        case Trim():
            if operation.end_seconds is not None and operation.end_seconds <= operation.start_seconds:
                raise ExecutorError(INVALID_PAYLOAD, "operations: trim ends before it starts")
            end = "" if operation.end_seconds is None else f":end={operation.end_seconds:.6f}"
            return [f"atrim=start={operation.start_seconds:.6f}{end}", "asetpts=PTS-STARTPTS"]
        case Fade():
            fades = []
            if operation.in_seconds > 0:
                fades.append(f"afade=t=in:st=0:d={operation.in_seconds:.6f}")
            if operation.out_seconds > 0:
                start = max(0.0, sound.seconds - operation.out_seconds)
                fades.append(f"afade=t=out:st={start:.6f}:d={min(operation.out_seconds, sound.seconds):.6f}")
            return fades
        case ReduceNoise():
            return [f"afftdn=nr={2 + 28 * operation.strength:.3f}"] if operation.strength > 0 else []
        case Normalize():
            if sound.loudness <= SILENCE_LUFS:
                return []
            gain = operation.loudness_lufs - sound.loudness
            return [f"volume={gain:.3f}dB", f"alimiter=limit={PEAK}:level=disabled"]
        case RemoveSilence():
            edge = f"threshold={operation.threshold_db:.3f}dB"
            begin = f"start_periods=1:start_{edge}"
            end = f"stop_periods=-1:stop_{edge}:stop_duration={operation.min_seconds:.3f}"
            return [f"silenceremove={begin}:{end}"]
        case ChangeSpeed():
            return _tempo(operation.factor)
        case ChangePitch():
            ratio = 2 ** (operation.semitones / 12)
            rate = sound.sample_rate
            # Played faster and so higher, and then slower at the same pitch.
            return [f"asetrate={round(rate * ratio)}", f"aresample={rate}", *_tempo(1 / ratio)]
        case Separate():
            raise AssertionError("refused before")


def _tempo(factor: float) -> list[str]:
    # One filter goes down to half the speed.
    steps = 2 if factor < 0.5 else 1
    return [f"atempo={math.pow(factor, 1 / steps):.6f}"] * steps
