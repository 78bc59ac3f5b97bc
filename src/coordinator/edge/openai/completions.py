"""Completions: a language model continues a plain text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.edge.http.bodies import read_object
from coordinator.edge.openai.answers import Usage, answer, openai_responses, usage_of
from coordinator.edge.openai.chat import MAX_TOKENS, SERVICE, finish_reason
from coordinator.edge.openai.errors import TAG
from coordinator.edge.openai.requests import GenerationRequest
from coordinator.edge.openai.runs import Done, RunnerOfRequest
from coordinator.edge.openai.streaming import follow, respond

DEFAULT_TOKENS: Final = 16
"""OpenAI's default."""
Prompt = Annotated[str, Field(min_length=1, max_length=10_000)]

router = APIRouter(prefix="/completions", tags=[TAG])


class CompletionRequest(GenerationRequest):
    """A request for a completion."""

    ONLY: ClassVar = {**GenerationRequest.ONLY, "best_of": (1,), "echo": (False,), "suffix": ("",)}

    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = DEFAULT_TOKENS

    def job_payload(self) -> dict[str, Any]:
        """The job's payload."""
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        return {**self.payload(self.max_tokens), "prompt": prompt}


class CompletionChoice(BaseModel):
    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


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
    responses=openai_responses(events=True),
    openapi_extra=CompletionRequest.body(
        model="llama-7b", prompt="Three uses for a retired mining rig:", max_tokens=100
    ),
)
async def create_completion(request: Request, runner: RunnerOfRequest) -> Response:
    asked = CompletionRequest.read(await read_object(request, runner.context.limits))
    payload = asked.job_payload()
    if asked.stream:
        pieces = follow(runner, SERVICE, asked.model, payload)
        return await respond(runner, pieces, chunks_of(asked, runner.id_of("cmpl"), runner.created))
    done = await runner.run(SERVICE, asked.model, payload)
    completion = Completion(
        id=runner.id_of("cmpl"),
        created=runner.created,
        model=asked.model,
        choices=[CompletionChoice(text=done.result["text"], finish_reason=finish_reason(done))],
        usage=usage_of(done),
    )
    return answer(completion, done.job_id)


def chunks_of(
    asked: CompletionRequest, completion_id: str, created: int
) -> Callable[[str | Done], list[dict[str, Any]]]:
    """A function that makes chunks of this completion from pieces of text, and from the end."""
    common = {"id": completion_id, "object": "text_completion", "created": created, "model": asked.model}
    if asked.with_usage:
        common = {**common, "usage": None}

    def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return {**common, "choices": [choice]}

    def chunks(piece: str | Done) -> list[dict[str, Any]]:
        if isinstance(piece, str):
            return [chunk(piece)]
        last = [chunk("", finish_reason(piece))]
        if asked.with_usage:
            last.append({**common, "choices": [], "usage": usage_of(piece).model_dump()})
        return last

    return chunks
