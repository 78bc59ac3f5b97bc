"""Functions that a model may call, and forms that its answer must have, as in OpenAI's chat completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from coordinator.services.base import Strict
from coordinator.services.llm_inference.messages import FunctionName, Text

MAX_TOOLS = 128


class FunctionSpec(Strict):
    """A function: its name, its purpose, and the JSON Schema of its arguments."""

    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """The arguments must keep to the schema, if the engine can see to it."""


class Tool(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    function: FunctionSpec


class ChosenFunction(Strict):
    name: FunctionName


class ChosenTool(Strict):
    """The function that the model must call."""

    type: Literal["function"]
    function: ChosenFunction


ToolChoice = Literal["none", "auto", "required"] | ChosenTool


class PlainText(Strict):
    type: Literal["text"]


class AnyJson(Strict):
    """A JSON object."""

    type: Literal["json_object"]


class SchemaSpec(Strict):
    name: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")] = "answer"
    description: Text | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class JsonOfSchema(Strict):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]
    json_schema: SchemaSpec


ResponseFormat = Annotated[PlainText | AnyJson | JsonOfSchema, Field(discriminator="type")]
