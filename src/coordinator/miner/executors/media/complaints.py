"""The cause of a failure in ffmpeg's words: one code for one cause, in every service.

ffmpeg ends most failures with a generic line; the telling one comes earlier. Details are for clients: without
addresses and paths, and with what to do next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from coordinator.miner.executors.errors import (
    EXECUTOR_FAILED,
    INPUT_TOO_LARGE,
    INVALID_PAYLOAD,
    RESOURCE_LIMIT,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.executors.limits import Bound
from coordinator.miner.executors.media.log import Complaint, Log
from coordinator.miner.executors.process import killed
from coordinator.miner.executors.usage import out_of_memory, too_much_memory

DETAIL_CHARACTERS: Final = 300
_GENERIC: Final = re.compile(
    r"Task finished with error|Terminating thread|Error sending frames|Error opening (input|output)"
    r"|Error parsing options|Nothing was written|Could not open encoder|Error while opening encoder"
    r"|Conversion failed|Error (closing|writing trailer)|Failed to set value|Error submitting a packet"
    r"|maybe incorrect parameters|Cannot determine format of input|Error processing packet"
    r"|Error submitting packet to decoder|Decoding error|corrupt decoded frame|Decode error rate"
    r"|Truncating packet of size|Error while decoding stream"
)
_ADDRESS: Final = re.compile(r" @ 0x[0-9a-f]+|\b0x[0-9a-f]{6,}\b")
_PATH: Final = re.compile(r"(file:)?(/[\w.+-]+){2,}|file:[\w.+-]+")
_ENCODER_REFUSES: Final = re.compile(r"Error while opening encoder|\[enc:[^\]]*\] .*Error initializing")
_ENCODER: Final = re.compile(r"enc:([\w-]+)|^[va]ost#\S+/([\w-]+)")
_NO_STREAM: Final = re.compile(r"matches no streams|Failed to set value '0:(\w)")
_UNREADABLE: Final = re.compile(r"Invalid data found when processing input|Error while opening decoder")


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause of failures: `pattern` finds it in ffmpeg's words, `detail` may name its groups."""

    pattern: re.Pattern[str]
    code: str
    detail: str
    retryable: bool = False


CAUSES: Final = (
    Cause(
        re.compile(r"exceeds specified max pixel count (\d+)"),
        INPUT_TOO_LARGE,
        "the source has frames of more than {0} pixels",
    ),
    Cause(
        re.compile(r"exceeds max_streams parameter \((\d+)\)"),
        INPUT_TOO_LARGE,
        "the source has more than {0} streams",
    ),
    Cause(
        re.compile(r"No space left on device|Disk quota exceeded"),
        RESOURCE_LIMIT,
        "no space is left on the miner's disk",
        retryable=True,
    ),
    Cause(
        re.compile(r"Format not on whitelist"),
        INVALID_PAYLOAD,
        "the source is not a media file of a format that is read here; mp4, mov, mkv, webm, avi, mxf, ts, "
        "mp3, m4a, wav, aiff, flac and ogg are, and some more",
    ),
    Cause(
        re.compile(r"moov atom not found"),
        INVALID_PAYLOAD,
        "the source has no index (moov atom not found): it was cut, or its recording never ended; send the "
        "whole file",
    ),
    Cause(
        re.compile(r"[Nn]o decoder found for: (\S+)|Decoder \(codec (\S+)\) not found"),
        UNSUPPORTED,
        "this miner has no decoder for {0}",
        retryable=True,
    ),
    Cause(
        re.compile(r"Unknown encoder '([\w-]+)'|Encoder not found"),
        UNSUPPORTED,
        "this miner has no encoder {0}",
        retryable=True,
    ),
    Cause(
        re.compile(r"codec not currently supported in container|Could not write header|Unsupported codec"),
        EXECUTOR_FAILED,
        "the output's format does not take this stream: {line}; choose another codec or format",
    ),
)
"""In the order in which they are looked for. What depends on more than a line is in `failure`."""


def failure(log: Log, returncode: int, stderr: str, memory: Bound) -> ExecutorError:
    """The error of a run that ended with this return code, other than 0; `stderr` is its end."""
    if returncode < 0:
        return killed(returncode)
    complaints = log.complaints
    for cause in CAUSES[:2]:  # before memory: ffmpeg calls too many streams a lack of it
        if error := _error_of(cause, complaints):
            return error
    if out_of_memory(stderr):
        return too_much_memory(memory)
    for cause in CAUSES[2:]:
        if error := _error_of(cause, complaints):
            return error
    told = telling_line(complaints)
    if any(_NO_STREAM.search(complaint.text) for complaint in complaints):
        return ExecutorError(INVALID_PAYLOAD, f"the source has no {_wanted(complaints)}")
    if not log.format:
        return ExecutorError(
            INVALID_PAYLOAD, f"the source is not a media file of a format that is read here ({told})"
        )
    if log.read and not any(counts.frames for counts in log.read.values()):
        return nothing_decoded(log)
    for complaint in complaints:
        if _ENCODER_REFUSES.search(complaint.text):
            encoder = next(filter(None, _names(complaint.context)), "the encoder")
            return ExecutorError(EXECUTOR_FAILED, f"{encoder} does not take its settings: {told}")
    if any(_UNREADABLE.search(complaint.text) for complaint in complaints):
        return ExecutorError(INVALID_PAYLOAD, f"the source can't be decoded: {told}")
    return ExecutorError(EXECUTOR_FAILED, told)


def nothing_decoded(log: Log) -> ExecutorError:
    """The error of a source in which there is nothing: no sample and no frame."""
    reason = telling_line(log.complaints, otherwise="it is empty")
    return ExecutorError(INVALID_PAYLOAD, f"nothing in the source can be decoded: {reason}")


def telling_line(complaints: Iterable[Complaint], *, otherwise: str = "ffmpeg gave no reason") -> str:
    """The first error that says something, as text for clients."""
    errors = [complaint for complaint in complaints if complaint.is_error]
    telling = [complaint for complaint in errors if says_something(complaint)]
    for complaint in telling or errors:
        return clean(complaint.text)
    return otherwise


def says_something(complaint: Complaint) -> bool:
    """Whether a complaint is more than "something failed"."""
    return not _GENERIC.search(complaint.text)


def clean(text: str) -> str:
    """A line of ffmpeg's without addresses, paths, and the names of our files."""
    text = _PATH.sub("the file", _ADDRESS.sub("", text))
    return " ".join(text.split()).rstrip(".")[:DETAIL_CHARACTERS]


def _error_of(cause: Cause, complaints: Iterable[Complaint]) -> ExecutorError | None:
    for complaint in complaints:
        if found := cause.pattern.search(complaint.text):
            group = next(filter(None, found.groups()), "") if found.re.groups else ""
            detail = cause.detail.format(group, line=clean(complaint.text))
            return ExecutorError(cause.code, detail[:DETAIL_CHARACTERS].rstrip(), retryable=cause.retryable)
    return None


def _wanted(complaints: Iterable[Complaint]) -> str:
    """The kind of stream that the source lacks, by the map that found none."""
    kinds: Callable[[str], str | None] = {"a": "sound", "v": "pictures", "V": "pictures"}.get
    for complaint in complaints:
        if (found := re.search(r"'0:(\w)", complaint.text)) and (kind := kinds(found[1])):
            return kind
    return "such stream"


def _names(context: str) -> list[str]:
    found = _ENCODER.search(context)
    return [name for name in found.groups() if name] if found else []
