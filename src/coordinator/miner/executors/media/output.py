"""The measures of an output file, and whether it is what was asked for.

Encoders write files that no decoder reads, and exit with 0. So an output counts only after all of its frames
and samples were decoded, and were as many as went into the encoder.
ffmpeg's progress is no measure: it counts decoding times, and misses the last frames of an encoder that
reorders them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from coordinator.miner.executors.errors import EXECUTOR_FAILED, INVALID_PAYLOAD, ExecutorError
from coordinator.miner.executors.media.complaints import telling_line
from coordinator.miner.executors.media.log import Complaint, Counts, Log, Stream
from coordinator.miner.executors.media.packets import PACKETS_FILE, Track, read_packets
from coordinator.miner.executors.media.run import NO_BANNER, RunLimits, run_ffmpeg
from coordinator.miner.executors.media.source import LOST_PART, LOST_SECONDS, faults_of_reading

ENCODER_SECONDS: Final = 0.25
"""Encoders pad the last frame of sound, and begin before the first: 1,024 samples twice, at 8 kHz."""
_NAMES: Final = {"video": "video", "audio": "sound"}
"""Kinds of streams that are decoded."""


@dataclass(frozen=True, slots=True)
class Output:
    """A file that ffmpeg can open; its tracks in their order, and its streams by number."""

    tracks: list[Track]
    streams: Mapping[int, Stream] = field(default_factory=dict)
    decoded: Mapping[int, Counts] = field(default_factory=dict)
    """What came out of the decoders, by number; errors are packets and frames that are faulty."""
    complaints: Sequence[Complaint] = ()
    """Faults that its demuxer and decoders name."""

    @property
    def sound(self) -> Stream | None:
        """The first stream of sound."""
        return next((stream for stream in self.streams.values() if stream.kind == "audio"), None)

    @property
    def seconds(self) -> float:
        """From the beginning of the first track to the end of the last."""
        starts = [track.start for track in self.tracks if track.start is not None]
        return max((track.end for track in self.tracks), default=0.0) - min(starts, default=0.0)

    def check(self, kinds: Collection[str], seconds: tuple[float, float] | None = None) -> None:
        """Check that it has content of these kinds (`audio`, `video`), and a length within these bounds.

        Raises ExecutorError: EXECUTOR_FAILED, as the source was good.
        """
        for kind in kinds:
            if not any(track.packets for track in self.tracks if track.kind == kind):
                what = "sound" if kind == "audio" else "pictures"
                raise ExecutorError(EXECUTOR_FAILED, f"the output has no {what}, though the source has")
        if seconds is not None and not seconds[0] <= self.seconds <= seconds[1]:
            low, high = seconds
            expected = f"{low:.2f} s" if low == high else f"{low:.2f} to {high:.2f} s"
            raise ExecutorError(
                EXECUTOR_FAILED, f"the output is {self.seconds:.2f} s long, in place of {expected}"
            )

    def check_decoded(self, encoding: Log) -> list[str]:
        """Check that all that the encoder was given comes out again; returns warnings about copied tracks.

        `encoding` is the log of the run that made the file. Raises ExecutorError: EXECUTOR_FAILED, or
        INVALID_PAYLOAD if too much of a track that was copied from the source can't be decoded.
        """
        warnings: list[str] = []
        copies = False
        for number, stream in self.streams.items():
            if stream.kind not in _NAMES or stream.is_cover:
                continue
            there = self.decoded.get(number, Counts())
            if (0, number) in encoding.copied:
                copies = True
                warnings += self._judge_copied(stream, there)
                continue
            name, given = _NAMES[stream.kind], encoding.written.get(number)
            if there.errors:
                raise _broken(
                    f"{there.errors} of the {there.packets} packets of its {name} can't be decoded",
                    self.complaints,
                )
            # Two threads of ffmpeg may write into one line of its log. Then the file's own packets say how
            # many frames there are, and `check` has compared the length of the sound with the source's.
            frames = given.frames if given is not None else there.packets
            if stream.kind == "video" and there.frames != frames:
                raise _broken(
                    f"{there.frames} of the {frames} frames of its video come back", self.complaints
                )
            before = _seconds(given, encoding.made.get(number))
            after = _seconds(there, stream) or 0.0
            if stream.kind == "audio" and (
                after == 0 or (before is not None and abs(after - before) > ENCODER_SECONDS)
            ):
                raise _broken(
                    f"{after:.2f} of the {before or 0:.2f} s of its sound come back", self.complaints
                )
        if self.complaints and not copies:
            raise _broken("its decoder complains", self.complaints)
        return warnings

    def _judge_copied(self, stream: Stream, there: Counts) -> list[str]:
        """A warning if some of a track that was not encoded here can't be decoded."""
        if not there.errors:
            return []
        part = there.errors / max(1, there.packets)
        seconds = part * self.seconds
        told = (
            f"about {seconds:.2f} s of its {_NAMES[stream.kind]}, which was copied, can't be decoded: "
            f"{telling_line(self.complaints)}"
        )
        if seconds > LOST_SECONDS or (there.errors > 1 and part > LOST_PART):
            raise ExecutorError(INVALID_PAYLOAD, f"the source is damaged: {told}")
        return [f"the source has faults: {told}"]


def _seconds(counts: Counts | None, stream: Stream | None) -> float | None:
    """The length of a sound; None if its log does not tell."""
    if counts is None or stream is None or not stream.sample_rate:
        return None
    return counts.samples / stream.sample_rate


def _broken(reason: str, complaints: Sequence[Complaint]) -> ExecutorError:
    told = telling_line(complaints, otherwise="")
    return ExecutorError(EXECUTOR_FAILED, f"the output is broken: {reason}" + (f" ({told})" if told else ""))


async def measure(program: str, path: Path, *, limits: RunLimits, threads: int) -> Output:
    """Read an output, and decode all of its pictures and its sound with this number of threads.

    Only decoded sound tells its length to the sample.
    Raises ExecutorError: EXECUTOR_FAILED if it can't be opened or decoded, and the errors of limits.
    """
    try:
        log = await run_ffmpeg(
            [
                *(program, *NO_BANNER, "-threads", str(threads), "-i", f"file:{path.name}"),
                *("-map", "0:v?", "-c:v", "copy", "-map", "0:a?", "-c:a", "pcm_s16le"),
                *("-f", "framecrc", f"file:{PACKETS_FILE}"),
                # The filter lets the first frame pass: frames that are far apart would be repeated here.
                *(
                    "-map",
                    "0:v?",
                    "-filter:v",
                    "select=eq(n\\,0)",
                    "-map",
                    "0:a?",
                    "-c:a",
                    "copy",
                    "-f",
                    "null",
                    "-",
                ),
            ],
            folder=path.parent,
            limits=limits,
        )
    except ExecutorError as error:
        if error.code != INVALID_PAYLOAD:
            raise
        raise ExecutorError(EXECUTOR_FAILED, f"the output can't be read again: {error.detail}") from None
    listed = path.parent / PACKETS_FILE
    tracks = await asyncio.to_thread(read_packets, listed)
    listed.unlink(missing_ok=True)
    decoded = {
        number: counts._replace(errors=counts.errors + log.corrupt_frames.get(number, 0))
        for number, counts in log.read.items()
    }
    return Output(list(tracks.values()), log.streams, decoded, faults_of_reading(log))
