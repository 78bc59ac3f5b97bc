"""The units of a bill besides GPU time: their names, their numbers, and the numbers that results show.

A number of units is a decimal text with nine decimals at most; calculations are in whole nano-units.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal as Exact
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import Field, StrictBool, model_validator

from coordinator.domain.messages import Message

TimeUnit = Literal["second", "minute", "hour"]
"""Of GPU time, which is billed by the second."""
CountedUnit = Literal["frame", "gb", "token", "output_token", "image", "media_minute", "unit"]
"""`gb`: 10⁹ bytes; `token`: read or written; `output_token`: written; `media_minute`: of sound or pictures,
however long the work takes."""
PriceUnit = Literal[TimeUnit, CountedUnit]
COUNTED: Final[tuple[CountedUnit, ...]] = get_args(CountedUnit)
UNIT_TYPES: Final[dict[CountedUnit | None, str]] = {
    None: "gpu_seconds",
    "frame": "frames",
    "gb": "gigabytes",
    "token": "tokens",
    "output_token": "output_tokens",
    "image": "images",
    "media_minute": "media_minutes",
    "unit": "units",
}
"""The words of receipts."""
WHOLE: Final[frozenset[str]] = frozenset({"frame", "token", "output_token", "image"})
"""Units that can't be divided."""
NANO: Final = 10**9
MOST_UNITS: Final = 10**9
"""In one bill; the limit of a job whose payload tells none."""
_MOST_SHOWN: Final = 1e21
"""MOST_UNITS of the greatest `per`; a greater float is no count."""
_DECIMAL: Final = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?")


class ShownBy(Message):
    """A number that a result shows: a member, or the bytes of the files that the miner uploaded for it."""

    member: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """The path of a member, with dots: `usage.completion_tokens`. A number counts as itself, others count by
    their length; in a list of objects the numbers add up. A missing member counts 0."""
    blob_bytes: StrictBool = False
    """The bytes of the files instead, as the coordinator stored them."""
    per: Annotated[int, Field(strict=True, ge=1, le=10**12)] = 1
    """The number that makes one unit: 60 for minutes from a member in seconds, 10⁹ for GB from bytes."""

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.member is None) is not self.blob_bytes:
            raise ValueError("give either member or blob_bytes")
        return self


def is_counted(unit: str) -> bool:
    """Whether units of this name are counted, and not measured as time."""
    return unit in COUNTED


def nanos(text: str) -> int:
    """The nano-units of a decimal text."""
    whole, _, decimals = text.partition(".")
    return int(whole) * NANO + int(decimals.ljust(9, "0")[:9])


def text_of(number: int) -> str:
    """The decimal text of so many nano-units, without needless zeros."""
    whole, rest = divmod(number, NANO)
    return f"{whole}.{rest:09d}".rstrip("0") if rest else str(whole)


def rounded_down(unit: str, number: int) -> int:
    """Whole units, where they can't be divided."""
    return number // NANO * NANO if unit in WHOLE else number


def shown_units(
    unit: str, shown: Sequence[ShownBy], result: Mapping[str, Any], blob_bytes: int = 0
) -> int | None:
    """The nano-units that a result shows, rounded down; None if the registry entry does not say how."""
    if not shown:
        return None
    total = 0
    for term in shown:
        number = blob_bytes * NANO if term.member is None else _sum(result, term.member)
        total += number // term.per
    return rounded_down(unit, min(total, MOST_UNITS * NANO))


def _sum(result: Mapping[str, Any], path: str) -> int:
    return sum(map(_nanos_of, _found(result, _parts(path))))


@functools.lru_cache(1024)
def _parts(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


def _found(value: Any, parts: tuple[str, ...]) -> Iterator[Any]:
    if not parts:
        yield value
    elif isinstance(value, Mapping):
        if parts[0] in value:
            yield from _found(value[parts[0]], parts[1:])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _found(each, parts)


def _nanos_of(value: Any) -> int:
    """Of a number, a text with one, or the length of a list or an object. Others and negative ones are 0."""
    match value:
        case bool():
            return 0
        case int():
            return max(value, 0) * NANO
        case float() if 0 < value < _MOST_SHOWN:
            return int(Exact(repr(value)).scaleb(9))
        case str() if _DECIMAL.fullmatch(value):
            return nanos(value)
        case list() | tuple() | dict():
            return len(value) * NANO
        case _:
            return 0
