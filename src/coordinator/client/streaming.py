"""A job's updates as they happen: server-sent events, resumed after a lost connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from coordinator.client.errors import BadAnswer, TryAgain, Unreachable
from coordinator.client.http import BACKOFF, HttpPool, typed
from coordinator.client.models import UPDATES, StateChanged, Tokens, Update

MAX_EVENT_BYTES: Final = 4 * 2**20


async def follow(http: HttpPool, job_path: str, *, progress: bool) -> AsyncGenerator[Update, None]:
    """The updates of the job from its beginning until it is final; each once, in order.

    Raises RequestRefused, and Unreachable if the stream can't be resumed.
    """
    cursor = _StreamCursor()
    failed = 0
    while True:
        params = {"from": cursor.position or None, "progress": "true" if progress else "false"}
        try:
            async with http.stream(f"{job_path}/events", params) as response:
                if response.status_code == 204:
                    return  # final, and all updates were sent before
                async for document in _events(response.aiter_bytes()):
                    failed = 0
                    update = cursor.take(document)
                    if update is not None:
                        yield update
                    if cursor.final:
                        return
        except (TryAgain, Unreachable):
            if failed + 1 >= http.tries:
                raise
        # The stream ended before the job, as it does when a coordinator stops: another one continues.
        if failed + 1 >= http.tries:
            raise Unreachable("the stream ended before the job did")
        await asyncio.sleep(BACKOFF.delay(failed))
        failed += 1


class _StreamCursor:
    """A reader's place in the stream: drops updates that are repeated after a lost connection."""

    def __init__(self) -> None:
        self.position = 0
        self.final = False
        self._attempt = 0
        self._characters = 0

    def take(self, document: dict[str, Any]) -> Update | None:
        kind = UPDATES.get(str(document.get("type")))
        if kind is None:
            return None  # from a newer coordinator, or about the connection
        update = typed(kind, document)
        position = document.get("position")
        if isinstance(position, int):
            if position <= self.position:
                return None
            self.position = position
        if isinstance(update, StateChanged):
            self.final = update.final
        return self._unseen(update) if isinstance(update, Tokens) else update

    def _unseen(self, tokens: Tokens) -> Tokens | None:
        if tokens.attempt < self._attempt:
            return None
        if tokens.attempt > self._attempt:
            self._attempt, self._characters = tokens.attempt, 0
        known = max(0, self._characters - tokens.offset)
        if known >= len(tokens.text):
            return None
        self._characters = tokens.offset + len(tokens.text)
        if not known:
            return tokens
        rest = {"text": tokens.text[known:], "offset": tokens.offset + known}
        return Tokens.of({**tokens.document(), **rest})


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects in a stream of server-sent events (WHATWG HTML). Comments are skipped."""
    rest = b""
    data: list[bytes] = []
    async for chunk in chunks:
        # Not `splitlines`: it would also split at separators within the JSON.
        *lines, rest = (rest + chunk).split(b"\n")
        for line in (line.removesuffix(b"\r") for line in lines):
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield _object(b"\n".join(data))
                data = []
        if len(rest) + sum(map(len, data)) > MAX_EVENT_BYTES:
            raise BadAnswer(f"an event is larger than {MAX_EVENT_BYTES} bytes")


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise BadAnswer("an event of the stream is not a JSON object")
    return document
