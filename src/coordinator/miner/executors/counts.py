"""The units of work besides its time, as an Outcome has them."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from coordinator.domain.matching.units import NANO, text_of
from coordinator.services.base import OutputFile


def gigabytes(files: Iterable[OutputFile]) -> str:
    """The GB of these files: bytes are billionths of them."""
    return text_of(sum(file["size"] for file in files))


def media_minutes(seconds: float | str) -> str:
    """The minutes of a recording of so many seconds, rounded down to a billionth."""
    return text_of(int(Fraction(str(seconds)) * NANO / 60))
