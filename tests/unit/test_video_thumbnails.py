"""A frame at a moment: other ways to it where seeking finds none."""

from __future__ import annotations

from coordinator.miner.executors.ffmpeg.thumbnails import other_ways
from coordinator.miner.executors.media.log import Log, Stream
from tests.harness.cases import every

SEEKING = ("ffmpeg", "-ss", "5.000", "-i", "file:input", "-map", "0:V:0", "file:output")
EARLIER = ["ffmpeg", "-ss", "4.900", *SEEKING[3:]]
DECODING = ["ffmpeg", "-i", "file:input", "-ss", "5.000", "-map", "0:V:0", "file:output"]
BOTH = ["ffmpeg", "-i", "file:input", "-ss", "4.900", "-map", "0:V:0", "file:output"]


@every(
    ("container", "duration", "expected"),
    [
        ("mov,mp4,m4a", 5.05, [EARLIER, BOTH]),
        ("mov,mp4,m4a", 5.0, []),
        ("mov,mp4,m4a", None, []),
        ("mpeg", 5.05, [DECODING, BOTH]),
        ("mpeg", 2.1, [DECODING, BOTH]),
        ("mpeg", 2.0, []),
    ],
)
def test_other_ways_to_a_frame(container: str, duration: float | None, expected: list[list[str]]) -> None:
    """An index is believed, a guessed length up to its double; beyond the end nothing is decoded."""
    log = Log(container, duration, streams={0: Stream("video", "h264", 0, 10.0, is_cover=False)})
    assert expected == list(other_ways(SEEKING, 5.0, log))
