"""Amounts of the ledger in the smallest unit of a chain's money, exactly."""

from __future__ import annotations

from math import gcd
from typing import Final, NamedTuple

MICROS: Final = 1_000_000
"""Of one unit of the ledger."""
MAX_DECIMALS: Final = 36
"""More than any token has."""


class Scale(NamedTuple):
    """How many of the chain's smallest units one unit of the ledger is. It must never change."""

    per_unit: int

    @property
    def quantum(self) -> int:
        """The least amount, in 10⁻⁶ of the unit, that the chain has exactly; it pays multiples of it only."""
        return MICROS // gcd(MICROS, self.per_unit)

    def exact(self, micros: int) -> int:
        """The amount in the chain's smallest unit. Raises ValueError if there is none that is equal."""
        amount, rest = divmod(micros * self.per_unit, MICROS)
        if rest:
            raise ValueError(f"{micros} is not a multiple of {self.quantum}")
        return amount
