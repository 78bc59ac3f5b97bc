"""Which subtitles go into a video: as tracks of their own, or drawn into the pictures. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from coordinator.miner.executors.errors import INVALID_PAYLOAD, UNSUPPORTED, ExecutorError
from coordinator.miner.executors.ffmpeg.sounds import chosen
from coordinator.miner.executors.ffmpeg.source import Source, Track
from coordinator.services.video_transcoding import Transcode, TranscodeWebm

PICTURES: Final = ("hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle", "xsub")
"""Subtitles that are pictures, not text."""
_TEXTS: Final = ("subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text", "ttml", "eia_608", "subviewer")
_COPIED: Final = {
    "mkv": ("subrip", "ass", "ssa", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"),
    "mp4": ("mov_text",),
    "webm": ("webvtt",),
}
_ENCODED: Final = {"mkv": "srt", "mp4": "mov_text", "webm": "webvtt"}
_STYLED: Final = ("ass", "ssa")
BURNT_FILE: Final = "subtitles.ass"
"""The name of the text that is drawn, in the job's folder."""


@dataclass(frozen=True, slots=True)
class ChosenSubtitles:
    """The output options of kept tracks; and the track to draw, if one is."""

    arguments: list[str] = field(default_factory=list)
    burnt_text: Track | None = None
    burnt_pictures: Track | None = None
    warnings: list[str] = field(default_factory=list)


def subtitles_of(
    payload: Transcode | TranscodeWebm, source: Source, *, filters: Collection[str], can_draw_text: bool
) -> ChosenSubtitles:
    """The subtitles that the payload asks for. `filters` are ffmpeg's.

    Raises ExecutorError: INVALID_PAYLOAD if there are none, or the format can't hold those asked for;
    UNSUPPORTED if this machine can't draw text (another one may).
    """
    if payload.subtitles == "none":
        return ChosenSubtitles()
    tracks = source.subtitles
    if payload.subtitle_track is not None:
        tracks = tuple(chosen(tracks, payload.subtitle_track, "subtitle_track", "subtitles"))
    if payload.subtitles == "burn":
        return _burnt(tracks, filters, can_draw_text)
    return _kept(payload, source, tracks)


def _burnt(tracks: tuple[Track, ...], filters: Collection[str], can_draw_text: bool) -> ChosenSubtitles:
    if not tracks:
        raise ExecutorError(INVALID_PAYLOAD, "subtitles: the input has none to burn")
    track = tracks[0]
    if track.codec in PICTURES:
        if "overlay" not in filters:
            raise ExecutorError(UNSUPPORTED, "subtitles: ffmpeg here can't draw pictures", retryable=True)
        return ChosenSubtitles(burnt_pictures=track)
    if track.codec not in _TEXTS:
        raise ExecutorError(INVALID_PAYLOAD, f"subtitles: {track.codec} can't be drawn")
    if not can_draw_text:
        raise ExecutorError(
            UNSUPPORTED, "subtitles: ffmpeg here can't draw text, or has no fonts", retryable=True
        )
    return ChosenSubtitles(burnt_text=track)


def _kept(payload: Transcode | TranscodeWebm, source: Source, tracks: tuple[Track, ...]) -> ChosenSubtitles:
    output = payload.output_format
    arguments: list[str] = []
    warnings: list[str] = []
    left_out: list[Track] = []
    number = 0
    for track in tracks:
        if track.codec in _COPIED[output]:
            codec = "copy"
        elif track.codec in _TEXTS:
            codec = _ENCODED[output]
        else:
            left_out.append(track)
            continue
        if track.codec in _STYLED and codec != "copy":
            warnings.append(f"subtitles: {output} keeps the text of track {track.number}, not its styles")
        arguments += ["-map", f"0:s:{track.number}", f"-c:s:{number}", codec]
        number += 1
    if left_out and (payload.subtitle_track is not None or not arguments):
        track = left_out[0]
        choices = "burn or none" if output == "mkv" else "mkv, burn or none"
        raise ExecutorError(
            INVALID_PAYLOAD,
            f"subtitles: {output} can't hold track {track.number}, which is {_kind(track)}; choose {choices}",
        )
    warnings += [
        f"subtitles: {output} can't hold track {track.number}, which is {_kind(track)}; it is left out"
        for track in left_out
    ]
    if source.attachments and arguments and output == "mkv":
        arguments += ["-map", "0:t?", "-c:t", "copy"]  # fonts
    return ChosenSubtitles(arguments, warnings=warnings)


def _kind(track: Track) -> str:
    return f"pictures ({track.codec})" if track.codec in PICTURES else track.codec
