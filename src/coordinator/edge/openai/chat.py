"""Chat completions: a language model continues a conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from coordinator.edge.http.bodies import read_object
from coordinator.edge.openai.answers import Usage, answer, openai_responses, usage_of
from coordinator.edge.openai.errors import TAG
from coordinator.edge.openai.requests import GenerationRequest
from coordinator.edge.openai.runs import Done, RunnerOfRequest
from coordinator.edge.openai.streaming import follow, respond
from coordinator.services.llm_inference import LlmMessage, MessageContent

SERVICE: Final = "llm_inference"
DEFAULT_TOKENS: Final = 1024
MAX_TOKENS: Final = 4096

router = APIRouter(prefix="/chat/completions", tags=[TAG])


def _only_text(content: Any) -> Any:
    if isinstance(content, list) and any(isinstance(p, dict) and p.get("type") != "text" for p in content):
        raise ValueError("only parts of the type text are supported")
    return content


class ChatMessage(LlmMessage):
    """One message of the conversation."""

    content: Annotated[MessageContent, BeforeValidator(_only_text)]
    """A text, or its parts."""

    @model_validator(mode="before")
    @classmethod
    def _as_answered(cls, message: Any) -> Any:
        # Clients send earlier answers back, with null and empty members.
        if not isinstance(message, dict):
            return message
        return {name: value for name, value in message.items() if value is not None and value != []}


class ChatRequest(GenerationRequest):
    """A request for a chat completion."""

    ONLY: ClassVar = {
        **GenerationRequest.ONLY,
        "function_call": ("none",),
        "functions": ([],),
        "logprobs": (False,),
        "modalities": (["text"],),
        "parallel_tool_calls": (True, False),
        "response_format": ({"type": "text"},),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": (0,),
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=256)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None

    def job_payload(self) -> dict[str, Any]:
        """The job's payload."""
        messages = [message.model_dump(exclude_none=True) for message in self.messages]
        most = self.max_completion_tokens or self.max_tokens or DEFAULT_TOKENS
        return {**self.payload(most), "messages": messages}


class AnsweredMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int = 0
    message: AnsweredMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """The model's answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


@router.post(
    "",
    response_model=ChatCompletion,
    summary="Answer a chat",
    description="With `stream`, server-sent events of chunks as the tokens are generated. If the client "
    "disconnects, the job is cancelled.",
    responses=openai_responses(events=True),
    openapi_extra=ChatRequest.body(
        model="llama-7b",
        messages=[{"role": "user", "content": "What is a GPU good for?"}],
        max_completion_tokens=100,
    ),
)
async def create_chat_completion(request: Request, runner: RunnerOfRequest) -> Response:
    asked = ChatRequest.read(await read_object(request, runner.context.limits))
    payload = asked.job_payload()
    if asked.stream:
        pieces = follow(runner, SERVICE, asked.model, payload)
        return await respond(runner, pieces, chunks_of(asked, runner.id_of("chatcmpl"), runner.created))
    done = await runner.run(SERVICE, asked.model, payload)
    completion = ChatCompletion(
        id=runner.id_of("chatcmpl"),
        created=runner.created,
        model=asked.model,
        choices=[
            ChatChoice(
                message=AnsweredMessage(content=done.result["text"]), finish_reason=finish_reason(done)
            )
        ],
        usage=usage_of(done),
    )
    return answer(completion, done.job_id)


def finish_reason(done: Done) -> Literal["stop", "length"]:
    """Why the model stopped, in OpenAI's words."""
    return "length" if done.result["finish_reason"] == "length" else "stop"


def chunks_of(
    asked: ChatRequest, completion_id: str, created: int
) -> Callable[[str | Done], list[dict[str, Any]]]:
    """A function that makes chunks of this chat from pieces of text, and from the end."""
    common = {
        "id": completion_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": asked.model,
    }
    if asked.with_usage:
        common = {**common, "usage": None}
    begun = False

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**common, "choices": [choice]}

    def chunks(piece: str | Done) -> list[dict[str, Any]]:
        nonlocal begun
        first = [] if begun else [chunk({"role": "assistant", "content": ""})]
        begun = True
        if isinstance(piece, str):
            return [*first, chunk({"content": piece})]
        last = [chunk({}, finish_reason(piece))]
        if asked.with_usage:
            last.append({**common, "choices": [], "usage": usage_of(piece).model_dump()})
        return [*first, *last]

    return chunks
