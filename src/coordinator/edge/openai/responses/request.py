"""The request for a response, as a chat: items become messages, and flat tools nested ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from coordinator.edge.http.problems import Problem
from coordinator.edge.openai.chat.request import ChatRequest
from coordinator.edge.openai.errors import bad_request
from coordinator.edge.openai.requests import FOR_THE_PROVIDER, Model, OpenAIRequest
from coordinator.services.llm_inference import MAX_MESSAGES, MAX_TOKENS
from coordinator.services.llm_inference.messages import MAX_TEXT
from coordinator.services.llm_inference.tools import MAX_TOOLS

_NAMES: Final = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text",
    "reasoning_effort": "reasoning",
    "logprobs": "top_logprobs",
}
"""This request's names of a chat's members."""


class Reasoning(BaseModel):
    """How much the model thinks. Summaries are not made: the reasoning itself is in the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class TextForm(BaseModel):
    """The form of the text: `{"type": "text"}`, `json_object`, or `json_schema` with name and schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: dict[str, Any] | None = None
    verbosity: Literal["medium"] | None = None


class ResponsesRequest(OpenAIRequest):
    """A request for a response."""

    # The limit of calls is about OpenAI's own tools alone.
    IGNORED: ClassVar = FOR_THE_PROVIDER | {"include", "max_tool_calls", "stream_options"}
    HERE: ClassVar = frozenset({"model", "stream", "input", "instructions", "text", "tools", "tool_choice"})
    ONLY: ClassVar = {"background": (False,), "truncation": ("disabled", "auto")}

    model: Model
    input: (
        Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
        | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)]
    )
    instructions: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    text: TextForm = TextForm()
    reasoning: Reasoning = Reasoning()
    stream: bool = False

    def chat(self) -> ChatRequest:
        """The same as a chat. Raises Problem, which names this request's member."""
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": self._messages(),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stream": self.stream,
            "max_completion_tokens": self.max_output_tokens,
            "reasoning_effort": self.reasoning.effort,
            "logprobs": bool(self.top_logprobs),
            "top_logprobs": self.top_logprobs,
        }
        if self.text.format is not None:
            fields["response_format"] = _format(self.text.format)
        if self.tools:
            fields["tools"] = [_tool(number, tool) for number, tool in enumerate(self.tools)]
            fields["tool_choice"] = _choice(self.tool_choice)
            if not self.parallel_tool_calls:
                fields["parallel_tool_calls"] = False
        elif self.tool_choice not in ("none", "auto"):
            raise bad_request("tool_choice", "tool_choice: needs tools")
        try:
            return ChatRequest.read(fields)
        except Problem as problem:
            raise renamed(problem) from None

    def _messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        for number, item in enumerate(self.input):
            _add(messages, f"input.{number}", item)
        return messages


def renamed(problem: Problem) -> Problem:
    """A chat's problem with this request's name of the member."""
    param = problem.members.get("param")
    if not isinstance(param, str):
        return problem
    first, dot, _ = param.partition(".")
    name = _NAMES.get(first)
    if name is None:
        return problem
    # Places within differ between the two: the member alone is named.
    detail = (
        problem.detail.removeprefix(param).removeprefix(": ")
        if dot
        else problem.detail.removeprefix(f"{param}: ")
    )
    return bad_request(name, f"{name}: {detail}", str(problem.members.get("openai_code", "invalid_value")))


def _add(messages: list[dict[str, Any]], place: str, item: Mapping[str, Any]) -> None:
    """Add an item of the history. One answer's reasoning, text and calls are one message."""
    kind = item.get("type", "message")
    match kind:
        case "message":
            role = item.get("role")
            if role not in ("user", "assistant", "system", "developer"):
                raise bad_request(
                    f"{place}.role", f"{place}.role: Input should be user, assistant, system or developer"
                )
            content = _content(place, item.get("content"))
            if role == "assistant":
                _answer(messages, "content")["content"] = content
            else:
                messages.append({"role": role, "content": content})
        case "reasoning":
            parts = item.get("content") or item.get("summary") or []
            text = "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
            if text:
                _answer(messages, "reasoning_content")["reasoning_content"] = text
        case "function_call":
            call = {
                "id": item.get("call_id"),
                "type": "function",
                "function": {"name": item.get("name"), "arguments": item.get("arguments")},
            }
            for name, value in (
                ("call_id", call["id"]),
                ("name", item.get("name")),
                ("arguments", item.get("arguments")),
            ):
                if not isinstance(value, str):
                    raise bad_request(f"{place}.{name}", f"{place}.{name}: Input should be a string")
            _answer(messages, "").setdefault("tool_calls", []).append(call)
        case "function_call_output":
            if not isinstance(item.get("call_id"), str):
                raise bad_request(f"{place}.call_id", f"{place}.call_id: Input should be a string")
            messages.append(
                {
                    "role": "tool",
                    "tool_call_id": item["call_id"],
                    "content": _content(place, item.get("output"), "output"),
                }
            )
        case _:
            raise bad_request(
                f"{place}.type",
                f"{place}.type: only messages, reasoning, function calls and their outputs are supported",
                "unsupported_parameter",
            )


def _answer(messages: list[dict[str, Any]], new: str) -> dict[str, Any]:
    """The last message if it is of the same answer, else a new one. `new`: the member that it must lack."""
    if messages and messages[-1]["role"] == "assistant":
        last = messages[-1]
        if new not in last and not (new == "reasoning_content" and len(last) > 1):
            return last
    messages.append({"role": "assistant"})
    return messages[-1]


def _content(place: str, content: Any, name: str = "content") -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_request(f"{place}.{name}", f"{place}.{name}: Input should be a string or a list")
    return [_part(f"{place}.{name}.{number}", part) for number, part in enumerate(content)]


def _part(place: str, part: Any) -> dict[str, Any]:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": str(refusal)}:
            return {"type": "refusal", "refusal": refusal}
        case {"type": "input_image", "image_url": str(url)}:
            detail = part.get("detail")
            return {"type": "image_url", "image_url": {"url": url} | ({"detail": detail} if detail else {})}
    raise bad_request(
        place, f"{place}: only input_text, output_text, refusal and input_image with image_url are supported"
    )


def _format(given: Mapping[str, Any]) -> dict[str, Any]:
    if given.get("type") != "json_schema":
        return dict(given)
    rest = {name: value for name, value in given.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": rest}


def _tool(number: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        place = f"tools.{number}.type"
        raise bad_request(place, f"{place}: only function is supported", "unsupported_parameter")
    rest = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": rest}


def _choice(given: str | Mapping[str, Any]) -> str | dict[str, Any]:
    if isinstance(given, str):
        return given
    return {"type": given.get("type"), "function": {"name": given.get("name")}}


def names_of_payload(names: Mapping[str, str]) -> dict[str, str]:
    """This request's names of the payload's members, from a chat's."""
    chats: Sequence[tuple[str, str]] = [*names.items()]
    return {**_NAMES, **{payload: _NAMES.get(chat, chat) for payload, chat in chats}}
