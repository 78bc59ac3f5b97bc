"""A job's timeline: where each span of each lane lies, in hundredths of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from coordinator.domain.messages import Millis
from coordinator.edge.dashboard.data.job import Outcome, TimelineLane

LEAST_WIDTH: Final = 0.6
"""Percent: a moment can be seen, too."""
TICKS: Final = 4


class Bar(NamedTuple):
    """One span as it is drawn. `left` and `width` are percent of the lane."""

    left: float
    width: float
    outcome: Outcome
    text: str
    begin: Millis
    end: Millis | None


class DrawnLane(NamedTuple):
    label: str
    name: str
    bars: tuple[Bar, ...]


class Timeline(NamedTuple):
    lanes: tuple[DrawnLane, ...]
    ticks: tuple[Millis, ...]
    """The moments under the lanes, from the first to the last."""


def timeline(lanes: Sequence[TimelineLane], now: Millis) -> Timeline | None:
    """The lanes as they are drawn; None if there is nothing to draw."""
    spans = [span for lane in lanes for span in lane.spans]
    if not spans:
        return None
    first = min(span.begin for span in spans)
    last = max(now if span.end is None else span.end for span in spans)
    whole = max(1, last - first)

    def bar(begin: Millis, end: Millis | None) -> tuple[float, float]:
        left = 100 * (begin - first) / whole
        width = 100 * ((last if end is None else end) - begin) / whole
        width = max(LEAST_WIDTH, width)
        return round(min(left, 100 - width), 3), round(width, 3)

    drawn = tuple(
        DrawnLane(
            lane.label,
            lane.name,
            tuple(
                Bar(*bar(span.begin, span.end), span.outcome, span.text, span.begin, span.end)
                for span in lane.spans
            ),
        )
        for lane in lanes
        if lane.spans
    )
    return Timeline(drawn, tuple(first + whole * i // (TICKS - 1) for i in range(TICKS)))
