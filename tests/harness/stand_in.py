"""A stand-in for an engine: it speaks OpenAI's wire format, and understands nothing.

It pins what is sent (every request is kept), answers as the engines' documentation says that they do, and
fails as real ones can't be made to. For images there is nothing else: no Stable Diffusion is small enough.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from coordinator.miner.executors.engine import EngineSettings


def png(width: int, height: int) -> bytes:
    """A black image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(width)) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class StandIn:
    """Answers `answers[path]` (a status and JSON) where it is set, and otherwise as an engine would."""

    def __init__(self, *models: str, strict: bool = False) -> None:
        """`strict` refuses fields that OpenAI's own API does not have."""
        self.models = models
        self.strict = strict
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, tuple[int, Any]] = {}
        self.app = FastAPI()
        self.app.get("/v1/models")(self._models)
        self.app.post("/v1/{path:path}")(self._post)
        self.url = ""

    def settings(self, **more: Any) -> EngineSettings:
        """What a miner has to be told of it, whatever the environment says."""
        return EngineSettings.model_construct(**{"url": f"{self.url}/v1", **more})

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[StandIn]:
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(self.app, log_level="critical", timeout_graceful_shutdown=1))
        task = asyncio.create_task(server.serve([listener]))
        try:
            yield self
        finally:
            server.should_exit = True
            await task

    async def _models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model, "object": "model"} for model in self.models]}

    async def _post(self, path: str, request: Request) -> Response:
        fields: dict[str, Any]
        if request.headers["content-type"].startswith("application/json"):
            fields = await request.json()
        else:
            fields = _form(request.headers["content-type"], await request.body())
        self.received.append((path, fields))
        if path in self.answers:
            status, answer = self.answers[path]
            return JSONResponse(answer, status)
        if self.strict and "seed" in fields:
            return JSONResponse({"error": {"message": "Unknown parameter: 'seed'."}}, 400)
        return JSONResponse(self._answer(path, fields))

    def _answer(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        if path.startswith("images/"):
            width, _, height = fields["size"].partition("x")
            image = base64.b64encode(png(int(width), int(height))).decode()
            return {"created": 1, "data": [{"b64_json": image}]}
        segment = {"id": 0, "start": 0.0, "end": 1.25, "text": " Hello.", "avg_logprob": -0.25}
        segment["no_speech_prob"] = 0.01
        return {"task": "transcribe", "language": "german", "text": " Hello.", "segments": [segment]}


def _form(content_type: str, body: bytes) -> dict[str, Any]:
    """The fields of a multipart form: files as bytes, others as text, those that come again as lists."""
    boundary = b"--" + content_type.partition("boundary=")[2].encode()
    fields: dict[str, Any] = {}
    for part in body.split(boundary)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = head.decode().partition('name="')[2].partition('"')[0]
        content = content.removesuffix(b"\r\n")
        value = content if b"filename=" in head else content.decode()
        fields[name] = [fields[name], value] if name in fields else value
    return fields
