"""The HTTP server of a witness: one endpoint for logs, one for people, and bounded bodies."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from coordinator.wire.witnessing import MAX_REQUEST_BYTES, PATH
from coordinator.witness.witness import TEXT, Witness, WitnessAnswer

BODY_SECONDS = 10.0
"""For a whole request to arrive."""


class WitnessApp:
    """An ASGI application. `GET /` shows the witness's verifier key."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = await self._answer(scope["method"], scope["path"], receive)
        headers = [(b"content-type", answer.media_type.encode()), (b"cache-control", b"no-store")]
        if answer.status == 405:
            headers.append((b"allow", b"POST" if scope["path"] == PATH else b"GET"))
        if answer.status in (408, 413):
            headers.append((b"connection", b"close"))
        body = answer.body.encode()
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, method: str, path: str, receive: Receive) -> WitnessAnswer:
        if path not in (PATH, "/"):
            return WitnessAnswer(404, f"a witness has POST {PATH} only\n")
        if path == "/":
            shown = WitnessAnswer(200, f"{self._witness.verifier_key.text}\n")
            return shown if method in ("GET", "HEAD") else WitnessAnswer(405, "use GET\n")
        if method != "POST":
            return WitnessAnswer(405, "use POST\n")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(receive)
        except TimeoutError:
            return WitnessAnswer(408, "the request took too long to arrive\n", TEXT)
        if body is None:
            return WitnessAnswer(413, f"a request has at most {MAX_REQUEST_BYTES} bytes\n", TEXT)
        return await asyncio.to_thread(self._witness.add_checkpoint, body)


async def _body(receive: Receive) -> bytes | None:
    """The request's body; None if it is too large."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > MAX_REQUEST_BYTES:
            return None
        if not message.get("more_body"):
            return body
