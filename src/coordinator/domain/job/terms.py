"""The terms of a job: the unit that it is billed by, its limit, its price, and the money to set aside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job.price import max_units, most
from coordinator.domain.matching.units import MOST_UNITS, UNIT_TYPES, CountedUnit, nanos
from coordinator.domain.service import ServiceSpec

_MOST_PRICE = 10**17 * 10**6
"""A receipt's price has 18 digits before its point."""


class JobTerms(NamedTuple):
    """The terms that a job keeps from its submit on."""

    unit: CountedUnit | None
    """The counted unit that it is billed by; None for GPU seconds."""
    list_price: str
    price_limit: str
    """The most that one unit may cost."""
    max_units: str
    bounded: bool
    """Whether entry and payload tell `max_units`."""

    def at_most(self, budget: int | None) -> int:
        """The most that the job costs, in 10⁻⁶ of the unit of money. Raises Refusal if nothing bounds it."""
        if budget is not None:
            return budget
        if not self.bounded and nanos(self.price_limit):
            raise Refusal(
                Code.INVALID_PAYLOAD,
                f"budget: missing; the payload does not tell the number of {UNIT_TYPES[self.unit]}, so say "
                "the most that the job may cost",
            )
        return most(self.price_limit, self.max_units)


def terms_of(spec: ServiceSpec, payload: Mapping[str, Any], max_price: str | None) -> JobTerms:
    """The terms of a job with this payload. Raises Refusal for a price that no receipt can have."""
    unit, list_price, units = spec.unit(), spec.list_price(), max_units(spec, payload)
    limit = list_price if max_price is None else max_price
    terms = JobTerms(unit, list_price, limit, units or str(MOST_UNITS), bounded=units is not None)
    if unit is not None and most(limit, terms.max_units) >= _MOST_PRICE:
        raise Refusal(
            Code.INVALID_PAYLOAD,
            f"constraints.max_price: {limit} for each of {terms.max_units} {UNIT_TYPES[unit]} is too much; "
            "set a lower one",
        )
    return terms
