"""The service `llm_inference`: a language model continues a text, or answers a chat."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, TypeAdapter

from coordinator.domain.matching.needs import Constraints
from coordinator.services.base import (
    NOT_NULL,
    Either,
    KnownService,
    ModelName,
    Payload,
    Seed,
    Whole,
    vram_by_model,
)
from coordinator.services.llm_inference.messages import MAX_TEXT, LlmMessage
from coordinator.services.llm_inference.result import GeneratedText as GeneratedText
from coordinator.services.llm_inference.tools import MAX_TOOLS, ResponseFormat, Tool, ToolChoice

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
MAX_TOKENS: Final = 1_000_000
"""More than any model generates: the model's context is the real limit."""
MAX_MESSAGES: Final = 4096
MAX_CHOICES: Final = 16

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class LlmSettings(Payload):
    """The model and its sampling."""

    model: ModelName = Field(examples=list(VRAM_GB), json_schema_extra=vram_by_model(VRAM_GB))
    """A model that a miner offers. x-min-vram-gb has the GPU memory of the known models in GB."""
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS), Whole] = 256
    """The most tokens to generate, reasoning included. The model's context may end the text earlier."""
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
    messages: Annotated[
        Annotated[list[LlmMessage], Field(min_length=1, max_length=MAX_MESSAGES)] | None, NOT_NULL
    ] = None
    """A chat that the model answers, with its own template."""
    frequency_penalty: Penalty = 0.0
    """Above 0 makes a token less likely each time it occurs."""
    presence_penalty: Penalty = 0.0
    """Above 0 makes a token less likely once it has occurred."""
    seed: Seed | None = None
    """The same seed gives the same text on the same engine. Random by default."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), Whole] = 1
    """Answers to generate; max_tokens is for each."""
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Bias] | None = Field(
        None, max_length=1024
    )
    """Added to the logits of tokens, by their ids in the model's vocabulary."""
    logprobs: bool = False
    """Give the logarithm of each token's probability."""
    top_logprobs: Annotated[int, Field(ge=0, le=20), Whole] = 0
    """Give as many of the likeliest tokens in each place, too; needs `logprobs`."""
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    """Functions that the model may call; chats only, as are the following."""
    tool_choice: ToolChoice | None = None
    """Whether the model must call a function, or this one; auto by default."""
    parallel_tool_calls: bool | None = None
    """Whether the model may call several functions at once."""
    response_format: ResponseFormat | None = None
    """JSON instead of free text."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """How much the model thinks before it answers, if it can be told."""
    chat_template_kwargs: dict[str, Any] | None = Field(None, max_length=32)
    """Variables of the model's template, such as `enable_thinking`, for engines that have templates."""
    stream: bool = False
    """Also send tokens as progress during generation."""
    deltas: bool = False
    """With `stream`: also send reasoning, calls of tools, probabilities and further answers, each as a JSON
    text between the control character RS and a line feed (RFC 7464)."""

    def contradiction(self) -> str | None:
        if self.messages is None:
            for name in (
                "tools",
                "tool_choice",
                "response_format",
                "reasoning_effort",
                "chat_template_kwargs",
            ):
                if getattr(self, name) is not None:
                    return f"{name}: needs messages, not a prompt"
        if self.top_logprobs and not self.logprobs:
            return "top_logprobs: needs logprobs"
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            return "tool_choice: needs tools"
        return None


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


SERVICE: Final = KnownService("llm_inference", TypeAdapter(LlmPayload), GeneratedText)
