"""A language model's answer: text, reasoning, calls of tools, and probabilities."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from coordinator.services.base import Either, LargeResult, OutputFile, ResultPart

FinishReason = Literal["stop", "stop_sequence", "length", "tool_calls", "content_filter"]
Probability = Annotated[float, Field(le=0)]
"""A natural logarithm; values near 0 are certain."""
Count = Annotated[int, Field(ge=0)]


class LikelyToken(ResultPart):
    token: str
    logprob: Probability
    bytes: list[Annotated[int, Field(ge=0, le=255)]] | None = None
    """The token's bytes, of which some alone are no text."""


class TokenLogprob(LikelyToken):
    """A token of the answer, and the likeliest ones in its place."""

    top_logprobs: Annotated[list[LikelyToken], Field(max_length=20)] = Field(default_factory=list)


class MadeToolCall(ResultPart):
    """A call of a tool."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    arguments: str
    """The text of a JSON object, as the model wrote it: it may be invalid."""


class Answer(ResultPart):
    """A further answer, if several were asked for."""

    text: str
    finish_reason: FinishReason
    reasoning: str | None = None
    tool_calls: list[MadeToolCall] | None = None
    logprobs: list[TokenLogprob] | None = None


class GeneratedText(Either, LargeResult):
    """The answer, or a file with it if it is too large for a message."""

    EITHER: ClassVar = ("text", "outputs")
    LARGE: ClassVar = dict.fromkeys(("text", "reasoning", "tool_calls", "logprobs", "alternatives"))

    model: Annotated[str, Field(min_length=1, max_length=100)]
    text: str | None = None
    """The generated text, without the prompt."""
    finish_reason: FinishReason
    """length means that max_tokens was reached. Not every engine tells stop_sequence from stop."""
    prompt_tokens: Count
    completion_tokens: Count
    """Reasoning is included."""
    reasoning_tokens: Count | None = None
    """As the engine counts them, or the number of its messages with reasoning."""
    cached_tokens: Count | None = None
    """Tokens of the prompt that the engine knew already."""
    reasoning: str | None = None
    """The model's thoughts before the text."""
    tool_calls: list[MadeToolCall] | None = None
    logprobs: list[TokenLogprob] | None = None
    alternatives: list[Answer] | None = None
    """Further answers, if `n` asked for several."""
    outputs: Annotated[list[OutputFile], Field(min_length=1, max_length=1)] | None = None
    """The whole result as a JSON file, if it is too large for a message."""
