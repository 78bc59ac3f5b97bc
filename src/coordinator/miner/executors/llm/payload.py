"""What a job of `llm_inference` may ask for. The catalogue's schema says the same."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_PROMPT_CHARACTERS: Final = 10_000
MAX_MESSAGES: Final = 256
MAX_CONTENT_CHARACTERS: Final = 100_000
MAX_PARTS: Final = 64
MODEL_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*){0,2}$"


def _whole(value: object) -> object:
    # JSON Schema calls 23.0 an integer, and some languages cannot write it otherwise.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _given(value: object) -> object:
    if value is None:
        raise ValueError("can't be null; leave it out")
    return value


Whole = BeforeValidator(_whole)
GIVEN = BeforeValidator(_given)
"""For a field that may be left out, and whose schema knows no null."""
ModelName = Annotated[str, Field(max_length=100, pattern=MODEL_PATTERN)]
Content = Annotated[str, Field(max_length=MAX_CONTENT_CHARACTERS)]
Stop = Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=16)]
Seed = Annotated[int, Field(ge=0, le=2**53 - 1), Whole]


class Strict(BaseModel):
    """Nothing unknown, nothing converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TextPart(Strict):
    """A piece of a message, as OpenAI's chat has it."""

    type: Literal["text"]
    text: Content


class Message(Strict):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS)]
    name: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")] | None = None

    def for_engine(self) -> dict[str, Any]:
        """As every engine understands it: one string, and the roles that chat templates know."""
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        message = {"role": "system" if self.role == "developer" else self.role, "content": text}
        return message if self.name is None else {**message, "name": self.name}


class LlmPayload(Strict):
    """Either `prompt`, which is continued as it is, or `messages`, a chat that is answered."""

    model: ModelName
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=4096), Whole] = 256
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    top_k: Annotated[int, Field(ge=0, le=100), Whole] = 40
    repetition_penalty: Annotated[float, Field(ge=0, le=2)] = 1.1
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    stop_sequences: Stop | None = None
    seed: Seed | None = None
    stream: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        # Presence decides, as in the schema.
        if ("prompt" in self.model_fields_set) == ("messages" in self.model_fields_set):
            raise ValueError("give either prompt or messages")
        if self.prompt is None and self.messages is None:
            raise ValueError("prompt and messages can't be null")
        return self
