"""Reading requests: supported members are checked, unsupported ones are refused by name, some are ignored.

As in the OpenAI API, null means absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from coordinator.edge.http.bodies import SCHEMA_REF
from coordinator.edge.openai.errors import bad_request
from coordinator.services.llm_inference import MAX_CHOICES, Bias
from coordinator.validation import meant_field

Model = Annotated[str, StringConstraints(min_length=1, max_length=100)]
FOR_THE_PROVIDER: Final = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Members that tell OpenAI how to store, bill and route a request; they do not change its result."""


NULL: Final = {"type": "null"}


class OpenAIRequest(BaseModel):
    """The supported members of a request."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    IGNORED: ClassVar[frozenset[str]] = frozenset({"user"})
    """Members that are accepted, without effect."""
    HERE: ClassVar[frozenset[str]] = frozenset({"model"})
    """Members that are worked out here; the other ones are passed on to the miner and its engine."""
    ONLY: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Members of which only these values are accepted, which ask for nothing."""

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Self:
        """The request in this JSON object. Raises Problem, which quotes no value."""
        known = {
            name: value for name, value in fields.items() if value is not None and name not in cls.IGNORED
        }
        for name, allowed in cls.ONLY.items():
            # JSON's true is not 1.
            value = known.pop(name, allowed[0])
            if not any(type(value) is type(a) and value == a for a in allowed):
                raise bad_request(name, _only(name, allowed), "unsupported_parameter")
        try:
            return cls.model_validate(known)
        except ValidationError as error:
            first = meant_field(error, known)
            where = first.where[:120]
            if first.kind == "extra_forbidden":
                detail = f"{where}: not supported; docs/openai.md lists the supported members"
                raise bad_request(where, detail, "unsupported_parameter") from None
            code = "missing_required_parameter" if first.kind == "missing" else "invalid_value"
            raise bad_request(where or None, f"{where}: {first.why}" if where else first.why, code) from None

    @classmethod
    def schema_of(cls, *, nulls: bool = True) -> dict[str, Any]:
        """The request's schema for OpenAPI, with ignored and limited members; a form has no `nulls`."""
        schema = cls.model_json_schema(ref_template=SCHEMA_REF)
        required = schema.get("required", ())
        properties: dict[str, Any] = {
            name: spec if name in required else _optional(spec, nulls=nulls)
            for name, spec in schema["properties"].items()
        }
        for name, allowed in sorted(cls.ONLY.items()):
            values = [*allowed, None] if nulls else list(allowed)
            properties[name] = {"enum": values, "description": "Nothing else is supported."}
        for name in sorted(cls.IGNORED):
            properties[name] = {"description": "Ignored."}
        return {**schema, "properties": properties}

    @classmethod
    def body(cls, **example: Any) -> dict[str, Any]:
        """The `openapi_extra` of an endpoint that takes this request."""
        content = {"application/json": {"schema": cls.schema_of(), "example": example}}
        return {"requestBody": {"required": True, "content": content}}


class StreamOptions(BaseModel):
    """Options of a stream. Obfuscation, which hides the sizes of tokens on the wire, is not supported."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(OpenAIRequest):
    """The common members of chats and completions."""

    IGNORED: ClassVar = FOR_THE_PROVIDER
    HERE: ClassVar = frozenset({"model", "stream", "stream_options"})

    model: Model
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Bias] = Field({}, max_length=1024)
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    stop: (
        Annotated[str, Field(min_length=1, max_length=100)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=16)]
    ) = Field(default_factory=list)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    top_k: Annotated[int, Field(ge=0, le=100, description="Not in OpenAI's API; 0 samples from all.")] = 0
    repetition_penalty: Annotated[float, Field(ge=0, le=2, description="Not in OpenAI's API; 1 is none.")] = (
        1.0
    )

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with a chunk that counts the tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def payload(self, max_tokens: int) -> dict[str, Any]:
        """The payload of `llm_inference`, without the prompt. OpenAI's defaults differ from ours."""
        sent: dict[str, Any] = {
            "model": self.model,
            "max_tokens": max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
            "stream": self.stream,
        }
        if self.stream:
            sent["deltas"] = True
        if self.n > 1:
            sent["n"] = self.n
        if self.logit_bias:
            sent["logit_bias"] = self.logit_bias
        if self.frequency_penalty:
            sent["frequency_penalty"] = self.frequency_penalty
        if self.presence_penalty:
            sent["presence_penalty"] = self.presence_penalty
        if self.stop:
            sent["stop_sequences"] = [self.stop] if isinstance(self.stop, str) else self.stop
        if self.seed is not None:
            sent["seed"] = self.seed & (2**53 - 1)
        return sent


def _optional(spec: dict[str, Any], *, nulls: bool) -> dict[str, Any]:
    """The schema of a member that may be left out: with null, or without it."""
    choices = spec.get("anyOf", [spec])
    if nulls:
        return spec if NULL in choices else {"anyOf": [spec, NULL]}
    others = [choice for choice in choices if choice != NULL]
    rest = {key: value for key, value in spec.items() if key != "anyOf"}
    return {**rest, **(others[0] if len(others) == 1 else {"anyOf": others})}


def _only(name: str, allowed: tuple[Any, ...]) -> str:
    first = allowed[0]
    if isinstance(first, (dict, list)) and not first:
        return f"{name}: not supported"
    text = " or ".join("true" if a is True else "false" if a is False else str(a) for a in allowed)
    return f"{name}: only {text} is supported"
