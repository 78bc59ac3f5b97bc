"""A dashboard is rows of panels, and a panel is its queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

RATE: Final = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """One panel. `queries`: expression and legend of each."""

    title: str
    about: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    """As Grafana names units: `s`, `bytes`, `percentunit`, `ops`, `short`."""
    kind: Literal["timeseries", "stat"] = "timeseries"
    stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    rows: Sequence[tuple[str, Sequence[Panel]]]


def quantiles(metric: str, *, by: str = "", where: str = "") -> list[tuple[str, str]]:
    """The median and the slowest tenth and hundredth of a histogram."""
    group, legend = ("(le)", "") if not by else (f"(le, {by})", f" {{{{{by}}}}}")
    return [
        (
            f"histogram_quantile({q}, sum by {group} (rate({metric}_bucket{where}{RATE})))",
            f"p{q * 100:g}{legend}",
        )
        for q in (0.5, 0.9, 0.99)
    ]
