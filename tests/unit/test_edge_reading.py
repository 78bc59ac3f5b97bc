"""Reads: positions, waiting for one, and cursors."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.crypto.keys import encode_base64url
from coordinator.domain.errors import Refusal
from coordinator.edge import EdgeLimits
from coordinator.edge.http.reads.reading import cursor_after, read_cursor
from tests.harness.cases import every
from tests.harness.length import examples
from tests.unit.edge_fakes import ALICE, FakeDatabase, FakeLog, FakeWatermarks, an_app, browsing

NO_JOBS = FakeDatabase(read_jobs_of_client=lambda **_: [])


async def test_a_read_says_which_position_it_is_as_fresh_as() -> None:
    """X-Position is what the projector had reached before the rows were read."""
    watermarks = FakeWatermarks(41)

    def read(**_: Any) -> list[dict[str, Any]]:
        watermarks.move(42)  # too late to be promised
        return []

    app = an_app(watermarks=watermarks, database=FakeDatabase(read_jobs_of_client=read))
    async with browsing(app, ALICE) as http:
        answer = await http.get("/v1/jobs")
    assert answer.headers["x-position"] == "41"


@pytest.mark.parametrize("how", ["header", "query"])
async def test_a_read_waits_for_the_position_that_it_is_asked_for(how: str) -> None:
    """X-At-Least and at_least hold a read back until the projector is there."""
    watermarks = FakeWatermarks(9)
    app = an_app(watermarks=watermarks, database=NO_JOBS, log=FakeLog(10))
    ways: dict[str, dict[str, Any]] = {
        "header": {"headers": {"X-At-Least": "10"}},
        "query": {"params": {"at_least": 10}},
    }
    async with browsing(app, ALICE) as http:
        reading = asyncio.create_task(http.get("/v1/jobs", **ways[how]))
        await watermarks.waiting.wait()
        assert not reading.done()
        watermarks.move(10)
        answer = await reading
    assert answer.status_code == 200
    assert answer.headers["x-position"] == "10"


async def test_the_later_of_two_positions_counts() -> None:
    """A read that names two positions gets the later one."""
    watermarks = FakeWatermarks(6)
    limits = EdgeLimits(at_least_seconds=0.01)
    app = an_app(watermarks=watermarks, database=NO_JOBS, log=FakeLog(20), limits=limits)
    async with browsing(app, ALICE) as http:
        await http.get("/v1/jobs", params={"at_least": 7}, headers={"X-At-Least": "17"})
    assert [position for _, position, _ in watermarks.asked] == [17]


async def test_a_position_that_does_not_come_is_unavailable() -> None:
    """The wait is bounded, and its end is 503 with Retry-After: never an older answer."""
    limits = EdgeLimits(at_least_seconds=0.01)
    app = an_app(watermarks=FakeWatermarks(9), database=NO_JOBS, log=FakeLog(10), limits=limits)
    async with browsing(app, ALICE) as http:
        answer = await http.get("/v1/jobs", headers={"X-At-Least": "10"})
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert answer.headers["retry-after"] == "1"


async def test_a_position_that_the_log_does_not_have_is_not_waited_for() -> None:
    """A position from nowhere is unavailable at once: nobody keeps us waiting by making one up."""
    watermarks = FakeWatermarks(9)
    async with browsing(an_app(watermarks=watermarks, database=NO_JOBS, log=FakeLog(9)), ALICE) as http:
        answer = await http.get("/v1/jobs", headers={"X-At-Least": "9" * 18})
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert watermarks.asked == []


@every("position", ["-1", "1.5", "", "x", "9" * 19, "٣", "1e3", " 1", "0x10"])
async def test_a_position_that_is_none_is_refused(position: str) -> None:
    """Positions are plain ASCII digits that fit 64 bits."""
    async with browsing(an_app(database=NO_JOBS), ALICE) as http:
        answer = await http.get("/v1/jobs", params={"at_least": position})
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD")


@settings(max_examples=examples(100))
@given(st.lists(st.from_regex(r"[a-zA-Z0-9@_-]{1,60}", fullmatch=True), min_size=1, max_size=3))
def test_a_cursor_brings_back_what_it_was_made_of(parts: list[str]) -> None:
    """What `cursor_after` is given, `read_cursor` gives back."""
    assert read_cursor(cursor_after(*parts), *[r"[a-zA-Z0-9@_-]+"] * len(parts)) == parts


@given(st.text(max_size=80))
def test_a_cursor_that_is_none_is_refused(text: str) -> None:
    """Any text that was not made here is a Refusal, and nothing else is ever raised."""
    with pytest.raises(Refusal):
        read_cursor(text, r"[0-9]{1,16}", r"[0-9a-f-]{36}")


@every(
    "parts",
    [
        ("1",),
        ("1", "2", "3"),
        ("1", "x" * 36),
        ("-1", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ("1" * 17, "01890a5d-ac96-774b-bcce-b302099a8057"),
        ("1", "01890a5d-ac96-774b-bcce-b302099a8057\0"),
        ("1 OR 1=1", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ("٣", "01890a5d-ac96-774b-bcce-b302099a8057"),
    ],
)
def test_a_forged_cursor_is_refused(parts: tuple[str, ...]) -> None:
    """Well encoded and wrong inside is refused too: nothing unchecked reaches a query."""
    with pytest.raises(Refusal):
        read_cursor(encode_base64url("\n".join(parts).encode()), r"[0-9]{1,16}", r"[0-9a-f-]{36}")


@every(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=1e2",
        "limit=" + "9" * 4000,
        "state=queued",
        "state=QUEUED%00",
        "service=%00",
        "service=..%2F..%2Fetc",
        "service=" + "a" * 4000,
        "cursor=",
        "cursor=" + "A" * 4000,
        "cursor=%00",
        "unknown=1",
        "stat=QUEUED",
    ],
)
async def test_a_query_that_is_wrong_is_refused(query: str) -> None:
    """Values out of range and unknown parameters are refused before anything is read."""
    async with browsing(an_app(database=FakeDatabase()), ALICE) as http:
        answer = await http.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD")
