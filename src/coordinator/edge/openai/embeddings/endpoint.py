"""Embeddings: texts as vectors."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, ClassVar, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.edge.http.bodies import read_object
from coordinator.edge.http.reads.stored_payloads import Pieces
from coordinator.edge.openai.answers import job_header, openai_responses
from coordinator.edge.openai.embeddings.vectors import (
    check_count,
    encoded_rows,
    vectors_of_file,
    vectors_of_lists,
)
from coordinator.edge.openai.errors import TAG
from coordinator.edge.openai.requests import FOR_THE_PROVIDER, Model, OpenAIRequest
from coordinator.edge.openai.runs import RunnerOfRequest
from coordinator.services.text_embedding import MAX_DIMENSIONS, MAX_TEXT_CHARACTERS, MAX_TEXTS

SERVICE: Final = "text_embedding"
ROWS_AT_A_TIME: Final = 64
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)]
Tokens = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**31)]],
    Field(min_length=1, max_length=MAX_TEXT_CHARACTERS, fail_fast=True),
]

router = APIRouter(prefix="/embeddings", tags=[TAG])


class EmbeddingRequest(OpenAIRequest):
    """A request for embeddings. Texts that are too long for the model are an error, as at OpenAI."""

    IGNORED: ClassVar = FOR_THE_PROVIDER
    HERE: ClassVar = frozenset({"model", "encoding_format"})

    model: Model
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)]
    )
    """A text or several, or the tokens of a text or of several."""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=MAX_DIMENSIONS)] | None = None

    def job_payload(self) -> dict[str, Any]:
        """The job's payload."""
        payload: dict[str, Any] = {"model": self.model, "truncate": False}
        if self.dimensions is not None:
            payload["dimensions"] = self.dimensions
        if isinstance(self.input, str):
            return {**payload, "texts": [self.input]}
        if isinstance(self.input[0], str):
            return {**payload, "texts": self.input}
        return {**payload, "tokens": [self.input] if isinstance(self.input[0], int) else self.input}


class Embedding(BaseModel):
    """One vector: numbers, or the base64 of little-endian 32-bit floats."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@router.post(
    "",
    response_model=EmbeddingList,
    summary="Embed texts",
    description="All texts make one job.",
    responses=openai_responses(),
    openapi_extra=EmbeddingRequest.body(model="all-minilm-l6-v2", input=["a cheap GPU", "an expensive GPU"]),
)
async def create_embedding(request: Request, runner: RunnerOfRequest) -> Response:
    asked = EmbeddingRequest.read(await read_object(request, runner.context.limits))
    runner.know(type(asked).model_fields, {"texts": "input", "tokens": "input"})
    payload = asked.job_payload()
    done = await runner.run(SERVICE, asked.model, payload)
    result = done.result
    if "embeddings" in result:
        vectors = vectors_of_lists(result["embeddings"])
    else:
        vectors = vectors_of_file(await runner.blob(result["outputs"][0]["blob"]))
    check_count(vectors, len(payload.get("texts") or payload["tokens"]), asked.dimensions)
    rows = encoded_rows(vectors, base64=asked.encoding_format == "base64")
    tail = {
        "model": asked.model,
        "usage": {"prompt_tokens": result["tokens"], "total_tokens": result["tokens"]},
    }
    pieces = _pieces(rows, tail)
    # As a stream: thousands of vectors take a hundred megabytes as JSON.
    return Pieces(pieces, headers=job_header(done.job_id), media_type="application/json")


async def _pieces(rows: Iterator[str], tail: dict[str, Any]) -> AsyncIterator[bytes]:
    """An EmbeddingList as JSON, made in a thread."""

    def some(first: int) -> tuple[str, int]:
        made: list[str] = []
        for row in itertools.islice(rows, ROWS_AT_A_TIME):
            index = first + len(made)
            made.append(f'{{"object":"embedding","index":{index},"embedding":{row}}}')
        return ",".join(made), len(made)

    yield b'{"object":"list","data":['
    index = 0
    while True:
        text, count = await asyncio.to_thread(some, index)
        if not count:
            break
        yield (f",{text}" if index else text).encode()
        index += count
    yield f"],{json.dumps(tail)[1:]}".encode()
