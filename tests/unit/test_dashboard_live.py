"""The stream of an open page: its position as the event's id, and its end with the right to see it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator.edge.dashboard import broadcasts
from coordinator.edge.dashboard.broadcasts import PageSource, Parts
from coordinator.edge.dashboard.pages import overview
from coordinator.edge.live.events_stream import STREAM_HEADERS
from tests.unit.edge_fakes import ADMIN, Conversation, an_app

PATH = "/ui/live/overview"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the overview shows; a change is on its pages at once."""
    monkeypatch.setattr(broadcasts, "PERIOD_SECONDS", 0.0)
    monkeypatch.setattr(broadcasts, "TICK_SECONDS", 0.001)
    values: dict[str, Any] = {"position": 40, "html": {"one": "first", "two": "<b>"}}

    async def compute() -> Parts:
        return Parts(values["position"], dict(values["html"]))

    monkeypatch.setattr(overview, "_source", lambda *_: PageSource(("overview",), compute, ()))
    return values


def a_stream(app: Any, **headers: str) -> Conversation:
    context = app.state.context
    session = context.sessions.open(ADMIN, context.keyring.grants(ADMIN)[0])
    cookie = f"coordinator_session={context.sessions.text_of(session)}"
    return Conversation(app, "GET", PATH, "", {"Cookie": cookie, "Accept": "text/event-stream", **headers})


async def _until(talk: Conversation, text: bytes) -> None:
    while text not in talk.body:  # noqa: ASYNC110 - the fake server tells of no message
        await asyncio.sleep(0.001)


async def test_a_page_goes_on_after_its_position(shown: dict[str, Any]) -> None:
    """Each message names the position that it is as fresh as; a page that comes back gets what it lacks."""
    app = an_app()
    talk = a_stream(app)
    async with asyncio.timeout(20):
        task = talk.begin()
        await _until(talk, b"id: 40\n\n")
        assert 200 == talk.status
        headers = {name.decode(): value.decode() for name, value in talk.sent[0]["headers"]}
        assert STREAM_HEADERS["Cache-Control"] == headers["cache-control"]
        assert b'hx-target="#one" hx-swap="innerMorph">first<' in talk.body
        shown["html"]["one"], shown["position"] = "second", 41
        await _until(talk, b"id: 41\n\n")
        assert 1 == talk.body.count(b"#two")
        for last, lacks in (("40", True), ("41", True), ("42", False), ("x", True)):
            late = a_stream(app, **{"Last-Event-ID": last})
            other = late.begin()
            await _until(late, b"id: 41\n\n")
            assert lacks == (b"second" in late.body), last
            late.hang_up()
            await other
        talk.hang_up()
        await task


@pytest.mark.parametrize("end", ["revoked", "logged out", "stopping"])
async def test_a_stream_ends_with_its_session(
    shown: dict[str, Any], end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revoked key and a log-out in another tab lead an open page to the form; a stop just ends it."""
    app = an_app()
    context, sessions = app.state.context, []
    opened = context.sessions.open

    def remember(*of: Any) -> Any:
        sessions.append(opened(*of))
        return sessions[-1]

    monkeypatch.setattr(context.sessions, "open", remember)
    talk = a_stream(app)
    async with asyncio.timeout(20):
        task = talk.begin()
        await _until(talk, b"id: 40\n\n")
        if end == "stopping":
            context.live.revocations.stop()
        elif end == "logged out":
            [session] = sessions
            context.sessions.end(session)
            shown["html"]["one"] = "a secret of later"
        else:
            [revocation] = context.live.revocations._open
            revocation.revoked = True
            revocation.wake()
        await task
    assert b"a secret of later" not in talk.body
    assert (end != "stopping") == talk.body.endswith(b"event: signed-out\ndata: \n\n")


async def test_a_stream_needs_a_session(shown: dict[str, Any]) -> None:
    """Without one the answer is 401 and no page, so that a page's script knows what to do."""
    talk = Conversation(an_app(), "GET", PATH, "", {"Accept": "text/event-stream"})
    await talk.begin()
    assert (401, b"") == (talk.status, talk.body)
