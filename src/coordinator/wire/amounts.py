"""Amounts of money as people write them: `12.5` of the unit is 12,500,000 of its millionth."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

MILLION: Final = 1_000_000
_AMOUNT: Final = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?")


def units(micros: int) -> str:
    """A whole number of millionths as a number of units, with all of its six decimals."""
    return format(Decimal(micros).scaleb(-6), "f")


def short_units(micros: int) -> str:
    """The same for people: `1,234.5`, without zeros at its end."""
    text = f"{Decimal(micros).scaleb(-6):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def micros_of(text: str) -> int | None:
    """An amount in the unit as a whole number of its millionth; None unless it is a positive amount."""
    found = _AMOUNT.fullmatch(text)
    if found is None or not text.isascii():
        return None
    return int(found[1]) * MILLION + int((found[2] or "").ljust(6, "0")) or None
