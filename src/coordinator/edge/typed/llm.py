"""Text from text: language models."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.matching import Constraints
from coordinator.edge.auth import Client
from coordinator.edge.context import Context
from coordinator.edge.models import JobSubmitAnswer, View
from coordinator.edge.submitting import SUBMIT_PROBLEMS, SUBMIT_TEXT, IdempotencyKey, Prefer
from coordinator.edge.typed.asking import Ask, ask_body, read_ask, submit_ask

router = APIRouter(prefix="/llm")

CUDA: Final = "11.8"
VRAM_GB: Final[dict[str, int]] = {
    "llama-7b": 8,
    "llama-13b": 16,
    "llama-70b": 64,
    "mistral-7b": 8,
    "mixtral-8x7b": 48,
    "codellama-7b": 8,
    "codellama-13b": 16,
    "codellama-34b": 32,
}
"""Of the models whose needs are known; for others it is the miner's affair which it offers."""


class InferenceAsk(Ask):
    """How a model goes on with a text."""

    SERVICE: ClassVar = "llm_inference"

    model: Annotated[
        str,
        Field(
            max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*){0,2}$"
        ),
    ] = Field(description="One that a miner offers.", examples=list(VRAM_GB))
    prompt: Annotated[str, Field(min_length=1, max_length=10_000)]
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    top_k: Annotated[int, Field(ge=0, le=100)] = 40
    repetition_penalty: Annotated[float, Field(ge=0, le=2)] = 1.1
    stop_sequences: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=16)] | None
    ) = None
    stream: bool = Field(False, description="Also send tokens as progress while they are made.")

    def needs(self) -> Constraints:
        known = VRAM_GB.get(self.model)
        return Constraints(models=(self.model,), min_vram_gb=known, cuda=CUDA if known else None)


class Generated(View):
    """`text` is what was generated, without the prompt."""

    model: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class InferenceJob(JobSubmitAnswer):
    """A job of the service llm_inference."""

    result: Generated | None = None  # type: ignore[assignment]


@router.post(
    "/inference",
    status_code=201,
    response_model=InferenceJob,
    summary="Let a language model go on with a text",
    description=SUBMIT_TEXT,
    responses=SUBMIT_PROBLEMS,
    openapi_extra=ask_body(
        InferenceAsk, one={"model": "mistral-7b", "prompt": "Three uses for a retired mining rig:"}
    ),
)
async def infer(
    request: Request,
    context: Context,
    principal: Client,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    ask = await read_ask(request, context, principal, InferenceAsk)
    return await submit_ask(request, context, principal, ask, idempotency_key, prefer)
