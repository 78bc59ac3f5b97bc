"""The verdict on a source: whether all that its header promises was there and could be decoded.

A result from half a source looks like a success, is paid, and makes clients delete originals. So a source
that is cut or has holes is refused, with the seconds reached and promised. What its format can't tell, and
small faults, are warnings in the result.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.miner.executors.errors import INVALID_PAYLOAD, ExecutorError
from coordinator.miner.executors.media.complaints import clean, nothing_decoded, says_something
from coordinator.miner.executors.media.containers import Container
from coordinator.miner.executors.media.log import Complaint, Log, Stream
from coordinator.miner.executors.media.packets import Gap, Track

MAX_WARNINGS: Final = 20
WARNING_CHARACTERS: Final = 300
IMPRECISE_SECONDS: Final = 0.25
"""Headers count a frame's padding, or round: a shorter source by less than this is a whole one."""
IMPRECISE_PART: Final = 0.01
MOST_IMPRECISE_SECONDS: Final = 2.0
"""A hundredth of a long source is more than any rounding."""
NEARLY_SECONDS: Final = 0.05
"""A source that ends this much before its promise ends there, and lacks something else."""
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
_CORRUPT: Final = "Packet corrupt"
_CUT: Final = {
    "partial file": "the file ends inside of it",
    "File ended prematurely": "the file ends inside of a block",
    "filesize and duration do not match": "the file is smaller than its header says",
    "runcat": "a packet is cut",
    _CORRUPT: "its last packet is incomplete",
    "Error during demuxing": "the rest can't be read",
}
"""ffmpeg's words for a file that ends too early, and ours."""
_STREAMED: Final = ("mpegts", "mpeg")
"""They call any packet corrupt behind which one is missing."""
_NO_SIGN_OF_A_CUT: Final = ("wav", "w64")
"""They call the last packet of a stream from a pipe corrupt; their header says more."""
_WRITING: Final = re.compile(r"^(out#|[vasd]ost#|[vaf]+#|null|framecrc|graph|auto_)|enc:")
_HARMLESS: Final = re.compile(
    r"non monotonically increasing|Guessed Channel Layout|Timestamps are unset|co located POCs unavailable"
)


def judge(log: Log, tracks: Mapping[int, Track], container: Container) -> list[str]:
    """Warnings for the result about a source that was read to its end, and whose run succeeded.

    Raises ExecutorError: INVALID_PAYLOAD, not retryable, if the source is cut, damaged or empty.
    """
    wanted = [number for number, counts in log.read.items() if counts.frames or counts.errors]
    if not any(log.read[number].frames for number in wanted):
        raise nothing_decoded(log)
    name = _first_format(log)
    faults = _faults(log, wanted)
    reached = max((track.end for track in tracks.values()), default=0.0)
    promised = promised_seconds(log, container)
    warnings: list[str] = []

    # 1. Cut: the container or ffmpeg says so, or the header promises more than there was.
    if reason := container.cut or _sign_of_a_cut(log):
        ends = min((tracks[number].end for number in wanted), default=reached)
        raise _cut(reached, promised, ends, reason)
    if promised is not None and promised - reached > _tolerance(promised):
        # An AVI may promise frames that it leaves out: without a fault that is no damage.
        if faults or name != "avi":
            raise _cut(reached, promised, reached, _words(faults))
        warnings.append(f"the header promises {promised:.2f} s, and {reached:.2f} s were there")

    # 2. Holes: packets that can't be decoded, and jumps in time.
    if faults and _PICTURES.search(name):
        raise ExecutorError(INVALID_PAYLOAD, f"the source is damaged: {_words(faults)}")
    for number in wanted:
        if tracks[number].kind == "subtitle":
            continue  # between two lines nothing is missing
        loss = _loss(log, tracks[number], number, faults)
        if loss.is_too_much(of_recording=name in _RECORDINGS):
            raise ExecutorError(
                INVALID_PAYLOAD,
                f"the source is damaged: about {loss.seconds:.2f} s of its {loss.kind} of "
                f"{loss.length:.2f} s can't be decoded: {loss.reason}",
            )
        warnings += loss.warnings()
    if faults and not warnings:
        warnings.append(f"the source has faults: {_words(faults)}")

    # 3. What can't be told.
    if container.remark:
        warnings.append(container.remark)
    is_picture = bool(_PICTURES.search(name)) and not _is_series(log, name)
    if promised is None and not container.is_whole and not is_picture:
        warnings.append(
            f"{name} does not say here how long the source should be: {reached:.2f} s were read, and whether "
            "more is missing can't be told"
        )
    return [warning[:WARNING_CHARACTERS] for warning in warnings[:MAX_WARNINGS]]


def promised_seconds(log: Log, container: Container) -> float | None:
    """The length of the source by its header; None if nothing there says it."""
    if container.promised is not None:
        return container.promised
    if container.is_open or log.is_estimated or _first_format(log) in _PROMISE_NOTHING:
        return None
    return log.duration


def _is_series(log: Log, name: str) -> bool:
    """Whether these are pictures one after the other, such as a camera's JPEGs, which nothing counts."""
    return name.endswith("_pipe") and max(counts.frames for counts in log.read.values()) > 1


def _first_format(log: Log) -> str:
    return log.format.split(",")[0]


def _tolerance(promised: float) -> float:
    return max(IMPRECISE_SECONDS, min(IMPRECISE_PART * promised, MOST_IMPRECISE_SECONDS))


def _sign_of_a_cut(log: Log) -> str:
    name = _first_format(log)
    for complaint in log.complaints:
        if not _is_demuxers(log, complaint):
            continue
        for words, reason in _CUT.items():
            if words not in complaint.text:
                continue
            if words == _CORRUPT and name in (*_NO_SIGN_OF_A_CUT, *_STREAMED):
                continue
            return reason
    return ""


def _cut(reached: float, promised: float | None, ends: float, reason: str) -> ExecutorError:
    because = f" ({reason})" if reason else ""
    if promised is None:
        detail = f"the source ends too early, after {reached:.2f} s{because}"
    elif reached < promised - NEARLY_SECONDS:
        told = f"{reached:.2f} s of the {promised:.2f} s that its header promises"
        detail = f"the source ends after {told}{because}"
    else:
        detail = (
            f"the source is incomplete: it has {ends:.2f} s of {promised:.2f} s, and lacks a part{because}"
        )
    return ExecutorError(INVALID_PAYLOAD, f"{detail}; send the whole file")


def _faults(log: Log, wanted: Collection[int]) -> list[Complaint]:
    """Complaints about what was wanted of the source, the most telling ones first."""
    codecs = {stream.codec for number, stream in log.streams.items() if number in wanted}
    others = {stream.codec for number, stream in log.streams.items() if number not in wanted} - codecs
    doubtful = "corrupt" if _first_format(log) in _NO_SIGN_OF_A_CUT else None
    found = [
        complaint
        for complaint in faults_of_reading(log)
        if not (doubtful and doubtful in complaint.text) and _part(complaint) not in others
    ]
    return sorted(found, key=lambda complaint: not says_something(complaint))


def faults_of_reading(log: Log) -> list[Complaint]:
    """What demuxers and decoders complain of, without what comes from writing and what means nothing."""
    return [
        complaint
        for complaint in log.complaints
        if (complaint.is_error or "orrupt" in complaint.text)
        and not _WRITING.search(complaint.context)
        and not _HARMLESS.search(complaint.text)
    ]


def _part(complaint: Complaint) -> str:
    """The decoder or demuxer that complains."""
    return complaint.context.rpartition(" ")[2].rpartition(":")[2]


def _is_demuxers(log: Log, complaint: Complaint) -> bool:
    return complaint.context.startswith("in#0") or complaint.context == log.format


def _words(faults: Sequence[Complaint]) -> str:
    return clean(faults[0].text) if faults else ""


@dataclass(frozen=True, slots=True)
class _Loss:
    """The part of a stream that was read and is not in the output, roughly."""

    kind: str
    length: float
    seconds: float
    part: float
    errors: int
    gaps: Sequence[Gap]
    unexplained: float
    reason: str

    def is_too_much(self, *, of_recording: bool) -> bool:
        if of_recording:
            return self.seconds > max(LOST_SECONDS, LOST_PART_OF_RECORDING * self.length)
        return self.seconds > LOST_SECONDS or (self.errors > 1 and self.part > LOST_PART)

    def warnings(self) -> list[str]:
        if self.seconds > 0:
            lost = f"about {self.seconds:.2f} s of the source's {self.kind}"
            return [f"{lost} could not be decoded: {self.reason}"]
        if self.gaps:
            longest = max(self.gaps, key=lambda gap: gap.end - gap.start)
            more = f", and {len(self.gaps) - 1} shorter gaps" if len(self.gaps) > 1 else ""
            what = f"the source has no {self.kind} from {longest.start:.2f} to {longest.end:.2f} s"
            return [f"{what}{more}"]
        if self.unexplained > LOST_SECONDS:
            return [f"about {self.unexplained:.2f} s of the source's sound are missing between its packets"]
        return []


def _loss(log: Log, track: Track, number: int, faults: Sequence[Complaint]) -> _Loss:
    counts, is_sound = log.read[number], track.kind == "audio"
    stream = log.streams.get(number, Stream("", "", 0, 0.0, is_cover=False))
    own = [fault for fault in faults if _is_demuxers(log, fault) or stream.codec in fault.context]
    errors = counts.errors + log.corrupt_frames.get(number, 0)
    seconds = errors * track.seconds / max(1, counts.packets)
    between = sum(gap.end - gap.start for gap in track.gaps)
    # Nothing for a while is normal for a video of variable rate, and suspicious after a fault of the file.
    if own and (is_sound or any(_is_demuxers(log, fault) for fault in own)):
        seconds += between
    heard = counts.samples / stream.sample_rate if stream.sample_rate else track.seconds
    return _Loss(
        kind="sound" if is_sound else "video",
        length=track.end,
        seconds=seconds,
        part=errors / max(1, counts.packets),
        errors=errors,
        gaps=() if own else [gap for gap in track.gaps if is_sound or gap.end - gap.start > LOST_SECONDS],
        unexplained=track.end - max(0.0, track.start or 0.0) - between - heard if is_sound else 0.0,
        reason=_words(own or faults),
    )
