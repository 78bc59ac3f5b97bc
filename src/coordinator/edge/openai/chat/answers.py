"""Chat completions and their chunks, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from coordinator.edge.openai.answers import FinishReason, Usage, finish_reason, usage_of
from coordinator.edge.openai.chat.request import ChatRequest
from coordinator.edge.openai.deltas import Delta, answers_of
from coordinator.edge.openai.runs import Done


class AnsweredFunction(BaseModel):
    name: str
    arguments: str
    """The text of a JSON object, as the model wrote it."""


class AnsweredCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: AnsweredFunction


class AnsweredMessage(BaseModel):
    """The model's words: text, calls of tools, and reasoning by both of its usual names."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[AnsweredCall] | None = None


class AnsweredToken(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None = None


class AnsweredLogprob(AnsweredToken):
    top_logprobs: list[AnsweredToken]


class ChoiceLogprobs(BaseModel):
    content: list[AnsweredLogprob]
    refusal: None = None


class ChatChoice(BaseModel):
    index: int = 0
    message: AnsweredMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """The model's answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


def completion_of(asked: ChatRequest, done: Done, completion_id: str, created: int) -> dict[str, Any]:
    """The completion with all answers of a job."""
    return {
        "id": completion_id,
        "object": "chat.completion",
        "created": created,
        "model": asked.model,
        "choices": [
            {
                "index": index,
                "message": message_of(answer),
                "logprobs": logprobs_of(answer.get("logprobs", ())),
                "finish_reason": finish_reason(answer),
            }
            for index, answer in enumerate(answers_of(done.result))
        ],
        "usage": usage_of(done).model_dump(),
    }


def message_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as a message; members that have no value are left out, as at OpenAI."""
    calls = answer.get("tool_calls")
    message: dict[str, Any] = {"role": "assistant", "content": answer["text"], "refusal": None}
    if calls:
        message["content"] = answer["text"] or None
        message["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in calls
        ]
    return message | _reasoning(answer.get("reasoning", ""))


def logprobs_of(given: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Probabilities in OpenAI's form; None if there are none."""
    if not given:
        return None
    likely = [
        {
            "bytes": None,
            **one,
            "top_logprobs": [{"bytes": None, **top} for top in one.get("top_logprobs", ())],
        }
        for one in given
    ]
    return {"content": likely, "refusal": None}


def _reasoning(text: str) -> dict[str, str]:
    # Clients look for either name.
    return {"reasoning_content": text, "reasoning": text} if text else {}


def chunks_of(
    asked: ChatRequest, completion_id: str, created: int
) -> Callable[[Delta | Done], list[dict[str, Any]]]:
    """A function that makes chunks of this chat from pieces of its answers, and from the end."""
    common = {
        "id": completion_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": asked.model,
    }
    if asked.with_usage:
        common = {**common, "usage": None}
    begun: set[int] = set()

    def chunk(
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        finish: str | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**common, "choices": [choice]}

    def begin(index: int) -> list[dict[str, Any]]:
        if index in begun:
            return []
        begun.add(index)
        return [chunk(index, {"role": "assistant", "content": ""})]

    def chunks(piece: Delta | Done) -> list[dict[str, Any]]:
        if isinstance(piece, Delta):
            delta: dict[str, Any] = _reasoning(piece.reasoning)
            if piece.content:
                delta["content"] = piece.content
            if piece.tool_calls:
                delta["tool_calls"] = [_call_delta(call) for call in piece.tool_calls]
            return [*begin(piece.index), chunk(piece.index, delta, logprobs_of(piece.logprobs))]
        made = []
        for index, answer in enumerate(answers_of(piece.result)):
            made += [*begin(index), chunk(index, {}, finish=finish_reason(answer))]
        if asked.with_usage:
            made.append({**common, "choices": [], "usage": usage_of(piece).model_dump()})
        return made

    return chunks


def _call_delta(call: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"index": call["index"], "function": {}}
    if "id" in call:
        made |= {"id": call["id"], "type": "function"}
    if "name" in call:
        made["function"] = {"name": call["name"], "arguments": ""}
    if "arguments" in call:
        made["function"]["arguments"] = call["arguments"]
    return made
