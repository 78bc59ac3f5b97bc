"""The service `llm_inference`: a language model continues a text, or answers a chat."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, TypeAdapter

from coordinator.domain.matching import Constraints
from coordinator.services.base import (
    NOT_NULL,
    Either,
    KnownService,
    ModelName,
    Payload,
    Result,
    Seed,
    Strict,
    Whole,
    vram_by_model,
)

CUDA: Final = "11.8"
VRAM_GB: Final[dict[str, int]] = {
    "llama-7b": 8,
    "llama-13b": 16,
    "llama-70b": 64,
    "mistral-7b": 8,
    "mixtral-8x7b": 48,
    "codellama-7b": 8,
    "codellama-13b": 16,
    "codellama-34b": 32,
}
"""GPU memory of the models whose needs are known; other models run on miners that offer them."""

Prompt = Annotated[str, Field(min_length=1, max_length=10_000)]
Content = Annotated[str, Field(max_length=100_000)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class TextPart(Strict):
    """A part of a message, in the form of OpenAI's chat."""

    type: Literal["text"]
    text: Content


MessageContent = Content | Annotated[list[TextPart], Field(min_length=1, max_length=64)]


class LlmMessage(Strict):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    """developer means the same as system."""
    content: MessageContent
    """A text, or its parts."""
    name: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    """Tells participants with the same role apart, if the model's template supports names."""


class LlmSettings(Payload):
    """The model and its sampling."""

    model: ModelName = Field(examples=list(VRAM_GB), json_schema_extra=vram_by_model(VRAM_GB))
    """A model that a miner offers. x-min-vram-gb has the GPU memory of the known models in GB."""
    max_tokens: Annotated[int, Field(ge=1, le=4096), Whole] = 256
    """The most tokens to generate."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """0 always takes the likeliest token; higher is more varied."""
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Samples from the likeliest tokens that together have this probability."""
    top_k: Annotated[int, Field(ge=0, le=100), Whole] = 40
    """Samples from this many of the likeliest tokens; 0 samples from all. Some engines don't support it."""
    repetition_penalty: Annotated[float, Field(ge=0, le=2)] = 1.1
    """Above 1 makes repetition less likely; 1 and 0 do nothing. Some engines don't support it."""
    stop_sequences: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=16)] | None
    ) = None
    """Generation ends before any of these."""

    def needs(self) -> Constraints:
        known = VRAM_GB.get(self.model)
        return Constraints(models=(self.model,), min_vram_gb=known, cuda=CUDA if known else None)


class LlmPayload(Either, LlmSettings):
    """Either `prompt`, a text to continue, or `messages`, a chat to answer."""

    EITHER: ClassVar = ("prompt", "messages")

    prompt: Annotated[Prompt | None, NOT_NULL] = None
    """The text that the model continues, without a template."""
    messages: Annotated[Annotated[list[LlmMessage], Field(min_length=1, max_length=256)] | None, NOT_NULL] = (
        None
    )
    """A chat that the model answers, with its own template."""
    frequency_penalty: Penalty = 0.0
    """Above 0 makes a token less likely each time it occurs."""
    presence_penalty: Penalty = 0.0
    """Above 0 makes a token less likely once it has occurred."""
    seed: Seed | None = None
    """The same seed gives the same text on the same engine. Random by default."""
    stream: bool = False
    """Also send tokens as progress during generation."""


class Inference(LlmSettings):
    """A text that a model continues."""

    prompt: Prompt
    """The text that the model continues, without a template."""
    stream: bool = False
    """Also send tokens as progress during generation."""


class StreamedInference(LlmSettings):
    """A text that a model continues, with streamed tokens."""

    prompt: Prompt
    """The text that the model continues, without a template."""

    def sent(self) -> dict[str, Any]:
        return {**super().sent(), "stream": True}


class GeneratedText(Result):
    model: Annotated[str, Field(min_length=1, max_length=100)]
    text: str
    """The generated text, without the prompt."""
    finish_reason: Literal["stop", "stop_sequence", "length"]
    """length means that max_tokens was reached. Not every engine tells stop_sequence from stop."""
    prompt_tokens: Annotated[int, Field(ge=0)]
    completion_tokens: Annotated[int, Field(ge=0)]


SERVICE: Final = KnownService("llm_inference", TypeAdapter(LlmPayload), GeneratedText)
