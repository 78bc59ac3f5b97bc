"""Jobs that are billed by counted units in a whole coordinator: images, tokens, GB of files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.edge_bench import Bench, an_edge
from tests.integration.test_money import clean, deposit, money_of, price_of, settled

MODES = ["embedded", "standard"]


class Case(NamedTuple):
    """A service, a job, the miner's number, and the number that is paid."""

    service: str
    unit: str
    amount: str
    max_units: Any
    shown: list[dict[str, Any]]
    payload: dict[str, Any]
    result: dict[str, Any]
    stated: str
    bound: str
    paid: str
    price: int
    """In 10⁻⁶."""


FILE = bytes(250_000)
BLOB = f"blob:{hashlib.sha256(FILE).hexdigest()}"
BY_IMAGES = {"each": [{"member": "num_images", "default": 1, "units": "1"}]}
BY_TOKENS = {"each": [{"member": "max_tokens", "default": 256, "times": "n", "units": "1"}]}
CASES = [
    # It asks for four images, the miner signs four, and the result has three.
    Case(
        "painting",
        "image",
        "0.5",
        BY_IMAGES,
        [{"member": "images"}],
        payload={"num_images": 4},
        result={"images": [{"seed": n} for n in range(3)]},
        stated="4",
        bound="4",
        paid="3",
        price=1_500_000,
    ),
    # It may have 256 tokens for each of two answers, and the miner says that it wrote 1,000.
    Case(
        "writing",
        "output_token",
        "0.000021",
        BY_TOKENS,
        [{"member": "usage.written"}],
        payload={"n": 2},
        result={"usage": {"written": 1000}},
        stated="1000",
        bound="512",
        paid="512",
        price=10_752,
    ),
    # The miner uploads 250 kB, says in the result that they are a GB, and signs a GB.
    Case(
        "packing",
        "gb",
        "3",
        "1",
        [{"blob_bytes": True, "per": 10**9}],
        payload={},
        result={"outputs": [{"blob": BLOB, "size": 10**9}]},
        stated="1",
        bound="1",
        paid="0.00025",
        price=750,
    ),
]


@pytest.fixture(params=MODES)
async def where(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of a mode, with accounts."""
    urls: dict[str, Any] = {}
    if request.param == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    return {"directory": tmp_path, "settlement": "on", "fee_bps": 0, **urls}


async def add_service(edge: Bench, service: str, pricing: dict[str, Any], max_units: Any) -> None:
    spec = {
        "id": service,
        "name": service,
        "category": "development_tools",
        "description": "of the tests",
        "input_schema": {"type": "object"},
        "output_schema": {"type": "object"},
        "pricing": pricing,
        "max_units": max_units,
    }
    answer = await edge.admin.post("/v1/registry/services", json=spec)
    assert answer.status_code == 201, answer.text
    await edge.reached(answer.json()["position"])


async def test_each_unit_is_held_billed_and_paid(where: dict[str, Any]) -> None:
    """The hold is the bound by the price; the bill is what the result shows of it; the audit is clean."""
    async with an_edge(**where) as edge:
        await deposit(edge, 10_000_000)
        upload = await edge.rig.put(f"/v1/blobs/{BLOB.removeprefix('blob:')}", content=FILE)
        assert upload.status_code in (200, 201), upload.text
        for case in CASES:
            pricing = {"unit": case.unit, "amount": case.amount, "shown": case.shown}
            await add_service(edge, case.service, pricing, case.max_units)
        # A price of a second says nothing about an image.
        able = {"services": [case.service for case in CASES], "price": "99"}
        session = (await edge.register(capabilities=able))["session_id"]
        for case in CASES:
            body = {"service": case.service, "payload": case.payload}
            quote = (await edge.alice.post("/v1/quote", json=body)).json()
            assert (quote["max_units"], quote["price_limit"]) == (case.bound, case.amount)
            job = await edge.submit(edge.alice, **body)
            assert (await money_of(edge, "alice"))[1] == quote["at_most"]
            offer = await edge.poll()
            answer = await edge.complete(
                offer, case.result, session_id=session, units={case.unit: case.stated}
            )
            assert answer.status_code == 200, answer.text
            await settled(edge)
            statement = (await edge.alice.get("/v1/accounts/me/statements")).json()
            assert price_of(statement, job["job_id"]) == case.price
            line = statement["lines"][-1]
            assert (line["units"], line["unit_type"]) == (case.paid, quote["unit_type"])
            receipt = (await edge.alice.get(f"/v1/jobs/{job['job_id']}/receipt")).json()
            told = (receipt["units"], receipt["unit_type"], receipt["metadata"].get("measured_units"))
            assert told == (case.paid, quote["unit_type"], case.stated)
        table = (await edge.alice.get("/v1/accounts/me/statements", params={"format": "csv"})).text
        assert ",0.00025,gigabytes," in table
    clean(where)


HOSTILE: list[Any] = [
    None,
    {},
    {"frame": "1"},
    {"image": None},
    {"image": 1},
    {"image": "1.5"},
    {"image": "-1"},
    {"image": "NaN"},
    {"image": "Infinity"},
    {"image": "1e30"},
    {"image": "0x1"},
    {"image": "1" * 30},
    {"image": "1", "Image": "1"},
    {"image": ["1"]},
    [],
    "1",
    {f"unit_{'x' * n}": "1" for n in range(9)},
]


async def test_a_number_that_is_none_is_refused_and_the_right_one_counts(tmp_path: Path) -> None:
    """Whatever a miner signs instead of a number: INVALID_STATEMENT, nothing is paid, the lease stays."""
    async with an_edge(tmp_path, settlement="on") as edge:
        await deposit(edge, 10_000_000)
        case = CASES[0]
        pricing = {"unit": case.unit, "amount": case.amount, "shown": case.shown}
        await add_service(edge, case.service, pricing, case.max_units)
        able = {"services": [case.service], "prices": [{"unit": "image", "amount": "0.25"}]}
        session = (await edge.register(capabilities=able))["session_id"]
        await edge.submit(edge.alice, service=case.service, payload=case.payload)
        offer = await edge.poll()
        for units in HOSTILE:
            answer = await edge.complete(offer, case.result, session_id=session, units=units)
            assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_STATEMENT"), units
        assert (await money_of(edge, "alice"))[1] == 2_000_000
        done = await edge.complete(
            offer, case.result, session_id=session, units={"image": "2", "frame": "999999"}
        )
        assert done.status_code == 200, done.text
        await settled(edge)
        # Less than the result shows is the miner's own affair; so is its price.
        assert (await money_of(edge, "alice"))[0] == 10_000_000 - 500_000
    clean({"directory": tmp_path})


async def test_a_job_whose_units_nobody_can_tell_needs_a_budget(tmp_path: Path) -> None:
    """Neither the entry nor the payload bounds it: the refusal says so, and a budget is the hold."""
    async with an_edge(tmp_path, settlement="on") as edge:
        await deposit(edge, 10_000_000)
        await add_service(edge, "counting", {"unit": "unit", "amount": "0.5"}, None)
        session = (await edge.register(capabilities={"services": ["counting"]}))["session_id"]
        body = {"service": "counting", "payload": {}}
        for path in ("/v1/jobs", "/v1/quote"):
            refused = await edge.alice.post(path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_PAYLOAD")
            assert refused.json()["detail"].startswith("budget: missing; the payload does not tell")
        quote = (await edge.alice.post("/v1/quote", json={**body, "budget": 700_000})).json()
        assert (quote["at_most"], quote["max_units"]) == (700_000, None)
        await edge.submit(edge.alice, **body, budget=700_000)
        assert (await money_of(edge, "alice"))[1] == 700_000
        answer = await edge.complete(await edge.poll(), {}, session_id=session, units={"unit": "2.5"})
        assert answer.status_code == 200, answer.text
        await settled(edge)
        assert (await money_of(edge, "alice"))[0] == 10_000_000 - 700_000
    clean({"directory": tmp_path})
