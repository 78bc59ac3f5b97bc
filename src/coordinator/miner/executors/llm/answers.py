"""A growing answer, from the events of an engine's stream."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from typing import Any, Final

from coordinator.miner.executors.base import Work
from coordinator.miner.executors.errors import (
    ENGINE_UNAVAILABLE,
    EXECUTOR_FAILED,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.services.llm_inference import LlmPayload
from coordinator.services.llm_inference.result import (
    Answer,
    FinishReason,
    GeneratedText,
    LikelyToken,
    MadeToolCall,
    TokenLogprob,
)

RECORD_START: Final = "\x1e"
"""Before a delta that is no plain text (RFC 7464)."""
MAX_CALLS: Final = 256
_REASONING: Final = ("reasoning_content", "reasoning")
"""llama.cpp's and DeepSeek's name, and that of vLLM and OpenRouter."""
_FINISHES: Final[dict[Any, FinishReason]] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Choice:
    """One of the answers."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, _Call] = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: FinishReason | None = None
    has_surplus: bool = False
    """Whether it had more calls than may be."""

    @property
    def text(self) -> str:
        return "".join(self.content)

    @property
    def is_empty(self) -> bool:
        said = "".join((*self.content, *self.reasoning))
        # A model that must write JSON may write white space until its limit: that is its answer, cut.
        return not self.calls and not (said if self.finish == "length" else said.strip())


class GrowingAnswer:
    """All answers of a job, from the events of one or several requests."""

    def __init__(self, work: Work, payload: LlmPayload) -> None:
        self.choices: dict[int, _Choice] = {}
        self._work = work
        self._payload = payload
        self._started = time.monotonic()
        self._first: float | None = None
        self._pieces = 0
        self._thoughts = 0
        """Pieces of reasoning."""
        self._usage: dict[str, int] = {}
        self._before: dict[str, int] = {}
        """The usage of the requests before this one."""

    def next_request(self) -> None:
        """The following events are another request's, whose counts are added."""
        self._before = {
            name: self._before.get(name, 0) + count
            for name, count in self._usage.items()
            if name != "prompt_tokens"
        }
        self._before |= {"prompt_tokens": self._usage.get("prompt_tokens", 0)}
        self._usage = {}

    def take(self, event: dict[str, Any], first_index: int = 0) -> None:
        """Take one event of the stream; unknown ones are skipped. Indices count from `first_index`."""
        if isinstance(event.get("usage"), dict):
            self._usage = _counts(event["usage"])
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._take(choice, first_index)

    def _take(self, given: dict[str, Any], first_index: int) -> None:
        index = given.get("index")
        index = first_index + (index if isinstance(index, int) and not isinstance(index, bool) else 0)
        if not 0 <= index < self._payload.n:
            return
        choice = self.choices.setdefault(index, _Choice())
        delta = given.get("delta")
        if not isinstance(delta, dict):
            delta = {"content": given.get("text")}
        sent: dict[str, Any] = {}
        thought = next((delta[name] for name in _REASONING if isinstance(delta.get(name), str)), "")
        if thought := self._clean(thought):
            choice.reasoning.append(thought)
            sent["reasoning"] = thought
            self._thoughts += 1
        said = delta.get("content")
        if isinstance(said, str) and (said := self._clean(said)):
            choice.content.append(said)
            sent["content"] = said
        if isinstance(delta.get("tool_calls"), list) and (calls := self._calls(choice, delta["tool_calls"])):
            sent["tool_calls"] = calls
        if self._payload.logprobs and (found := _logprobs(given.get("logprobs"), self._payload.top_logprobs)):
            choice.logprobs += found
            sent["logprobs"] = [one.model_dump(exclude_none=True) for one in found]
        if sent:
            self._grow(index, sent)
        if given.get("finish_reason"):
            choice.finish = self._reason(given)

    def _calls(self, choice: _Choice, given: list[Any]) -> list[dict[str, Any]]:
        """Take parts of calls, and return them in the form of a delta."""
        parts = []
        for place, one in enumerate(given):
            if not isinstance(one, dict):
                continue
            index = one.get("index", place)
            if not isinstance(index, int) or not 0 <= index < MAX_CALLS:
                continue
            if index > 0 and self._payload.parallel_tool_calls is False:
                # Not every engine ends the answer after its first call.
                choice.has_surplus = True
                continue
            function = one.get("function")
            function = function if isinstance(function, dict) else {}
            part: dict[str, Any] = {"index": index}
            call = choice.calls.get(index)
            if call is None:
                given_id = one.get("id")
                call_id = self._clean(given_id)[:200] if isinstance(given_id, str) else ""
                call = choice.calls[index] = _Call(
                    call_id or f"call_{self._work.job_id.replace('-', '')}{index}"
                )
                part["id"] = call.id
            if not call.name and isinstance(function.get("name"), str):
                call.name = part["name"] = self._clean(function["name"])[:200]
            arguments = function.get("arguments")
            if isinstance(arguments, dict):  # some engines give an object
                arguments = json.dumps(arguments)
            if isinstance(arguments, str) and (arguments := self._clean(arguments)):
                call.arguments.append(arguments)
                part["arguments"] = arguments
            if len(part) > 1:
                parts.append(part)
        return parts

    def check_whole(self, first_index: int = 0) -> None:
        """Raise ENGINE_UNAVAILABLE if the stream ended before the answer did."""
        choice = self.choices.get(first_index)
        if choice is None or choice.finish is None:
            raise ExecutorError(ENGINE_UNAVAILABLE, "the engine did not finish", retryable=True)

    def result(self) -> GeneratedText:
        """The result; the engine's counts of tokens, or else its events. Raises ExecutorError if an answer is
        empty, or lacks its form or probabilities."""
        for choice in self.choices.values():
            self._check(choice)
        first, *others = [self._answer(self.choices[index]) for index in sorted(self.choices)]
        usage = {name: self._before.get(name, 0) + count for name, count in self._usage.items()}
        thoughts = usage.get("reasoning_tokens") or self._thoughts
        made = usage.get("completion_tokens")
        return GeneratedText(
            model=self._payload.model,
            **{name: getattr(first, name) for name in Answer.model_fields},
            prompt_tokens=self._usage.get("prompt_tokens", 0),
            completion_tokens=self._pieces if made is None else made,
            reasoning_tokens=thoughts or None,
            cached_tokens=usage.get("cached_tokens") or None,
            alternatives=others or None,
        )

    def metrics(self, result: GeneratedText) -> dict[str, int | str]:
        """The figures of the run."""
        ended = time.monotonic()
        return {
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.completion_tokens,
            "wall_ms": round((ended - self._started) * 1000),
            "first_token_ms": round(((self._first or ended) - self._started) * 1000),
        }

    def _check(self, choice: _Choice) -> None:
        payload = self._payload
        if choice.is_empty and not payload.stop_sequences:
            raise ExecutorError(EXECUTOR_FAILED, "the engine's answer is empty", retryable=True)
        if payload.logprobs and choice.content and not choice.logprobs:
            raise ExecutorError(UNSUPPORTED, "logprobs: the engine gives none", retryable=True)
        if any(not call.name for call in choice.calls.values()):
            raise ExecutorError(
                EXECUTOR_FAILED, "the engine called a function without a name", retryable=True
            )
        form = payload.response_format
        if form is not None and form.type != "text" and choice.finish == "stop" and not choice.calls:
            try:
                json.loads(choice.text)
            except ValueError:
                raise ExecutorError(
                    UNSUPPORTED, "response_format: the engine did not keep to JSON", retryable=True
                ) from None

    def _answer(self, choice: _Choice) -> Answer:
        calls = [
            MadeToolCall(id=call.id, name=call.name, arguments="".join(call.arguments))
            for _, call in sorted(choice.calls.items())
        ]
        finish = "tool_calls" if choice.has_surplus else choice.finish or "stop"
        return Answer(
            text=choice.text,
            finish_reason="tool_calls" if calls and finish == "stop" else finish,
            reasoning="".join(choice.reasoning) or None,
            tool_calls=calls or None,
            logprobs=choice.logprobs or None,
        )

    def _grow(self, index: int, sent: dict[str, Any]) -> None:
        if self._first is None:
            self._first = time.monotonic()
        self._pieces += 1
        payload = self._payload
        if payload.stream:
            if index == 0 and sent.keys() == {"content"}:
                self._work.emit(sent["content"])
            elif payload.deltas:
                self._work.emit(f"{RECORD_START}{json.dumps({'index': index, **sent})}\n")
            elif index == 0 and "content" in sent:
                self._work.emit(sent["content"])
        self._work.progress(min(self._pieces / (payload.max_tokens * payload.n), 0.99), "generating")

    def _clean(self, text: str) -> str:
        # A model may write NUL or half a surrogate pair, which no store can keep.
        text = text.replace("\0", "").encode("utf-8", "replace").decode()
        return text.replace(RECORD_START, "") if self._payload.deltas else text

    def _reason(self, choice: dict[str, Any]) -> FinishReason:
        found = _FINISHES.get(choice["finish_reason"])
        if found is not None:
            return found
        # Only some engines tell the two apart; vLLM names the sequence.
        by = choice.get("stop_reason")
        return "stop_sequence" if by in (self._payload.stop_sequences or ()) else "stop"


def _counts(usage: dict[str, Any]) -> dict[str, int]:
    """The counts in an engine's usage, by our names; invalid ones are left out."""
    completion, prompt = usage.get("completion_tokens_details"), usage.get("prompt_tokens_details")
    found = {
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "reasoning_tokens": completion.get("reasoning_tokens") if isinstance(completion, dict) else None,
        "cached_tokens": prompt.get("cached_tokens") if isinstance(prompt, dict) else None,
    }
    return {
        name: count
        for name, count in found.items()
        if isinstance(count, int) and not isinstance(count, bool) and count >= 0
    }


def _logprobs(given: Any, most: int) -> list[TokenLogprob]:
    """The probabilities in an event, in the form of chats or in that of completions."""
    if not isinstance(given, dict):
        return []
    rows = given.get("content")
    if not isinstance(rows, list):
        tokens, values = given.get("tokens"), given.get("token_logprobs")
        if not isinstance(tokens, list) or not isinstance(values, list):
            return []
        tops = given.get("top_logprobs")
        tops = tops if isinstance(tops, list) else []
        rows = [
            {
                "token": token,
                "logprob": value,
                "top_logprobs": [{"token": t, "logprob": v} for t, v in top.items()]
                if isinstance(top, dict)
                else [],
            }
            for token, value, top in zip(
                tokens, values, [*tops, *[None] * (len(tokens) - len(tops))], strict=False
            )
        ]
    found = []
    for row in rows:
        one = _likely(row)
        if one is not None:
            tops = row.get("top_logprobs")
            likely = [_likely(top) for top in (tops if isinstance(tops, list) else [])[:most]]
            found.append(
                TokenLogprob(**one, top_logprobs=[LikelyToken(**top) for top in likely if top is not None])
            )
    return found


def _likely(row: Any) -> dict[str, Any] | None:
    if not isinstance(row, dict) or not isinstance(row.get("token"), str):
        return None
    value = row.get("logprob")
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    token = row["token"].replace("\0", "").encode("utf-8", "replace").decode()
    made = {"token": token, "logprob": min(0.0, max(-9999.0, float(value)))}
    parts = row.get("bytes")
    if isinstance(parts, list) and all(type(one) is int and 0 <= one <= 255 for one in parts):
        made["bytes"] = parts
    return made
