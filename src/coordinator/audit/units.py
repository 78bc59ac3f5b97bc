"""Bills of a job: the time that was seen, or counted units, by the rules of the protocol."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, NamedTuple

from coordinator.audit.entries import Found

Event = dict[str, Any]
Bill = tuple[str, str, str | None, str | None]
"""Units, price, the measured or signed units where they were cut, and the units that the result shows."""

UNIT_TYPES: Final = {
    None: "gpu_seconds",
    "frame": "frames",
    "gb": "gigabytes",
    "token": "tokens",
    "output_token": "output_tokens",
    "image": "images",
    "media_minute": "media_minutes",
    "unit": "units",
}
SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600}
_WHOLE: Final = ("frame", "token", "output_token", "image")
_STEP: Final = Decimal("0.000001")
_NANO: Final = 10**9
_MOST: Final = Decimal(10**9)
_NUMBER: Final = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,9})?")


class Terms(NamedTuple):
    """The terms of a version of a registry entry."""

    timeout_seconds: int
    list_price: str
    unit: str | None
    """The counted one; the price is that of a second without it."""
    shows: bool
    """Whether results show their units."""


def terms_of(spec: Event) -> Terms:
    """The terms of jobs under this registry entry."""
    pricing = spec["pricing"]
    unit, amount, shows = pricing["unit"], str(pricing["amount"]), bool(pricing.get("shown"))
    seconds = SECONDS.get(unit)
    if seconds is None:
        return Terms(spec["timeout_seconds"], amount, unit, shows)
    if seconds > 1:
        amount = format((Decimal(amount) / seconds).quantize(Decimal("1e-9")), "f")
    return Terms(spec["timeout_seconds"], amount, None, shows)


def check_terms(submitted: Event, terms: Terms | None) -> None:
    """Raise Found for other terms than those of the service's version, if it is known, and for a limit that
    no job has."""
    told = [submitted["timeout_seconds"], submitted["list_price"], submitted.get("unit")]
    if terms is not None and told != list(terms[:3]):
        raise Found("service", "the job has other terms than its service's version", list(terms[:3]), told)
    counted = submitted.get("unit") is not None
    most = _MOST if counted else submitted["timeout_seconds"]
    if Decimal(submitted["max_units"]) > most:
        detail = (
            "more units than one bill may have" if counted else "the limit of units exceeds the time limit"
        )
        raise Found("price", detail, str(most) if counted else most, submitted["max_units"])


def owed(submitted: Event, event: Event, price: str, terms: Terms | None) -> Bill:
    """The bill of a completed job. Raises Found for a statement without the units that it is billed by, and
    for a result whose units were not counted."""
    unit, limit = submitted.get("unit"), submitted["max_units"]
    if unit is None:
        return _for_time(event["completed_at"] - event["started_at"], price, limit)
    stated = event["statement"].get("units", {}).get(unit)
    if not isinstance(stated, str) or not _NUMBER.fullmatch(stated):
        raise Found("statement", f"the miner signed no number of {UNIT_TYPES[unit]}", None, stated)
    said, shown = Fraction(stated), event.get("shown_units")
    if terms is not None and terms.shows is (shown is None):
        raise Found(
            "price", "the units of a result are counted where the service says how", terms.shows, shown
        )
    if unit in _WHOLE and said.denominator != 1:
        raise Found("statement", f"a part of one of the {UNIT_TYPES[unit]}", None, stated)
    paid = min([said, Fraction(limit), *([] if shown is None else [Fraction(shown)])])
    if unit in _WHOLE:
        paid = Fraction(paid.numerator // paid.denominator)
    micros = int(paid * Fraction(price) * 10**6 + Fraction(1, 2))
    told = f"{micros // 10**6}.{micros % 10**6:06d}"
    return _text(paid), told, None if paid == said else _text(said), shown


def _for_time(millis: int, price: str, limit: str) -> Bill:
    paid = min(millis, _millis(limit))
    total = (paid * Decimal(price) / 1000).quantize(_STEP, ROUND_HALF_UP)
    return _seconds(paid), format(total, "f"), None if paid == millis else _seconds(millis), None


@lru_cache(4096)
def _millis(units: str) -> int:
    return int(Decimal(units) * 1000)


def _seconds(millis: int) -> str:
    return f"{millis // 1000}.{millis % 1000:03d}"


def _text(number: Fraction) -> str:
    whole, rest = divmod(int(number * _NANO), _NANO)
    return f"{whole}.{rest:09d}".rstrip("0") if rest else str(whole)
