"""Responses and their events, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel

from coordinator.edge.openai.chat.answers import logprobs_of
from coordinator.edge.openai.deltas import Delta
from coordinator.edge.openai.responses.request import ResponsesRequest
from coordinator.edge.openai.runs import Done

Item = dict[str, Any]
Event = dict[str, Any]


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ModelResponse(BaseModel):
    """The model's answer: items of the types `reasoning`, `message` and `function_call`."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["completed", "incomplete"]
    incomplete_details: dict[str, str] | None
    model: str
    output: list[dict[str, Any]]
    usage: ResponseUsage


def response_of(asked: ResponsesRequest, response_id: str, created: int, **members: Any) -> dict[str, Any]:
    """A response that repeats the request's settings; `members` has what is known of the answer."""
    text = {"format": asked.text.format or {"type": "text"}}
    return {
        "id": response_id,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": asked.reasoning.effort, "summary": None},
        "store": False,
        "temperature": asked.temperature,
        "text": text,
        "tool_choice": asked.tool_choice,
        "tools": asked.tools,
        "top_logprobs": asked.top_logprobs,
        "top_p": asked.top_p,
        "truncation": "disabled",
        "usage": None,
        **members,
    }


def ended(done: Done) -> dict[str, Any]:
    """The members of a response that its end adds, without the output."""
    result = done.result
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(result["finish_reason"])
    return {
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "usage": {
            "input_tokens": result["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": result.get("cached_tokens", 0)},
            "output_tokens": result["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": result.get("reasoning_tokens", 0)},
            "total_tokens": result["prompt_tokens"] + result["completion_tokens"],
        },
    }


class ResponseStream:
    """Makes events from the pieces of an answer, and so its items."""

    def __init__(self, asked: ResponsesRequest, response_id: str, created: int) -> None:
        self._asked = asked
        self._id = response_id
        self._created = created
        self._items: dict[str, tuple[int, Item]] = {}
        """By kind, and by place for calls: each item's index and the item."""
        self._open: str | None = None
        self._sequence = 0

    @property
    def output(self) -> list[Item]:
        """The items so far."""
        return [item for _, item in self._items.values()]

    def events(self, piece: Delta | Done) -> list[Event]:
        """The events of a piece, and of the end."""
        made: list[Event] = []
        if self._sequence == 0:
            begun = response_of(self._asked, self._id, self._created)
            made += [{"type": f"response.{name}", "response": begun} for name in ("created", "in_progress")]
        if isinstance(piece, Delta):
            made += self.add(piece)
        else:
            if not self._items:
                made += self._opened("message", lambda: _message(f"msg_{self._id}"))
            made += self._closed()
            end = ended(piece)
            response = response_of(self._asked, self._id, self._created, **end, output=self.output)
            for item in self.output:
                item["status"] = "completed" if item["status"] == "completed" else end["status"]
            made.append({"type": f"response.{end['status']}", "response": response})
        numbered = [{**event, "sequence_number": self._sequence + n} for n, event in enumerate(made)]
        self._sequence += len(made)
        return numbered

    def add(self, delta: Delta) -> list[Event]:
        """Add a piece of the first answer to the items."""
        made: list[Event] = []
        if delta.reasoning:
            made += self._opened("reasoning", lambda: _reasoning(f"rs_{self._id}"))
            made.append(self._grown("reasoning_text", delta.reasoning))
        if delta.content:
            made += self._opened("message", lambda: _message(f"msg_{self._id}"))
            probable = logprobs_of(delta.logprobs)
            logprobs = [] if probable is None else probable["content"]
            self._items["message"][1]["content"][0]["logprobs"] += logprobs
            made.append({**self._grown("output_text", delta.content), "logprobs": logprobs})
        for call in delta.tool_calls:
            key = f"call {call['index']}"
            made += self._opened(key, lambda call=call: _call(f"fc_{self._id}_{call['index']}", call))  # type: ignore[misc]
            index, item = self._items[key]
            if arguments := call.get("arguments", ""):
                item["arguments"] += arguments
                made.append(
                    {
                        "type": "response.function_call_arguments.delta",
                        "item_id": item["id"],
                        "output_index": index,
                        "delta": arguments,
                    }
                )
        return made

    def _opened(self, key: str, make: Callable[[], Item]) -> list[Event]:
        if key == self._open:
            return []
        made = self._closed()
        self._open = key
        if key in self._items:
            return made
        item = make()
        index = len(self._items)
        self._items[key] = (index, item)
        shown = {**item, "content": []} if "content" in item else dict(item)
        made.append({"type": "response.output_item.added", "output_index": index, "item": shown})
        if "content" in item:
            place = {"item_id": item["id"], "output_index": index, "content_index": 0}
            made.append({"type": "response.content_part.added", **place, "part": dict(item["content"][0])})
        return made

    def _closed(self) -> list[Event]:
        if self._open is None:
            return []
        index, item = self._items[self._open]
        self._open = None
        item["status"] = "completed"
        made: list[Event] = []
        place: dict[str, Any] = {"item_id": item["id"], "output_index": index}
        if item["type"] == "function_call":
            done = {"arguments": item["arguments"], "name": item["name"]}
            made.append({"type": "response.function_call_arguments.done", **place, **done})
        else:
            place["content_index"] = 0
            part = item["content"][0]
            extra = {"logprobs": part["logprobs"]} if item["type"] == "message" else {}
            made.append({"type": f"response.{part['type']}.done", **place, "text": part["text"], **extra})
            made.append({"type": "response.content_part.done", **place, "part": dict(part)})
        made.append({"type": "response.output_item.done", "output_index": index, "item": dict(item)})
        return made

    def _grown(self, kind: str, text: str) -> Event:
        assert self._open is not None, "opened before"
        index, item = self._items[self._open]
        item["content"][0]["text"] += text
        return {
            "type": f"response.{kind}.delta",
            "item_id": item["id"],
            "output_index": index,
            "content_index": 0,
            "delta": text,
        }


def _message(item_id: str) -> Item:
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    return {"id": item_id, "type": "message", "role": "assistant", "status": "in_progress", "content": [part]}


def _reasoning(item_id: str) -> Item:
    part = {"type": "reasoning_text", "text": ""}
    return {"id": item_id, "type": "reasoning", "status": "in_progress", "summary": [], "content": [part]}


def _call(item_id: str, call: Mapping[str, Any]) -> Item:
    return {
        "id": item_id,
        "type": "function_call",
        "status": "in_progress",
        "call_id": call.get("id", ""),
        "name": call.get("name", ""),
        "arguments": "",
    }
