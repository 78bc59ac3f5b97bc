"""Counted units: the bound by the payload, the number that a result shows, the bill, and the auditor's."""

from __future__ import annotations

import math
import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from coordinator.audit.entries import Found
from coordinator.audit.units import Terms, owed
from coordinator.domain.account import Account
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job.price import bill, counted_bill, most
from coordinator.domain.job.terms import terms_of
from coordinator.domain.matching.needs import Capabilities, UnitPrice, profile_of, unmet, wanted
from coordinator.domain.matching.units import MOST_UNITS, NANO, WHOLE, ShownBy, nanos, shown_units, text_of
from coordinator.domain.service import RegisteredService, ServiceSpec
from tests.harness.cases import every
from tests.harness.deciding import (
    a_spec,
    capabilities,
    complete,
    given,
    online,
    start,
    started,
    submit,
    submitted,
)


def counted(unit: str = "image", amount: str = "0.5", max_units: Any = None, **pricing: Any) -> ServiceSpec:
    return a_spec(pricing={"unit": unit, "amount": amount, **pricing}, max_units=max_units)


# --- the bound ---------------------------------------------------------------------------------------------
BY_TOKENS = {"fixed": "8", "each": [{"member": "max_tokens", "times": "n", "units": "1"}]}
BY_FRAMES = {"each": [{"member": "end", "minus": "begin", "units": "1"}]}


@every(
    ("limit", "payload", "expected"),
    [
        ("4", {}, "4"),
        (BY_TOKENS, {"max_tokens": 100}, "108"),
        (BY_TOKENS, {"max_tokens": 100, "n": 3}, "308"),
        (BY_TOKENS, {"max_tokens": 0.1}, "8.1"),
        (BY_TOKENS, {}, None),
        (BY_TOKENS, {"max_tokens": None}, None),
        (BY_TOKENS, {"max_tokens": -5}, "8"),
        (BY_TOKENS, {"max_tokens": 10**30, "n": 10**30}, str(MOST_UNITS)),
        (BY_FRAMES, {"begin": 10, "end": 19}, "10"),
        (BY_FRAMES, {"begin": 19, "end": 10}, "0"),
        (BY_FRAMES, {"end": 10}, None),
        (None, {"images": 4}, None),
    ],
)
def test_the_bound_follows_from_entry_and_payload(limit: Any, payload: dict[str, Any], expected: Any) -> None:
    """Counted units have no time limit; without a bound the job needs a budget, unless it is free."""
    spec = counted(max_units=limit)
    terms = terms_of(spec, payload, None)
    if expected is None:
        assert (terms.bounded, terms.max_units) == (False, str(MOST_UNITS))
        with pytest.raises(Refusal, match="budget: missing") as refused:
            terms.at_most(None)
        assert refused.value.code is Code.INVALID_PAYLOAD
        assert terms.at_most(7) == 7
        assert terms_of(spec, payload, "0").at_most(None) == 0
    else:
        assert (terms.bounded, terms.max_units) == (True, expected)
        assert terms.at_most(None) == int(Decimal(expected) * 500_000)
        assert terms_of(spec, payload, "0.000001").at_most(None) == -(-nanos(expected) // NANO)


def test_a_price_that_no_receipt_can_have_is_refused() -> None:
    """A limit of 10¹² for each of 10⁹ units: set a lower one."""
    with pytest.raises(Refusal, match=r"constraints\.max_price: .* is too much; set a lower one"):
        terms_of(counted(), {}, "999999999999")


# --- the number that a result shows ------------------------------------------------------------------------
@every(
    ("unit", "member", "per", "result", "expected"),
    [
        ("image", "images", 1, {"images": [{}, {}]}, "2"),
        ("image", "images", 1, {"images": {"a": 1}}, "1"),
        ("token", "usage.total", 1, {"usage": {"total": 137}}, "137"),
        ("media_minute", "seconds", 60, {"seconds": "90.500"}, "1.508333333"),
        ("media_minute", "seconds", 60, {"seconds": 90.5}, "1.508333333"),
        ("gb", "outputs.size", 10**9, {"outputs": [{"size": 1}, {"size": 2}]}, "0.000000003"),
        ("frame", "frames", 1, {"frames": 3.9}, "3"),
        ("frame", "frames", 4, {"frames": 7}, "1"),
        ("frame", "frames", 1, {}, "0"),
        ("frame", "frames.first", 1, {"frames": 3}, "0"),
        ("frame", "frames", 1, {"frames": None}, "0"),
        ("frame", "frames", 1, {"frames": True}, "0"),
        ("frame", "frames", 1, {"frames": -3}, "0"),
        ("frame", "frames", 1, {"frames": -3.5}, "0"),
        ("frame", "frames", 1, {"frames": "many"}, "0"),
        ("frame", "frames", 1, {"frames": "1e30"}, "0"),
        ("frame", "frames", 1, {"frames": "9" * 5000}, "0"),
        ("frame", "frames", 1, {"frames": float("nan")}, "0"),
        ("frame", "frames", 1, {"frames": float("inf")}, "0"),
        ("frame", "frames", 1, {"frames": 1e300}, "0"),
        ("frame", "frames", 1, {"frames": 10**400}, str(MOST_UNITS)),
        ("frame", "frames.n", 1, {"frames": [{"n": -5}, {"n": 2}, {"m": 9}, 4]}, "2"),
    ],
)
def test_a_result_shows_its_units(
    unit: str, member: str, per: int, result: dict[str, Any], expected: str
) -> None:
    """Numbers, texts with numbers, and lengths; what is none of them shows nothing, whoever wrote it."""
    found = shown_units(unit, [ShownBy(member=member, per=per)], result)
    assert found is not None
    assert text_of(found) == expected


def test_terms_add_up_and_blobs_are_weighed() -> None:
    """The sum of all terms; bytes of files are the coordinator's own number, not the result's."""
    read_and_written = [ShownBy(member="read"), ShownBy(member="written")]
    assert shown_units("token", read_and_written, {"read": 2, "written": 3}) == 5 * NANO
    by_bytes = [ShownBy(blob_bytes=True, per=10**9)]
    assert shown_units("gb", by_bytes, {"outputs": [{"size": 10**9}]}, 250) == 250
    assert shown_units("gb", [], {"outputs": []}) is None
    for fields in ({}, {"member": "x", "blob_bytes": True}):
        with pytest.raises(ValueError, match="either member or blob_bytes"):
            ShownBy.model_validate(fields)
    with pytest.raises(ValueError, match="unit of time"):
        counted("minute", shown=[{"member": "seconds"}])


# --- the most that it costs --------------------------------------------------------------------------------
amounts = st.one_of(
    st.integers(0, 10**24), st.integers(0, 1000), st.sampled_from([1, NANO - 1, NANO, NANO + 1])
)


@for_all(amounts, amounts)
def test_the_most_is_rounded_up(price: int, units: int) -> None:
    """The least number of 10⁻⁶ that is not below the exact product: a hold is never smaller than its bill."""
    exact = Fraction(price, NANO) * Fraction(units, NANO) * 10**6
    assert math.ceil(exact) == most(text_of(price), text_of(units))


@for_all(st.integers(0, 10**12), st.integers(0, 10**15), st.integers(0, 10**9))
def test_time_costs_no_more_than_the_most(millis: int, price: int, limit: int) -> None:
    """A bill for seconds is rounded half up, and yet within the hold."""
    seconds = f"{limit // 1000}.{limit % 1000:03d}"
    paid = bill(millis, text_of(price), seconds).price
    assert int(Decimal(paid) * 10**6) <= most(text_of(price), seconds)


# --- the bill ----------------------------------------------------------------------------------------------
def test_no_bill_exceeds_its_bounds_and_the_auditor_agrees() -> None:
    """At random: never more than signed, shown and bound, never dearer than the hold; so says the auditor."""
    chance = random.Random(20)

    def number(places: int) -> str:
        return text_of(chance.choice((0, 1, NANO, chance.randrange(10**18))) // 10**places * 10**places)

    for _ in range(3000):
        unit = chance.choice(("image", "gb", "media_minute", "token", "unit"))
        stated, limit, price = number(9 if unit in WHOLE else 0), number(chance.choice((0, 9))), number(3)
        shown = chance.choice((None, chance.randrange(10**18), 0))
        bill = counted_bill(unit, stated, shown, price, limit)
        bounds = [nanos(stated), nanos(limit), *([] if shown is None else [shown])]
        least = min(bounds)
        assert nanos(bill.units) == (least // NANO * NANO if unit in WHOLE else least)
        assert int(Decimal(bill.price) * 10**6) <= most(price, limit)
        assert (bill.measured_units is None) is (bill.units == stated)
        job = {"unit": unit, "max_units": limit}
        facts = {"statement": {"units": {unit: stated}}, "shown_units": bill.shown_units}
        assert owed(job, facts, price, Terms(60, price, unit, shown is not None)) == tuple(bill)


@every(
    ("stated", "expected"),
    [
        ("3", ("3", "1.500000", None)),
        ("2", ("2", "1.000000", None)),
        ("4", ("3", "1.500000", "4")),
        ("999999999999", ("3", "1.500000", "999999999999")),
        ("0", ("0", "0.000000", None)),
    ],
)
def test_a_job_is_billed_what_its_result_shows(stated: str, expected: tuple[str, str, str | None]) -> None:
    """The miner's signed number, cut to the shown one; the time of the work costs nothing."""
    job = submitted(unit="image", list_price="0.5", max_units="4")
    command = complete()
    statement = {**command.statement, "units": {"image": stated}}
    decided = given(job, started(unit_price="0.5")).when(
        command.model_copy(update={"statement": statement}), shown=3 * NANO
    )
    paid: Any = decided.events[0]
    assert (paid.units, paid.price, paid.measured_units) == expected
    assert (paid.shown_units, paid.statement["units"]) == ("3", {"image": stated})


FACTS: dict[str, Any] = {"statement": {"units": {"image": "2"}}, "shown_units": "2"}


@every(
    "changes",
    [
        {"statement": {}},
        {"statement": {"units": {"frame": "2"}}},
        {"statement": {"units": {"image": "1.5"}}},
        {"statement": {"units": {"image": "-1"}}},
        {"statement": {"units": {"image": "NaN"}}},
        {"statement": {"units": {"image": 2}}},
        {"shown_units": None},
    ],
)
def test_the_auditor_finds_a_bill_that_nothing_signed_supports(changes: dict[str, Any]) -> None:
    """Of a log whose coordinator billed it anyway."""
    job, terms = {"unit": "image", "max_units": "4"}, Terms(60, "0.5", "image", True)
    assert owed(job, FACTS, "0.5", terms) == ("2", "1.000000", None, "2")
    with pytest.raises(Found):
        owed(job, {**FACTS, **changes}, "0.5", terms)


# --- the terms of a job and of a miner ---------------------------------------------------------------------
def test_a_job_keeps_the_unit_of_its_version() -> None:
    """Unit, price and bound are in `job.submitted`; the hold is the price of the bound."""
    spec = counted(max_units={"each": [{"member": "num_images", "default": 1, "units": "1"}]})
    rich = Account("alice", balance=3_000_000)
    decided = given().when(
        submit(payload={"num_images": 4}), service=RegisteredService(spec, 1), accounts=True, account=rich
    )
    held: Any
    event: Any
    held, event = decided.events
    assert (event.unit, event.list_price, event.max_units) == ("image", "0.5", "4")
    assert held.amount == event.hold == 2_000_000


def test_a_miners_price_is_one_of_its_unit() -> None:
    """The price of a second says nothing about an image, and the price of an image nothing about a second."""
    able = capabilities(price="99", prices=(UnitPrice(unit="image", amount="0.4"),))
    wants = submitted().constraints
    assert unmet("whisper", wants, able, "0.5", "image") == []
    assert unmet("whisper", wants, able, "0.5", "frame") == []
    assert unmet("whisper", wants, able, "0.5") == ["asks 99 a unit, the limit is 0.5, the list price"]
    dear = capabilities(prices=(UnitPrice(unit="image", amount="0.6"),))
    assert unmet("whisper", wants, dear, "0.5", "image") == [
        "asks 0.6 a unit, the limit is 0.5, the list price"
    ]
    job = submitted(unit="image", list_price="0.5", max_units="4")
    event: Any = given(job).when(start(), miner=online(price="99", prices=able.prices)).events[0]
    assert event.unit_price == "0.4"
    with pytest.raises(ValueError, match="one price for each unit"):
        Capabilities(services=("whisper",), prices=able.prices * 2)


def test_classes_and_profiles_tell_units_apart_and_are_as_before_without_them() -> None:
    """Miners that price no unit keep their queue, and jobs that are billed by time keep their class."""
    wants = submitted().constraints
    assert wanted("whisper", wants, "0.5", "image").job_class != wanted("whisper", wants, "0.5").job_class
    assert profile_of(capabilities(), "rig") == profile_of(capabilities(prices=()), "rig")
    priced = capabilities(prices=(UnitPrice(unit="image", amount="0.40"),))
    assert profile_of(priced, "rig") != profile_of(capabilities(), "rig")
    same = capabilities(prices=(UnitPrice(unit="image", amount="0.4"),))
    assert profile_of(priced, "rig") == profile_of(same, "rig")
