"""Messages of a chat, in the form of OpenAI's chat completions: texts, images, calls of tools and results."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from coordinator.services.base import Strict

MAX_TEXT = 1_000_000
"""Characters of one text; a job's payload of 1 MiB ends it earlier, and the model's context."""
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
CallId = Annotated[str, Field(min_length=1, max_length=200)]
FunctionName = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]


class TextPart(Strict):
    """A part of a message: a text."""

    type: Literal["text"]
    text: Text


class ImageSource(Strict):
    """An image."""

    url: Annotated[
        str,
        Field(
            max_length=MAX_TEXT,
            pattern=r"^blob:[0-9a-f]{64}$|^https?://[!-~]{1,2040}$|"
            r"^data:image/(png|jpeg|jpg|webp|gif|bmp);base64,[A-Za-z0-9+/]+={0,2}$",
        ),
    ]
    """A data: URL, blob: and the SHA-256 of an uploaded file, or an http(s) URL of the public internet."""
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict):
    """A part of a message: an image, for models that see."""

    type: Literal["image_url"]
    image_url: ImageSource


class RefusalPart(Strict):
    """A part of an earlier answer: the model's refusal."""

    type: Literal["refusal"]
    refusal: Text


TextParts = Annotated[list[TextPart], Field(min_length=1, max_length=256)]
SeenParts = Annotated[
    list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(min_length=1, max_length=256)
]
AnsweredParts = Annotated[
    list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]], Field(min_length=1, max_length=256)
]


class CalledFunction(Strict):
    """A function, with its arguments as the text of a JSON object."""

    name: FunctionName
    arguments: Text


class ToolCall(Strict):
    """A call that the model made."""

    id: CallId
    type: Literal["function"]
    function: CalledFunction


class SystemMessage(Strict):
    """Instructions; developer means the same as system."""

    role: Literal["system", "developer"]
    content: Text | TextParts
    name: Name | None = None


class UserMessage(Strict):
    """Words of a user."""

    role: Literal["user"]
    content: Text | SeenParts
    """A text, or parts, of which some may be images."""
    name: Name | None = None
    """Tells participants with the same role apart, if the model's template supports names."""


class AssistantMessage(Strict):
    """An earlier answer of the model, as it was given."""

    role: Literal["assistant"]
    content: Text | AnsweredParts | None = None
    name: Name | None = None
    refusal: Text | None = None
    reasoning_content: Text | None = None
    """The model's reasoning; whether it reads this again is for its template to say."""
    reasoning: Text | None = None
    """The same, by another name."""
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=128)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        said = (self.content, self.refusal, self.reasoning_content, self.reasoning, self.tool_calls)
        if all(one is None for one in said):
            raise ValueError("needs content or tool_calls")
        return self


class ToolMessage(Strict):
    """The result of a call."""

    role: Literal["tool"]
    content: Text | TextParts
    tool_call_id: CallId
    """The id of the call, in an earlier message of the assistant."""
    name: FunctionName | None = None


LlmMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
"""One message of a chat."""
