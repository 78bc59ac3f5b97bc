"""The request for a chat completion, and its job's payload."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field

from coordinator.edge.openai.errors import bad_request
from coordinator.edge.openai.requests import GenerationRequest
from coordinator.services.llm_inference import MAX_MESSAGES, MAX_TOKENS
from coordinator.services.llm_inference.messages import LlmMessage
from coordinator.services.llm_inference.tools import MAX_TOOLS, ResponseFormat, Tool, ToolChoice

SERVICE: Final = "llm_inference"
DEFAULT_TOKENS: Final = 4096
_ONLY_ANSWERED: Final = frozenset({"annotations", "parsed", "audio", "function_call"})
"""Members of OpenAI's answers that say nothing to a model if they are empty."""


def _as_sent_back(message: Any) -> Any:
    """A message without the null and empty members that clients send back with earlier answers."""
    if not isinstance(message, dict):
        return message
    kept = {
        name: value
        for name, value in message.items()
        if value is not None
        and (value != [] or name == "content")
        and not (name in _ONLY_ANSWERED and not value)
    }
    if kept.get("role") == "assistant":
        kept.pop("parsed", None)  # of OpenAI's client: the content, in another form
        if isinstance(kept.get("tool_calls"), list):
            kept["tool_calls"] = [_call_sent_back(call) for call in kept["tool_calls"]]
        if kept.get("reasoning") == kept.get("reasoning_content"):
            kept.pop("reasoning", None)
    return kept


def _call_sent_back(call: Any) -> Any:
    """A call without the members that clients add: its place in the stream, and its parsed arguments."""
    if not isinstance(call, dict):
        return call
    call = {"type": "function", **{name: value for name, value in call.items() if name != "index"}}
    function = call.get("function")
    if isinstance(function, dict):
        function = {name: value for name, value in function.items() if name != "parsed_arguments"}
        if isinstance(function.get("arguments"), dict):
            function["arguments"] = json.dumps(function["arguments"])
        call["function"] = function
    return call


ChatMessage = Annotated[LlmMessage, BeforeValidator(_as_sent_back)]


class ChatRequest(GenerationRequest):
    """A request for a chat completion."""

    # A prediction of the answer only makes some engines faster.
    IGNORED: ClassVar = GenerationRequest.IGNORED | {"prediction"}
    ONLY: ClassVar = {
        **GenerationRequest.ONLY,
        "function_call": ("none",),
        "functions": ([],),
        "modalities": (["text"],),
        "verbosity": ("medium",),
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, max_length=32, description="Not in OpenAI's API; variables of the model's template."
    )

    @property
    def renamed(self) -> dict[str, str]:
        """This request's names of members of the payload."""
        most = (
            "max_tokens"
            if self.max_completion_tokens is None and self.max_tokens
            else "max_completion_tokens"
        )
        return {"stop_sequences": "stop", "max_tokens": most}

    def job_payload(self) -> dict[str, Any]:
        """The job's payload. Raises Problem for members that contradict each other."""
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs", "top_logprobs: needs logprobs")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise bad_request("tool_choice", "tool_choice: needs tools")
        most = self.max_completion_tokens or self.max_tokens or DEFAULT_TOKENS
        payload = self.payload(most)
        names = {"messages", "reasoning_effort", "chat_template_kwargs"}
        if self.logprobs:
            names |= {"logprobs", "top_logprobs"}
        if self.tools:
            names |= {"tools", "tool_choice", "parallel_tool_calls"}
        if self.response_format is not None and self.response_format.type != "text":
            names |= {"response_format"}
        return payload | self.model_dump(mode="json", include=names, exclude_none=True, by_alias=True)
