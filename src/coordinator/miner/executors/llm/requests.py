"""A job's payload as a request to an engine, and the member that an engine's refusal is about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from coordinator.miner.executors.errors import (
    EXECUTOR_FAILED,
    INVALID_PAYLOAD,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.services.llm_inference import LlmPayload
from coordinator.services.llm_inference.messages import (
    AssistantMessage,
    ImagePart,
    LlmMessage,
    RefusalPart,
    TextPart,
)

LEAST_TOP_P: Final = 0.001
"""Some engines refuse 0; this value also allows only the likeliest token."""
_AS_GIVEN: Final = (
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "tools",
    "reasoning_effort",
    "chat_template_kwargs",
)
_NOT_DEFAULT: Final = ("seed", "tool_choice", "parallel_tool_calls")
Parts = Sequence[TextPart | ImagePart | RefusalPart]


def request_of(payload: LlmPayload, model: str, images: Mapping[str, str], *, plain: bool) -> dict[str, Any]:
    """The request. `images`: data: URLs by the references in the payload; `plain`: OpenAI's members alone."""
    request: dict[str, Any] = {
        "model": model,
        "max_tokens": payload.max_tokens,
        "temperature": payload.temperature,
        "top_p": max(payload.top_p, LEAST_TOP_P),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if payload.messages is not None:
        request["messages"] = [_for_engine(message, images, plain=plain) for message in payload.messages]
    else:
        request["prompt"] = payload.prompt
    if payload.stop_sequences:
        request["stop"] = payload.stop_sequences
    given = payload.model_dump(by_alias=True, exclude_none=True, include={*_AS_GIVEN, *_NOT_DEFAULT})
    request |= {name: given[name] for name in _AS_GIVEN if given.get(name)}
    request |= {name: given[name] for name in _NOT_DEFAULT if name in given}
    if payload.response_format is not None and payload.response_format.type != "text":
        request["response_format"] = payload.response_format.model_dump(by_alias=True, exclude_none=True)
    if payload.n > 1:
        request["n"] = payload.n
    if payload.logprobs and payload.messages is not None:
        request |= {"logprobs": True, "top_logprobs": payload.top_logprobs}
    elif payload.logprobs:
        request["logprobs"] = max(1, payload.top_logprobs)
    if not plain:
        # Further members of most engines; the penalty has two names (vLLM's, and llama.cpp's).
        penalty = payload.repetition_penalty or 1.0
        request |= {"top_k": payload.top_k, "repetition_penalty": penalty, "repeat_penalty": penalty}
    return request


def image_refs(payload: LlmPayload) -> list[str]:
    """The images that must be fetched, each once."""
    urls = [
        part.image_url.url
        for message in payload.messages or ()
        if isinstance(message.content, list)
        for part in message.content
        if isinstance(part, ImagePart)
    ]
    return [url for url in dict.fromkeys(urls) if not url.startswith("data:")]


def _for_engine(message: LlmMessage, images: Mapping[str, str], *, plain: bool) -> dict[str, Any]:
    """A message in a form that every engine understands: one string where it is text alone."""
    made = message.model_dump(exclude_none=True, exclude={"content", "reasoning", "reasoning_content"})
    if made["role"] == "developer":
        made["role"] = "system"
    if isinstance(message, AssistantMessage):
        made["content"] = None if message.content is None else _content(message.content, images)
        # Templates differ in this: some models read their earlier reasoning, others must not.
        reasoning = message.reasoning_content or message.reasoning
        if reasoning and not plain:
            made["reasoning_content"] = reasoning
        if made["content"] is None and "tool_calls" not in made:
            made["content"] = message.refusal or ""
    else:
        made["content"] = _content(message.content, images)
    return made


def _content(content: str | Parts, images: Mapping[str, str]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not any(isinstance(part, ImagePart) for part in content):
        return "".join(
            part.refusal if isinstance(part, RefusalPart) else getattr(part, "text", "") for part in content
        )
    made = []
    for part in content:
        one = part.model_dump(exclude_none=True)
        if isinstance(part, ImagePart):
            one["image_url"]["url"] = images.get(part.image_url.url, part.image_url.url)
        made.append(one)
    return made


# --- refusals ----------------------------------------------------------------------------------------------
_PAYLOADS_NAME: Final = {"stop": "stop_sequences"}
_IMAGE: Final = re.compile(r"image|multimodal|mmproj|vision")
_SCHEMA: Final = re.compile(r"schema|grammar|regex")
_LENGTH: Final = re.compile(r"context|too long|exceed|input tokens")


def blamed(error: ExecutorError, payload: LlmPayload, request: Mapping[str, Any]) -> ExecutorError:
    """The same error with the member of the payload that the engine's reason is about, where that shows."""
    if error.code not in (INVALID_PAYLOAD, EXECUTOR_FAILED):
        return error
    reason = error.detail.lower()
    text = "prompt" if payload.messages is None else "messages"
    if "image_url" in str(request.get("messages", "")) and _IMAGE.search(reason):
        return ExecutorError(
            UNSUPPORTED, f"messages: this model takes no images: {error.detail}", retryable=True
        )
    if error.code != INVALID_PAYLOAD:
        return error
    member: str | None = None
    for name in request:
        if name not in ("model", "n", "stream") and re.search(rf"\b{name}\b", reason):
            member = _PAYLOADS_NAME.get(name, name)
            break
    else:
        if _SCHEMA.search(reason) and "response_format" in request:
            member = "response_format"
        elif "tools" in request and ("tool" in reason or _SCHEMA.search(reason)):
            member = "tools"
        elif _LENGTH.search(reason):
            member = text
    if member is None:
        return error
    return ExecutorError(error.code, f"{member}: {error.detail}", retryable=error.retryable)
