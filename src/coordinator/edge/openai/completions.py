"""Completions: a language model continues a plain text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.edge.http.bodies import read_object
from coordinator.edge.openai.answers import (
    FinishReason,
    Usage,
    answer,
    finish_reason,
    openai_responses,
    usage_of,
)
from coordinator.edge.openai.chat import SERVICE
from coordinator.edge.openai.deltas import Delta, answers_of
from coordinator.edge.openai.errors import TAG
from coordinator.edge.openai.requests import GenerationRequest
from coordinator.edge.openai.runs import Done, RunnerOfRequest
from coordinator.edge.openai.streaming import follow, respond
from coordinator.services.llm_inference import MAX_TOKENS, Prompt

DEFAULT_TOKENS: Final = 16
"""OpenAI's default."""

router = APIRouter(prefix="/completions", tags=[TAG])


class CompletionRequest(GenerationRequest):
    """A request for a completion."""

    ONLY: ClassVar = {**GenerationRequest.ONLY, "best_of": (1,), "echo": (False,), "suffix": ("",)}

    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = DEFAULT_TOKENS
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def job_payload(self) -> dict[str, Any]:
        """The job's payload."""
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        payload = {**self.payload(self.max_tokens), "prompt": prompt}
        return (
            payload if self.logprobs is None else {**payload, "logprobs": True, "top_logprobs": self.logprobs}
        )


class CompletionLogprobs(BaseModel):
    """The tokens of the text, their probabilities, and where they begin in it."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int = 0
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason


class Completion(BaseModel):
    """The model's continuation."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


@router.post(
    "",
    response_model=Completion,
    summary="Complete a text",
    description="With `stream`, server-sent events of chunks as the tokens are generated. If the client "
    "disconnects, the job is cancelled.",
    responses=openai_responses("text/event-stream"),
    openapi_extra=CompletionRequest.body(
        model="llama-7b", prompt="Three uses for a retired mining rig:", max_tokens=100
    ),
)
async def create_completion(request: Request, runner: RunnerOfRequest) -> Response:
    asked = CompletionRequest.read(await read_object(request, runner.context.limits))
    payload = asked.job_payload()
    runner.know(type(asked).model_fields, {"stop_sequences": "stop", "top_logprobs": "logprobs"})
    if asked.stream:
        pieces = follow(runner, SERVICE, asked.model, payload)
        return await respond(runner, pieces, chunks_of(asked, runner.id_of("cmpl"), runner.created))
    done = await runner.run(SERVICE, asked.model, payload)
    completion = Completion(
        id=runner.id_of("cmpl"),
        created=runner.created,
        model=asked.model,
        choices=[
            CompletionChoice(
                index=index,
                text=one["text"],
                logprobs=_logprobs(one.get("logprobs", ()), 0),
                finish_reason=finish_reason(one),
            )
            for index, one in enumerate(answers_of(done.result))
        ],
        usage=usage_of(done),
    )
    return answer(completion, done.job_id)


def chunks_of(
    asked: CompletionRequest, completion_id: str, created: int
) -> Callable[[Delta | Done], list[dict[str, Any]]]:
    """A function that makes chunks of this completion from pieces of its answers, and from the end."""
    common = {"id": completion_id, "object": "text_completion", "created": created, "model": asked.model}
    if asked.with_usage:
        common = {**common, "usage": None}
    lengths: dict[int, int] = {}
    """Characters of each answer that were sent."""

    def chunk(
        index: int, text: str, logprobs: CompletionLogprobs | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        probable = None if logprobs is None else logprobs.model_dump()
        choice = {"index": index, "text": text, "logprobs": probable, "finish_reason": finish}
        return {**common, "choices": [choice]}

    def chunks(piece: Delta | Done) -> list[dict[str, Any]]:
        if isinstance(piece, Delta):
            before = lengths.get(piece.index, 0)
            lengths[piece.index] = before + len(piece.content)
            return [chunk(piece.index, piece.content, _logprobs(piece.logprobs, before))]
        last = [
            chunk(index, "", finish=finish_reason(one)) for index, one in enumerate(answers_of(piece.result))
        ]
        if asked.with_usage:
            last.append({**common, "choices": [], "usage": usage_of(piece).model_dump()})
        return last

    return chunks


def _logprobs(given: Sequence[Mapping[str, Any]], offset: int) -> CompletionLogprobs | None:
    """Probabilities in the form of completions; `offset`: characters before the first token."""
    if not given:
        return None
    offsets = []
    for one in given:
        offsets.append(offset)
        offset += len(one["token"])
    return CompletionLogprobs(
        tokens=[one["token"] for one in given],
        token_logprobs=[one["logprob"] for one in given],
        top_logprobs=[{top["token"]: top["logprob"] for top in one.get("top_logprobs", ())} for one in given],
        text_offset=offsets,
    )
