"""An engine with large answers, as a stand-in: `python -m tests.harness.bulky_server '<json>'`.

`{"port", "models"}`. Vectors, probabilities, segments and scores are made up: no model of the tests makes as
many in seconds.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response, StreamingResponse

from coordinator.runtime.process.parent_watch import stop_with_parent
from tests.harness.engine_process import EngineProcess

MODEL, EARS = "bulky", "whisper-base"
DIMENSIONS = 4096
SEGMENTS = 3 * 3600


class BulkyEngine(EngineProcess):
    """The stand-in as a process."""

    def __init__(self, folder: Path, models: Sequence[str] = (MODEL, EARS)) -> None:
        super().__init__(folder, "tests.harness.bulky_server", folder, models=list(models))


@functools.lru_cache(64)
def vector(number: int) -> list[float]:
    """The vector of the text `str(number)`: of length 1, and 32 bits hold its numbers exactly."""
    signs = [1 - 2 * (number >> place % 11 & 1) for place in range(DIMENSIONS)]
    return [sign / 64 for sign in signs]


@functools.lru_cache(64)
def _row(number: int) -> str:
    return json.dumps(vector(number))


def logprob(place: int, rank: int = 0) -> dict[str, Any]:
    """A token with its probability; the first rank is the text's."""
    token = f" w{place % 97}.{rank}"
    return {"token": token, "logprob": -0.25 * rank - 0.001, "bytes": list(token.encode())}


def _events(answers: int, tokens: int, top: int) -> Iterator[bytes]:
    """The stream of a chat: one event for each token of each answer."""
    for place in range(tokens):
        likely = [logprob(place, rank) for rank in range(top)]
        probable = {"logprobs": {"content": [{**logprob(place), "top_logprobs": likely}]}} if top else {}
        for index in range(answers):
            choice = {"index": index, "delta": {"content": logprob(place)["token"]}, **probable}
            yield b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
    ends = [{"index": index, "delta": {}, "finish_reason": "length"} for index in range(answers)]
    usage = {"prompt_tokens": 3, "completion_tokens": answers * tokens}
    yield b"data: " + json.dumps({"choices": ends, "usage": usage}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def make_app(names: Sequence[str]) -> FastAPI:
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"data": [{"id": name} for name in names]}

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        given = (await request.json())["input"]
        rows = [
            f'{{"index":{place},"embedding":{_row(int(text) if text.isdigit() else 0)}}}'
            for place, text in enumerate(given)
        ]
        body = f'{{"data":[{",".join(rows)}],"usage":{{"prompt_tokens":{len(given)}}}}}'
        return Response(body, media_type="application/json")

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        asked = await request.json()
        if asked["model"] not in names:
            raise HTTPException(404, "no such model")
        stream = _events(asked.get("n", 1), asked["max_tokens"], asked.get("top_logprobs", 0))
        return StreamingResponse(stream, media_type="text/event-stream")

    @app.post("/v1/audio/transcriptions")
    def transcriptions() -> dict[str, Any]:
        """A segment for each second of three hours, whatever was sent."""
        segments = [
            {"id": n, "start": float(n), "end": n + 0.98, "text": f" {n} words.", "avg_logprob": -0.25}
            for n in range(SEGMENTS)
        ]
        return {"text": "".join(str(one["text"]) for one in segments), "language": "en", "segments": segments}

    @app.post("/v1/rerank")
    async def rerank(request: Request) -> dict[str, Any]:
        count = len((await request.json())["documents"])
        return {"results": [{"index": n, "relevance_score": -n / 7} for n in range(count)]}

    return app


def main() -> None:
    stop_with_parent()
    given = json.loads(sys.argv[1])
    uvicorn.run(make_app(given["models"]), host="127.0.0.1", port=given["port"], log_level="warning")


if __name__ == "__main__":
    main()
