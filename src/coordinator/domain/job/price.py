"""Prices: the limit of a job's units, the price of one unit, and the bill.

A unit is one second of work. Nothing here can surprise a client: its limit is the list price unless it sets
another one, and the units are bounded by the service's registry entry.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from decimal import ROUND_HALF_UP
from decimal import Decimal as Exact
from typing import Any, NamedTuple

from coordinator.domain.messages import Millis
from coordinator.domain.service import ServiceSpec, UnitsBy, UnitsByPayload

PRICE_STEP = Exact("0.000001")
_UNIT_STEP = Exact("0.001")


class Bill(NamedTuple):
    """The paid part of an attempt, as decimal numbers."""

    units: str
    price: str
    measured_units: str | None
    """The units of the whole attempt, if the job's limit cut them."""


def max_units(spec: ServiceSpec, payload: Mapping[str, Any]) -> str:
    """The most units that a job with this payload is billed for."""
    limit = spec.max_units
    if limit is None or isinstance(limit, str):
        return _at_most(limit, spec.timeout_seconds)
    found = _by_payload(limit, payload)
    return _at_most(None if found is None else format(found, "f"), spec.timeout_seconds)


def unit_price(asked: str | None, list_price: str) -> str:
    """The price of one unit: the miner's own, or the list price. The claim has compared it with the limit."""
    return list_price if asked is None else asked


def bill(millis: Millis, price: str, limit: str) -> Bill:
    """The bill for so many milliseconds of work at this price of a unit."""
    paid = min(millis, int(Exact(limit) * 1000))
    total = (paid * Exact(price) / 1000).quantize(PRICE_STEP, ROUND_HALF_UP)
    return Bill(_units(paid), format(total, "f"), None if paid == millis else _units(millis))


def _units(millis: Millis) -> str:
    return f"{millis // 1000}.{millis % 1000:03d}"


@functools.lru_cache(1024)
def _at_most(limit: str | None, timeout_seconds: int) -> str:
    units = Exact(timeout_seconds) if limit is None else min(Exact(limit), Exact(timeout_seconds))
    return format(units.quantize(_UNIT_STEP, ROUND_HALF_UP), "f")


def _by_payload(limit: UnitsByPayload, payload: Mapping[str, Any]) -> Exact | None:
    """None if the payload does not say: a member is absent, and has no default."""
    total = Exact(limit.fixed)
    for term in limit.each:
        count = _count(term, payload)
        if count is None:
            return None
        total += count * Exact(term.units)
    return total


def _count(term: UnitsBy, payload: Mapping[str, Any]) -> Exact | None:
    count = _number(payload.get(term.member))
    if count is None:
        return None if term.default is None else Exact(term.default)
    if term.minus is not None:
        begin = _number(payload.get(term.minus))
        if begin is None:
            return None
        count = count - begin + 1
    return max(count, Exact(0))


def _number(value: Any) -> Exact | None:
    match value:
        case None | bool():
            return None
        case int() | float():
            return Exact(repr(value))
        case _:
            return Exact(len(value))
