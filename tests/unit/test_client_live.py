"""The SDK's stream of a job's events: what it makes of lost connections, repeats and strange streams."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from coordinator.client import live
from coordinator.client.errors import BadAnswer, NotFound, Unreachable
from coordinator.client.http import HttpPool
from coordinator.client.live import LiveEvent, follow

PATH = "/v1/jobs/j/events"


class Streams(httpx.AsyncBaseTransport):
    """Answers each request with the next of these: chunks of a stream, or an answer."""

    def __init__(self, *answers: Sequence[bytes | Exception] | httpx.Response) -> None:
        self._answers = list(answers)
        self.asked: list[str | None] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.headers.get("Last-Event-ID"))
        answer = self._answers.pop(0)
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(200, content=_chunks(answer))


async def _chunks(chunks: Sequence[bytes | Exception]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        if isinstance(chunk, Exception):
            raise chunk
        yield chunk


def told(kind: str, **members: Any) -> bytes:
    position = members.get("position")
    head = f"id: {position}\n" if position else ""
    data = json.dumps({"type": kind, "job_id": "j", **members}, ensure_ascii=False)
    return f"event: {kind}\n{head}data: {data}\n\n".encode()


def state(position: int, name: str, **more: Any) -> bytes:
    return told("state.changed", position=position, state=name, attempt=1, **more)


def tokens(text: str, offset: int, attempt: int = 1) -> bytes:
    return told("tokens", attempt=attempt, seq=1, text=text, offset=offset)


DONE = told("result.ready", position=9, state="COMPLETED", attempt=1)
CUT = httpx.ReadError("cut")


async def events_of(streams: Streams, after: int = 0) -> list[LiveEvent]:
    async with HttpPool("http://edge", "alice:secret-of-alice", transport=streams, tries=1) as http:
        return [event async for event in follow(http, PATH, after)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAUSE_S", 0.0)


async def test_a_lost_connection_is_resumed_where_it_was() -> None:
    """It asks for what came after the last position, tells each event once, and cuts off text that it had."""
    streams = Streams(
        [b"retry: 2000\n\n", state(3, "QUEUED"), state(5, "RUNNING"), tokens("Once ", 0), CUT],
        [],
        [told("subscribed", jobs=["j"], position=5), tokens("Once upon", 0), tokens(" a time", 9), DONE],
    )
    events = await events_of(streams)
    assert ["0", "5", "5"] == streams.asked
    assert ["QUEUED", "RUNNING", "COMPLETED"] == [e.state for e in events if e.state]
    assert [("Once ", 0), ("upon", 5), (" a time", 9)] == [
        (e.text, e.offset) for e in events if e.type == "tokens"
    ]
    assert events[-1].final


async def test_a_new_attempt_begins_a_new_text_and_a_gap_stays_one() -> None:
    """Characters are counted anew for each attempt; text that is missing is not papered over."""
    streams = Streams([tokens("abc", 0), tokens("x", 0, attempt=2), tokens("z", 7, attempt=2), DONE])
    events = await events_of(streams)
    assert [("abc", 0), ("x", 0), ("z", 7)] == [(e.text, e.offset) for e in events if e.type == "tokens"]


async def test_bytes_may_come_in_any_pieces() -> None:
    """Lines are ended by line feeds alone, wherever the network cuts, and whatever else is in the text."""
    text = "line\u2028separator \x85 é \N{SNOWMAN} \r\n\x0b end"
    whole = b": ping\n\n" + tokens(text, 0) + DONE
    for size in (1, 2, 7, 1000):
        streams = Streams([whole[at : at + size] for at in range(0, len(whole), size)])
        assert text == (await events_of(streams))[0].text


async def test_what_is_new_in_a_newer_coordinator_is_passed_on() -> None:
    """Types and members that are not known here come through; `document` has them."""
    streams = Streams([told("heat", degrees=80), DONE])
    [heat, _] = await events_of(streams)
    assert ("heat", 80) == (heat.type, heat.document()["degrees"])


async def test_a_job_that_was_told_to_its_end_already() -> None:
    """204 ends the stream."""
    assert [] == await events_of(Streams(httpx.Response(204)), after=9)


async def test_refusals_and_nonsense_are_raised() -> None:
    """A job that is not there is NotFound; a stream of something else is BadAnswer."""
    problem = {"code": "JOB_NOT_FOUND", "detail": "no such job"}
    with pytest.raises(NotFound):
        await events_of(Streams(httpx.Response(404, json=problem)))
    for nonsense in (b"data: nonsense\n\n", b"data: []\n\n", b'data: {"position": "x"}\n\n'):
        with pytest.raises(BadAnswer):
            await events_of(Streams([nonsense]))


async def test_a_server_that_never_gets_anywhere_is_given_up() -> None:
    """So many empty streams in a row are Unreachable, rather than a loop for ever."""
    with pytest.raises(Unreachable):
        await events_of(Streams(*([CUT] for _ in range(live.LONGEST_SILENT_TRIES))))
