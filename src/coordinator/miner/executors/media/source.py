"""The verdict on a source: whether all that its header promises was there and could be decoded.

A result from half a source looks like a success, is paid, and makes clients delete originals. So a source that
is cut or has holes is refused, with the seconds reached and promised. What its format can't tell, and small
faults, are warnings in the result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from coordinator.miner.executors.base import INVALID_PAYLOAD, ExecutorError
from coordinator.miner.executors.media.complaints import clean, nothing_decoded, telling_line
from coordinator.miner.executors.media.containers import Container
from coordinator.miner.executors.media.log import Complaint, Log
from coordinator.miner.executors.media.packets import Track

MAX_WARNINGS: Final = 20
WARNING_CHARACTERS: Final = 300
IMPRECISE_SECONDS: Final = 0.25
"""Headers count a frame's padding, or round: a shorter source by less than this is a whole one."""
IMPRECISE_PART: Final = 0.01
MOST_IMPRECISE_SECONDS: Final = 2.0
"""A hundredth of a long source is more than any rounding."""
LOST_SECONDS: Final = 0.5
"""A source of which more than this can't be decoded is refused."""
LOST_PART: Final = 0.05
"""The same for short ones: more than this part of a stream's packets."""
LOST_PART_OF_RECORDING: Final = 0.01
"""A recording of a broadcast is refused if it lacks both LOST_SECONDS and this part of its length."""

_PROMISE_NOTHING: Final = ("ogg", "mpegts", "mpeg", "avi", "asf")
"""ffmpeg's own duration is what it finds in the file; `containers` looks for promises."""
_RECORDINGS: Final = ("mpegts", "mpeg", "h264", "hevc", "mpegvideo", "dv", "mp3", "aac", "ac3", "eac3")
"""Formats that begin and end anywhere, so that a fault at either end is no sign of a cut."""
_PICTURES: Final = re.compile(r"_pipe\b|^gif$|^apng$|^image2$")
_CUT: Final = re.compile(
    r"partial file|File ended prematurely|filesize and duration do not match|Truncat|truncated|Packet corrupt"
    r"|Error during demuxing"
)
_NO_SIGN_OF_A_CUT: Final = ("wav", "w64")
"""They call the last packet of a stream from a pipe corrupt; their header says more."""
_DEMUXER: Final = re.compile(r"^in#0")
_WRITING: Final = re.compile(r"^(out#|[vasd]ost#|[vaf]+#|null|framecrc|graph|auto_)|enc:")
_HARMLESS: Final = re.compile(
    r"non monotonically increasing|Guessed Channel Layout|Timestamps are unset|co located POCs unavailable"
)


def judge(log: Log, tracks: Mapping[int, Track], container: Container) -> list[str]:
    """Warnings for the result about a source that was read to its end, and whose run succeeded.

    Raises ExecutorError: INVALID_PAYLOAD, not retryable, if the source is cut, damaged or empty.
    """
    wanted = {number: counts for number, counts in log.read.items() if counts.frames or counts.errors}
    if not any(counts.frames for counts in wanted.values()):
        raise nothing_decoded(log)
    reached = max((track.end for track in tracks.values()), default=0.0)
    promised = promised_seconds(log, container)

    # 1. Cut: the container or ffmpeg says so, or the header promises more than there was.
    reason = container.cut or _sign_of_a_cut(log)
    if reason:
        ends = min((tracks[number].end for number in wanted if number in tracks), default=reached)
        raise _cut(reached, promised, ends, reason)
    faults = _faults(log)
    if promised is not None and promised - reached > _tolerance(promised):
        # An AVI's header may promise frames of no length: without a fault they are believed.
        if faults or _first_format(log) != "avi":
            raise _cut(reached, promised, reached, faults[0] if faults else "")

    # 2. Holes: packets that can't be decoded, and jumps in time.
    warnings = []
    for number in wanted:
        lost, errors = _lost(log, tracks.get(number, Track()), number, has_faults=bool(faults))
        packets = max(1, log.read[number].packets)
        kind = "sound" if tracks.get(number, Track()).kind == "audio" else "video"
        if _is_too_much(log, lost, errors / packets, errors, reached):
            raise ExecutorError(
                INVALID_PAYLOAD,
                f"the source is damaged: about {lost:.2f} s of its {kind} of {reached:.2f} s can't be decoded"
                f"{_because(faults)}",
            )
        if lost > 0 and faults:
            warnings.append(f"about {lost:.2f} s of the source's {kind} could not be decoded{_because(faults)}")
    if faults and not warnings:
        warnings.append(f"the source has faults: {faults[0]}")
    if faults and _PICTURES.search(_first_format(log)):
        raise ExecutorError(INVALID_PAYLOAD, f"the source is damaged{_because(faults)}")

    # 3. What can't be told.
    for number in wanted:
        track = tracks.get(number, Track())
        if track.kind == "audio" and not faults:
            warnings += [f"the source has no sound from {gap.start:.2f} to {gap.end:.2f} s" for gap in track.gaps]
    if container.remark:
        warnings.append(container.remark)
    if promised is None and not container.is_whole and not _PICTURES.search(_first_format(log)):
        warnings.append(
            f"{_first_format(log)} does not say here how long the source should be: {reached:.2f} s were read, "
            "and whether more is missing can't be told"
        )
    return [warning[:WARNING_CHARACTERS] for warning in warnings[:MAX_WARNINGS]]


def promised_seconds(log: Log, container: Container) -> float | None:
    """The length of the source by its header; None if nothing there says it."""
    if container.promised is not None:
        return container.promised
    if log.is_estimated or _first_format(log) in _PROMISE_NOTHING:
        return None
    return log.duration


def _first_format(log: Log) -> str:
    return log.format.split(",")[0]


def _tolerance(promised: float) -> float:
    return max(IMPRECISE_SECONDS, min(IMPRECISE_PART * promised, MOST_IMPRECISE_SECONDS))


def _sign_of_a_cut(log: Log) -> str:
    name = _first_format(log)
    for complaint in log.complaints:
        if _DEMUXER.match(complaint.context) and (found := _CUT.search(complaint.text)):
            if found[0] == "Packet corrupt" and (name in _NO_SIGN_OF_A_CUT or name in ("mpegts", "mpeg")):
                continue
            return "its last packet is incomplete" if found[0] == "Packet corrupt" else clean(complaint.text)
    return ""


def _cut(reached: float, promised: float | None, ends: float, reason: str) -> ExecutorError:
    because = f" ({reason})" if reason else ""
    if promised is None:
        detail = f"the source ends too early, after {reached:.2f} s{because}"
    elif reached < promised - 0.005:
        detail = f"the source ends after {reached:.2f} s of the {promised:.2f} s that its header promises{because}"
    else:
        detail = f"the source is incomplete: a stream ends after {ends:.2f} s of {promised:.2f} s{because}"
    return ExecutorError(INVALID_PAYLOAD, f"{detail}; send the whole file")


def _faults(log: Log) -> list[str]:
    """Complaints about the source's content."""
    name = _first_format(log)
    return [
        clean(complaint.text)
        for complaint in log.complaints
        if _is_fault(complaint) and not (name in _NO_SIGN_OF_A_CUT and "corrupt" in complaint.text)
    ]


def _is_fault(complaint: Complaint) -> bool:
    if _WRITING.search(complaint.context) or _HARMLESS.search(complaint.text):
        return False
    return complaint.is_error or "orrupt" in complaint.text


def _lost(log: Log, track: Track, number: int, *, has_faults: bool) -> tuple[float, int]:
    """The seconds of a stream that are missing in the output, roughly, and its packets with errors."""
    counts = log.read[number]
    errors = counts.errors + log.corrupt_frames.get(number, 0)
    lost = errors * track.seconds / max(1, counts.packets)
    # Without sound for a while is normal for a video of variable rate, and suspicious after a fault.
    if has_faults and (track.kind == "audio" or _has_demuxer_fault(log)):
        lost += sum(gap.end - gap.start for gap in track.gaps)
    return lost, errors


def _has_demuxer_fault(log: Log) -> bool:
    return any(_DEMUXER.match(complaint.context) and _is_fault(complaint) for complaint in log.complaints)


def _is_too_much(log: Log, lost: float, part: float, errors: int, length: float) -> bool:
    if _first_format(log) in _RECORDINGS:
        return lost > max(LOST_SECONDS, LOST_PART_OF_RECORDING * length)
    return lost > LOST_SECONDS or (errors > 1 and part > LOST_PART)


def _because(faults: list[str]) -> str:
    return f": {faults[0]}" if faults else ""


__all__ = ["judge", "promised_seconds", "telling_line"]
