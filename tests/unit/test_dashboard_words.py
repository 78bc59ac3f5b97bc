"""Numbers, times and timelines as every page of the dashboard has them."""

from __future__ import annotations

import pytest

from coordinator.edge.dashboard import words
from coordinator.edge.dashboard.data.job import TimelineLane, TimelineSpan
from coordinator.edge.dashboard.timeline import LEAST_WIDTH, timeline
from tests.harness.cases import every


@every(
    ("millis", "text"),
    [
        (None, "–"),
        (-5, "0 s"),
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1.0 s"),
        (9_940, "9.9 s"),
        (10_000, "10 s"),
        (59_999, "59 s"),
        (60_000, "1 min"),
        (252_000, "4 min 12 s"),
        (3_599_999, "59 min 59 s"),
        (3_600_000, "1 h"),
        (86_399_999, "23 h 59 min"),
        (86_400_000, "1 d"),
        (90_000_000, "1 d 1 h"),
        (864_000_000_000, "10,000 d"),
    ],
)
def test_spans_of_time(millis: int | None, text: str) -> None:
    """The two largest units; nothing is rounded up to more than has passed."""
    assert text == words.duration(millis)


def test_sizes_and_numbers() -> None:
    """Each with its unit, and with separators where it is long."""
    assert ["0 B", "999 B", "1.0 kB", "1.4 MB", "100 GB", "5,000.0 TB", "–"] == [
        words.size(octets) for octets in (0, 999, 1000, 1_400_000, 10**11, 5 * 10**15, None)
    ]
    assert ["48,211", "3.5", "–"] == [words.number(48211), words.number(3.49, 1), words.number(None)]
    assert ["1 job", "0 jobs", "1,200 jobs"] == [words.plural(n, "job") for n in (1, 0, 1200)]


def test_sentences_are_in_the_readers_time() -> None:
    """Moments become elements that the page's script writes anew; all else stays text."""
    told = words.sentence("Ended FAILED (X) at 2026-01-31T12:00:00.250Z: <b> & 2026-01-31")
    at = '<time datetime="2026-01-31T12:00:00.250Z" data-show="clock">2026-01-31T12:00:00.250Z</time>'
    assert f"Failed (X) at {at}: &lt;b&gt; &amp; 2026-01-31" == told
    assert "Waits: no miner is online" == words.sentence("Waits: no miner is online")


@pytest.mark.parametrize("text", ["9999-99-99T99:99:99Z", "2026-02-30T00:00:00Z", "0000-01-01T00:00:00Z"])
def test_no_stranger_writes_a_moment_that_is_none(text: str) -> None:
    """A browser's script could not format it, and would end."""
    assert f"canceled: {text}" == words.sentence(f"canceled: {text}")


def test_a_state_is_a_word_and_a_shape() -> None:
    """Every state of a job and a miner has a shape of its own, whatever its colour."""
    shapes = {path for _, path in words.STATE_SHAPES.values()}
    assert len(words.STATE_SHAPES) - 2 <= len(shapes)  # a warning waits, and a notice is online
    for state in ("QUEUED", "RUNNING", "COMPLETED", "FAILED", "CANCELED", "EXPIRED"):
        assert state.lower() in words.state(state)
    assert "&lt;script&gt;" in words.state("<script>")


def test_a_timeline_lies_within_its_lane() -> None:
    """Spans are where their times are, in percent; a moment can be seen, and an open span ends now."""
    lanes = (
        TimelineLane(
            name="queued",
            label="queued",
            spans=(TimelineSpan(begin=1000, end=3000, outcome="completed", text="waited"),),
        ),
        TimelineLane(
            name="attempt",
            label="attempt 1",
            spans=(TimelineSpan(begin=3000, end=None, outcome="runs", text="rig"),),
        ),
        TimelineLane(
            name="result",
            label="result",
            spans=(TimelineSpan(begin=11_000, end=11_000, outcome="completed", text=""),),
        ),
        TimelineLane(name="offered", label="offered", spans=()),
    )
    drawn = timeline(lanes, now=11_000)
    assert drawn is not None
    assert ["queued", "attempt 1", "result"] == [lane.label for lane in drawn.lanes]
    assert [(0.0, 20.0), (20.0, 80.0), (100 - LEAST_WIDTH, LEAST_WIDTH)] == [
        (lane.bars[0].left, lane.bars[0].width) for lane in drawn.lanes
    ]
    assert (1000, 4333, 7666, 11_000) == drawn.ticks
    assert timeline((), now=5) is None
