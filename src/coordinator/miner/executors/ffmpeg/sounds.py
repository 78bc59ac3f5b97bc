"""Which tracks of sound go into a video, and how: copied or encoded. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from coordinator.miner.executors.errors import INVALID_PAYLOAD, ExecutorError
from coordinator.miner.executors.ffmpeg.source import Source, Track
from coordinator.miner.executors.media.audio_encoders import SourceSound, bits_per_second, settings_for
from coordinator.miner.executors.media.languages import same_language
from coordinator.services.video_transcoding import Transcode, TranscodeWebm

COPIED: Final[Mapping[str, Collection[str]]] = {
    "mp4": ("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"),
    "mkv": (
        *("aac", "mp3", "mp2", "ac3", "eac3", "dts", "truehd", "mlp", "opus", "vorbis", "flac", "alac"),
        *("pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_u8", "tta", "wavpack"),
    ),
    "webm": ("opus", "vorbis"),
}
"""The codecs of sound that a format holds as its players expect."""
DEFAULT_CODEC: Final = {"mp4": "aac", "mkv": "aac", "webm": "opus"}
MAX_TRACKS: Final = 16
_UNKNOWN: Final = SourceSound(48_000, "stereo")
"""Of a track that ffmpeg could not describe: it then converts by itself."""


def codec_of(payload: Transcode | TranscodeWebm) -> str:
    """The codec for tracks that are encoded."""
    return DEFAULT_CODEC[payload.output_format] if payload.audio_codec == "copy" else payload.audio_codec


def chosen(tracks: Sequence[Track], wanted: int | str, member: str, kind: str) -> list[Track]:
    """The tracks of a number or language. Raises ExecutorError: INVALID_PAYLOAD if there is none."""
    found = [
        track
        for track in tracks
        if (track.number == wanted if isinstance(wanted, int) else same_language(wanted, track.language))
    ]
    if not found:
        there = ", ".join(f"{track.number} ({track.language or 'und'})" for track in tracks[:MAX_TRACKS])
        raise ExecutorError(INVALID_PAYLOAD, f"{member}: no {kind} {wanted}; the input has {there or 'none'}")
    return found


def sound_arguments(
    payload: Transcode | TranscodeWebm, source: Source, encoders: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """The output options of all tracks, and warnings. `encoders` are ffmpeg's by codec.

    Raises ExecutorError: INVALID_PAYLOAD for a track that is not there.
    """
    warnings: list[str] = []
    tracks = _tracks(payload, source, warnings)
    arguments: list[str] = []
    for number, track in enumerate(tracks):
        arguments += ["-map", f"0:a:{track.number}"]
        if payload.audio_codec == "copy" and track.codec in COPIED[payload.output_format]:
            arguments += [f"-c:a:{number}", "copy"]
            continue
        codec = codec_of(payload)
        if payload.audio_codec == "copy":
            warnings.append(
                f"audio_codec: {payload.output_format} holds no {track.codec}; "
                f"track {track.number} became {codec}"
            )
        made = settings_for(
            encoders[codec],
            track.sound or _UNKNOWN,
            muxer=payload.output_format,
            bitrate=bits_per_second(payload.audio_bitrate)
            if "audio_bitrate" in payload.model_fields_set
            else None,
            default_bitrate=bits_per_second(payload.audio_bitrate),
            bitrate_field="audio_bitrate",
        )
        warnings += made.warnings
        # Gaps between a recording's times become silence, so that sound and pictures stay together.
        fitted = (*made.filters, *made.padding) if track.sound else ()
        chain = ",".join(["aresample=async=1", *fitted])
        arguments += [f"-filter:a:{number}", chain, *_for_track(made.options, number)]
    return arguments, warnings


def single_sound(
    track: Track | None, encoder: str, muxer: str, bitrate: str, *, asked: bool
) -> tuple[list[str], list[str]]:
    """The output options of one track as a file of its own, and warnings."""
    sound = track.sound if track else None
    made = settings_for(
        encoder,
        sound or _UNKNOWN,
        muxer=muxer,
        bitrate=bits_per_second(bitrate) if asked else None,
        default_bitrate=bits_per_second(bitrate),
        bitrate_field="audio_bitrate",
    )
    fitted = (*made.filters, *made.padding) if sound else ()
    filters = ["-af", ",".join(fitted)] if fitted else []
    return [*filters, *made.options], list(made.warnings)


def _tracks(payload: Transcode | TranscodeWebm, source: Source, warnings: list[str]) -> list[Track]:
    match payload.audio_tracks:
        case "none":
            return []
        case "first":
            return list(source.sounds[:1])
        case "all":
            if len(source.sounds) > MAX_TRACKS:
                warnings.append(f"audio_tracks: the first {MAX_TRACKS} of {len(source.sounds)} tracks")
            return list(source.sounds[:MAX_TRACKS])
        case wanted:
            made: list[Track] = []
            for one in wanted:
                made += [
                    track
                    for track in chosen(source.sounds, one, "audio_tracks", "track")
                    if track not in made
                ]
            return made[:MAX_TRACKS]


def _for_track(options: Sequence[str], number: int) -> list[str]:
    """Pairs of an option and its value, for all tracks (-c:a, -ar), as those of one track."""
    names = [option if ":a" in option else f"{option}:a" for option in options[::2]]
    return [
        part for name, value in zip(names, options[1::2], strict=True) for part in (f"{name}:{number}", value)
    ]
