"""The service `llm_inference`: text from a language model that an engine serves (LLM_ENGINE_URL).

The engine always streams to us: so a cancelled job stops it at its next token, and a dying engine is noticed.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any, Final, Literal

from coordinator.miner.executors.base import (
    ENGINE_UNAVAILABLE,
    INVALID_PAYLOAD,
    ExecutorError,
    Outcome,
    Work,
    payload_of,
)
from coordinator.miner.executors.engine import Engine, EngineSettings
from coordinator.services.llm_inference import SERVICE, GeneratedText, LlmMessage, LlmPayload

LEAST_TOP_P: Final = 0.001
"""Some engines refuse 0; this value also allows only the likeliest token."""


class LlmExecutor:
    """Runs jobs on one engine, as many at a time as the miner has slots."""

    services = (SERVICE.id,)
    watched = True

    def __init__(self, settings: EngineSettings | None = None) -> None:
        self._engine = Engine("LLM", settings)
        self._plain = False
        """Whether the engine refuses fields that OpenAI's own API lacks."""

    @property
    def models(self) -> tuple[str, ...]:
        """The engine's models, which the miner advertises."""
        return self._engine.offered

    async def check(self) -> str | None:
        """Whether the engine answers and has a model."""
        return await self._engine.check()

    async def run(self, work: Work) -> Outcome:
        """The result is GeneratedText.

        With `stream`, text is also emitted as it comes. Raises ExecutorError: INVALID_PAYLOAD (also if the
        engine refuses the job: a prompt too long for the model), UNSUPPORTED (no such model here),
        ENGINE_UNAVAILABLE, EXECUTOR_FAILED, OUTPUT_TOO_LARGE.
        """
        payload = payload_of(SERVICE, work)
        if not self._engine.models and (problem := await self.check()):
            raise ExecutorError(ENGINE_UNAVAILABLE, problem, retryable=True)
        model = self._engine.name_of(payload.model)
        generation = _Answer(work, payload)
        if not self._plain:
            try:
                await self._generate(generation, request_of(payload, model) | beyond_openai(payload))
            except ExecutorError as error:
                if error.code != INVALID_PAYLOAD:
                    raise
                # Either the job is invalid, and this fails the same way, or those fields are.
                await self._generate(generation, request_of(payload, model))
                self._plain = True
        else:
            await self._generate(generation, request_of(payload, model))
        return generation.outcome()

    async def _generate(self, generation: _Answer, request: dict[str, Any]) -> None:
        path = "chat/completions" if "messages" in request else "completions"
        async with aclosing(self._engine.stream(path, request)) as events:  # type: ignore[type-var]
            async for event in events:
                generation.take(event)
        generation.check_whole()


def request_of(payload: LlmPayload, model: str) -> dict[str, Any]:
    """The request with OpenAI's own fields."""
    request: dict[str, Any] = {
        "model": model,
        "max_tokens": payload.max_tokens,
        "temperature": payload.temperature,
        "top_p": max(payload.top_p, LEAST_TOP_P),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if payload.messages is not None:
        request["messages"] = [_for_engine(message) for message in payload.messages]
    else:
        request["prompt"] = payload.prompt
    if payload.stop_sequences:
        request["stop"] = payload.stop_sequences
    for name in ("frequency_penalty", "presence_penalty", "seed"):
        if value := getattr(payload, name):
            request[name] = value
    if payload.seed == 0:
        request["seed"] = 0
    return request


def _for_engine(message: LlmMessage) -> dict[str, Any]:
    """A message in a form that every engine understands: one string, and a role of the chat templates."""
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    made = {"role": "system" if message.role == "developer" else message.role, "content": text}
    return made if message.name is None else {**made, "name": message.name}


def beyond_openai(payload: LlmPayload) -> dict[str, Any]:
    """Further fields of most engines; the penalty has two names (vLLM's, and llama.cpp's)."""
    penalty = payload.repetition_penalty or 1.0
    return {"top_k": payload.top_k, "repetition_penalty": penalty, "repeat_penalty": penalty}


class _Answer:
    """One growing answer, from the events of either endpoint."""

    def __init__(self, work: Work, payload: LlmPayload) -> None:
        self._work = work
        self._payload = payload
        self._started = time.monotonic()
        self._first: float | None = None
        self._parts: list[str] = []
        self._finish: Literal["stop", "stop_sequence", "length"] | None = None
        self._usage: dict[str, Any] = {}

    def take(self, event: dict[str, Any]) -> None:
        """Take one event of the stream; unknown ones are skipped."""
        if isinstance(event.get("usage"), dict):
            self._usage = event["usage"]
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        delta = choice.get("delta")
        text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
        if isinstance(text, str) and text:
            self._grow(text)
        if choice.get("finish_reason"):
            self._finish = self._reason(choice)

    def check_whole(self) -> None:
        """Raise ENGINE_UNAVAILABLE if the stream ended before the answer did."""
        if self._finish is None:
            raise ExecutorError(ENGINE_UNAVAILABLE, "the engine did not finish", retryable=True)

    def outcome(self) -> Outcome:
        """The result. The engine counts the tokens; if it does not, the events are counted."""
        prompt_tokens = _count(self._usage, "prompt_tokens")
        completion_tokens = _count(self._usage, "completion_tokens")
        if completion_tokens is None:
            completion_tokens = len(self._parts)
        ended = time.monotonic()
        assert self._finish is not None, "call `check_whole` before"
        result = GeneratedText(
            model=self._payload.model,
            text="".join(self._parts),
            finish_reason=self._finish,
            prompt_tokens=prompt_tokens or 0,
            completion_tokens=completion_tokens,
        )
        metrics: dict[str, int | str] = {
            "prompt_tokens": prompt_tokens or 0,
            "completion_tokens": completion_tokens,
            "wall_ms": round((ended - self._started) * 1000),
            "first_token_ms": round(((self._first or ended) - self._started) * 1000),
        }
        return Outcome(result.document(), metrics)

    def _grow(self, text: str) -> None:
        if self._first is None:
            self._first = time.monotonic()
        # A model may write NUL or half a surrogate pair, which no store can keep.
        text = text.replace("\0", "").encode("utf-8", "replace").decode()
        self._parts.append(text)
        if self._payload.stream:
            self._work.emit(text)
        self._work.progress(min(len(self._parts) / self._payload.max_tokens, 0.99), "generating")

    def _reason(self, choice: dict[str, Any]) -> Literal["stop", "stop_sequence", "length"]:
        if choice["finish_reason"] == "length":
            return "length"
        # Only some engines tell the two apart; vLLM names the sequence.
        by = choice.get("stop_reason")
        return "stop_sequence" if by in (self._payload.stop_sequences or ()) else "stop"


def _count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
