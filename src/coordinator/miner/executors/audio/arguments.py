"""The ffmpeg filters for the operations of `audio_processing`, and the encoding of its output. Pure.

Only numbers within bounds get from a client into the command line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, assert_never

from coordinator.miner.executors.errors import INVALID_PAYLOAD, UNSUPPORTED, ExecutorError
from coordinator.miner.executors.media.audio_encoders import (
    SoundSettings,
    SourceSound,
    bits_per_second,
    settings_for,
)
from coordinator.services.audio_processing import (
    AudioPayload,
    ChangePitch,
    ChangeSpeed,
    Fade,
    Normalize,
    ReduceNoise,
    RemoveSilence,
    Separate,
    SoundOperation,
    Trim,
)

FORMATS: Final = {
    "wav": ("pcm_s16le", "wav", "audio/wav"),
    "flac": ("flac", "flac", "audio/flac"),
    "mp3": ("libmp3lame", "mp3", "audio/mpeg"),
    "ogg": ("libvorbis", "ogg", "audio/ogg"),
    "m4a": ("aac", "ipod", "audio/mp4"),
}
"""Encoder, muxer and media type of each output format."""
MUXER_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    # RF64 (EBU Tech 3306) from 4 GiB on, where a WAV's sizes end.
    "wav": ("-rf64", "auto"),
    # Windows' own players read no ID3v2.4.
    "mp3": ("-id3v2_version", "3"),
    # The index before the sound, so that a player can begin before it has all.
    "m4a": ("-movflags", "+faststart"),
}
WINDOW_SECONDS: Final = 0.5
"""More than the filters of tempo and sample rate keep back before anything comes out."""
_SILENCE: Final = f"apad=pad_dur={2 * WINDOW_SECONDS}"
"""Behind the sound: what the filters keep back at the end is then none of it."""
DEFAULT_BITRATE: Final = bits_per_second(AudioPayload.model_fields["bitrate"].default)
PEAK: Final = 0.89
"""Normalisation never exceeds this: -1 dB of full scale."""
SILENCE_LUFS: Final = -70.0
"""A sound below this counts as silent (EBU R 128): there is nothing to normalise."""


@dataclass(frozen=True, slots=True)
class Sound:
    """The measures of a sound: seconds, samples per second, and its overall loudness in LUFS."""

    seconds: float
    sample_rate: int
    loudness: float


def check_possible(payload: AudioPayload) -> None:
    """Raise ExecutorError for an operation that ffmpeg alone can't do."""
    if any(isinstance(operation, Separate) for operation in payload.operations):
        raise ExecutorError(UNSUPPORTED, "separate: this miner has no model for it", retryable=True)


def encoding_of(payload: AudioPayload, sound: SourceSound) -> SoundSettings:
    """The encoding of the output of this sound: as the payload asks, or the nearest that its format has."""
    encoder, muxer, _ = FORMATS[payload.output_format]
    return settings_for(
        encoder,
        sound,
        muxer=muxer,
        sample_rate=payload.sample_rate,
        channels=payload.channels,
        bitrate=bits_per_second(payload.bitrate) if "bitrate" in payload.model_fields_set else None,
        default_bitrate=DEFAULT_BITRATE,
    )


def preparation(settings: SoundSettings, sound: Sound) -> list[str]:
    """The filters before all operations: to the output's channels, as mixing changes the loudness.

    A sound that is shorter than the resampler's window gets the output's rate, too: later it would vanish.
    """
    if sound.seconds >= WINDOW_SECONDS or settings.rate == sound.sample_rate:
        return [*settings.filters]
    resampled = [_SILENCE, f"aresample={settings.rate}", _first(sound.seconds, settings.rate)]
    return [*settings.filters, *resampled]


def needs_measuring(operation: SoundOperation) -> bool:
    """Whether its filters depend on the sound that the previous operations make."""
    return isinstance(operation, Normalize | ChangeSpeed | ChangePitch) or (
        isinstance(operation, Fade) and operation.out_seconds > 0
    )


def filters_of(operation: SoundOperation, sound: Sound) -> list[str]:
    """ffmpeg's filters for one operation on a sound; none if it changes nothing."""
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
            return [
                _SILENCE,
                *_tempo(operation.factor),
                _first(sound.seconds / operation.factor, sound.sample_rate),
            ]
        case ChangePitch():
            ratio = 2 ** (operation.semitones / 12)
            rate = sound.sample_rate
            # Played faster, and so higher, then slowed down at the same pitch.
            faster = [f"asetrate={round(rate * ratio)}", f"aresample={rate}"]
            return [_SILENCE, *faster, *_tempo(1 / ratio), _first(sound.seconds, rate)]
        case Separate():
            raise AssertionError("refused before")
    assert_never(operation)


def _tempo(factor: float) -> list[str]:
    # One filter slows down to half the speed at most, and fails at a frame of one sample.
    steps = 2 if factor < 0.5 else 1
    return ["asetnsamples=n=1024:p=1", *[f"atempo={math.pow(factor, 1 / steps):.6f}"] * steps]


def _first(seconds: float, rate: int) -> str:
    """A filter that ends a sound, at one sample or more."""
    return f"atrim=end_sample={max(1, round(seconds * rate))}"
