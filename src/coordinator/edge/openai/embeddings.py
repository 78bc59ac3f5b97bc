"""Embeddings: texts as vectors."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.edge.http.bodies import read_object
from coordinator.edge.openai.answers import answer, openai_responses
from coordinator.edge.openai.errors import TAG
from coordinator.edge.openai.requests import FOR_THE_PROVIDER, Model, OpenAIRequest
from coordinator.edge.openai.runs import RunnerOfRequest

SERVICE: Final = "text_embedding"
TEXTS_IN_JOB: Final = 64
MAX_TEXTS: Final = 2048
"""OpenAI's limit; more than TEXTS_IN_JOB make several jobs."""
Text = Annotated[str, Field(min_length=1, max_length=8192)]

router = APIRouter(prefix="/embeddings", tags=[TAG])


class EmbeddingRequest(OpenAIRequest):
    """A request for embeddings. Texts that are too long for the model are an error, as at OpenAI."""

    IGNORED: ClassVar = FOR_THE_PROVIDER

    model: Model
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
    encoding_format: Literal["float", "base64"] = "float"

    def job_payloads(self) -> list[dict[str, Any]]:
        """The payloads of the jobs."""
        texts = [self.input] if isinstance(self.input, str) else self.input
        some = [texts[start : start + TEXTS_IN_JOB] for start in range(0, len(texts), TEXTS_IN_JOB)]
        return [{"model": self.model, "texts": part, "truncate": False} for part in some]


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
    description="More than 64 texts make several jobs.",
    responses=openai_responses(),
    openapi_extra=EmbeddingRequest.body(model="all-minilm-l6-v2", input=["a cheap GPU", "an expensive GPU"]),
)
async def create_embedding(request: Request, runner: RunnerOfRequest) -> Response:
    asked = EmbeddingRequest.read(await read_object(request, runner.context.limits))
    all_done = await runner.run_all(SERVICE, asked.model, asked.job_payloads())
    vectors = [vector for done in all_done for vector in done.result["embeddings"]]
    encode = _base64 if asked.encoding_format == "base64" else list
    tokens = sum(done.result["tokens"] for done in all_done)
    embeddings = EmbeddingList(
        data=[Embedding(index=index, embedding=encode(vector)) for index, vector in enumerate(vectors)],
        model=asked.model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
    return answer(embeddings, *(done.job_id for done in all_done))


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
