"""Prices: the limit of a job's units, the price of one unit, and the bill.

A unit is one second of work, or what the registry entry counts: a frame, a token, an image. Nothing here can
surprise a client: its limit is the list price unless it sets another one, and the units are bounded by the
service's registry entry.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from decimal import ROUND_HALF_UP
from decimal import Decimal as Exact
from fractions import Fraction
from typing import Any, NamedTuple

from coordinator.domain.matching.units import MOST_UNITS, NANO, nanos, rounded_down, text_of
from coordinator.domain.messages import Millis
from coordinator.domain.service import ServiceSpec, UnitsBy, UnitsByPayload

PRICE_STEP = Exact("0.000001")
_UNIT_STEP = Exact("0.001")
_PER_STEP = NANO * NANO // 10**6
"""Nano-units by nano-price in one step of a price."""
MOST_COUNTED = 10**15
"""Of a payload's member: more than any time limit allows, and finite."""


class Bill(NamedTuple):
    """The paid part of an attempt, as decimal numbers."""

    units: str
    price: str
    measured_units: str | None
    """The units of the whole attempt, if the job's limit cut them."""
    shown_units: str | None = None
    """The counted units that the result shows, if it does."""


def max_units(spec: ServiceSpec, payload: Mapping[str, Any]) -> str | None:
    """The most units that a job with this payload is billed for; None if nothing tells the number of counted
    ones."""
    limit = spec.max_units
    longest = spec.timeout_seconds if spec.unit() is None else None
    if not isinstance(limit, UnitsByPayload):
        return _limit(limit, (), longest)
    terms = []
    for term in limit.each:
        count = _count(term, payload)
        if count is None:  # the payload does not say
            return _limit(None, (), longest)
        terms.append((count, term.units))
    return _limit(limit.fixed, tuple(terms), longest)


def unit_price(asked: str | None, list_price: str) -> str:
    """The price of one unit: the miner's own, or the list price. The claim has compared it with the limit."""
    return list_price if asked is None else asked


@functools.lru_cache(10_000)
def most(price: str, units: str) -> int:
    """The most that so many units cost, in 10⁻⁶ of the unit of money, rounded up."""
    return -(-nanos(price) * nanos(units) // _PER_STEP)


def in_micros(price: str) -> int:
    """The price of a bill in 10⁻⁶ of the unit of money; it is a whole number of them."""
    return int(Exact(price) / PRICE_STEP)


def bill(millis: Millis, price: str, limit: str) -> Bill:
    """The bill for so many milliseconds of work at this price of a unit."""
    paid = min(millis, _in_millis(limit))
    total = (paid * Exact(price) / 1000).quantize(PRICE_STEP, ROUND_HALF_UP)
    return Bill(_units(paid), format(total, "f"), None if paid == millis else _units(millis))


def _units(millis: Millis) -> str:
    return f"{millis // 1000}.{millis % 1000:03d}"


def counted_bill(unit: str, stated: str, shown: int | None, price: str, limit: str) -> Bill:
    """The bill for counted units: the number that the miner signed, cut to the number that the result shows
    (nano-units, None for nothing to compare) and to the limit."""
    said = nanos(stated)
    paid = rounded_down(unit, min(said, nanos(limit), said if shown is None else shown))
    # Half up; a price has nine decimals, and the product is rounded to six.
    total = (paid * nanos(price) * 2 + _PER_STEP) // (2 * _PER_STEP)
    amount = f"{total // 10**6}.{total % 10**6:06d}"
    measured = None if paid == said else text_of(said)
    return Bill(text_of(paid), amount, measured, None if shown is None else text_of(shown))


@functools.lru_cache(4096)
def _limit(
    fixed: str | None, terms: tuple[tuple[int | float, str], ...], timeout_seconds: int | None
) -> str | None:
    if timeout_seconds is None:
        if fixed is None:
            return None
        most = sum((Fraction(_exact(n)) * Fraction(each) for n, each in terms), Fraction(fixed))
        return text_of(min(math.ceil(most * NANO), MOST_UNITS * NANO))
    longest = Exact(timeout_seconds)
    if fixed is None:
        units = longest
    else:
        units = min(sum((_exact(n) * Exact(each) for n, each in terms), Exact(fixed)), longest)
    return format(units.quantize(_UNIT_STEP, ROUND_HALF_UP), "f")


@functools.lru_cache(4096)
def _in_millis(units: str) -> Millis:
    return int(Exact(units) * 1000)


def _count(term: UnitsBy, payload: Mapping[str, Any]) -> int | float | None:
    count = _number(payload.get(term.member))
    if count is None:
        count = term.default
    elif term.minus is not None:
        begin = _number(payload.get(term.minus))
        count = None if begin is None else count - begin + 1
    if count is None:
        return None
    times = None if term.times is None else _number(payload.get(term.times))
    return min(max(count, 0) * (1 if times is None else max(times, 1)), MOST_COUNTED)


def _number(value: Any) -> int | float | None:
    match value:
        case None | bool():
            return None
        case int() | float():
            return value
        case _:
            return len(value)


def _exact(number: int | float) -> Exact:
    return Exact(number) if isinstance(number, int) else Exact(repr(number))
