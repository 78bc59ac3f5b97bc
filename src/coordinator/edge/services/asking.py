"""What typed services share: reading a body, as JSON or as a form with a file, and making a job of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.commands.parsing import parse_json
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import DEFAULT_MAX_ATTEMPTS
from coordinator.domain.matching import Constraints, stronger
from coordinator.domain.messages import MaxAttempts, Principal, Priority, TtlSeconds
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.bodies import SCHEMA_REF, read_object
from coordinator.edge.http.multipart import MEDIA_TYPE, is_form, read_form
from coordinator.edge.http.submitting import submit
from coordinator.validation import describe_invalid

FileName = Annotated[
    str,
    Field(
        pattern=r"^blob:[0-9a-f]{64}$|^https?://[!-~]{1,2040}$",
        json_schema_extra={"format": "uri"},
        description="An http(s) URL of the public internet, or `blob:` and the SHA-256 of an uploaded file.",
    ),
]
Asked = TypeVar("Asked", bound="Ask")
_INTEGER: Final = re.compile("-?[0-9]{1,18}")
_OF_THE_JOB: Final = ("constraints", "ttl_seconds", "priority", "max_attempts")


class Ask(BaseModel):
    """What is asked of a service. Members that are not the service's own are the job's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    SERVICE: ClassVar[str]
    """The registry entry that does it."""
    FILE: ClassVar[str | None] = None
    """The member that names a file, which a form may send itself."""

    constraints: Constraints = Field(Constraints(), description="What the miner must have, beyond the needs.")
    ttl_seconds: TtlSeconds | None = Field(None, description="Until when the job must be done, in seconds.")
    priority: Priority = 0
    max_attempts: MaxAttempts = DEFAULT_MAX_ATTEMPTS

    def needs(self) -> Constraints:
        """What a miner must have for this work."""
        return Constraints()

    def payload(self) -> dict[str, Any]:
        """The job's payload, as the service's schema has it: what was said; the rest has the defaults."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude={*_OF_THE_JOB})


async def read_ask(request: Request, context: EdgeContext, principal: Principal, model: type[Asked]) -> Asked:
    """The body as a model. Raises Problem, Refusal."""
    try:
        if model.FILE is not None and is_form(request):
            form = await read_form(request, context, principal, model.FILE)
            return model.model_validate(_values(model, form))
        body = await read_object(request, context.limits)
        # As JSON, so that "5" is no number, and a list may stand for a tuple.
        return model.model_validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None


async def submit_ask(
    request: Request,
    context: EdgeContext,
    principal: Principal,
    ask: Ask,
    idempotency_key: str | None,
    prefer: str | None,
    **said: Any,
) -> Response:
    """Submit the job. `said`: members of the payload that the endpoint itself says. Raises Refusal."""
    fields = job_fields(ask, **said)
    return await submit(request, context, principal, fields, idempotency_key, prefer)


def job_fields(ask: Ask, **said: Any) -> dict[str, Any]:
    """The fields of the `job.submit` that this becomes. Raises Refusal."""
    try:
        constraints = stronger(ask.needs(), ask.constraints)
    except ValueError as error:
        reason = "models: 32 at most" if isinstance(error, ValidationError) else str(error)
        raise Refusal(Code.INVALID_PAYLOAD, f"constraints.{reason}") from None
    fields: dict[str, Any] = {
        "service": ask.SERVICE,
        "payload": {**ask.payload(), **said},
        "constraints": constraints.model_dump(mode="json", exclude_defaults=True),
        "priority": ask.priority,
        "max_attempts": ask.max_attempts,
    }
    if ask.ttl_seconds is not None:
        fields["ttl_seconds"] = ask.ttl_seconds
    return fields


def ask_body(model: type[Ask], **examples: Mapping[str, Any]) -> dict[str, Any]:
    """The `openapi_extra` of an endpoint that takes this body; examples by name."""
    content: dict[str, Any] = {
        "application/json": {
            "schema": model.model_json_schema(ref_template=SCHEMA_REF),
            "examples": {name: {"value": dict(example)} for name, example in examples.items()},
        }
    }
    if model.FILE is not None:
        form = model.model_json_schema(ref_template=SCHEMA_REF)
        told = form["properties"][model.FILE]
        for name, field in form["properties"].items():  # texts, and none of them is null
            choices = [choice for choice in field.get("anyOf", ()) if choice != {"type": "null"}]
            if len(choices) == 1:
                rest = {key: value for key, value in field.items() if key != "anyOf"}
                form["properties"][name] = {**rest, **choices[0]}
        form["properties"][model.FILE] = {
            "description": f"The file itself. {told['description']}",
            "anyOf": [{"type": "string", "format": "binary"}, {"type": "string", "format": "uri"}],
        }
        content[MEDIA_TYPE] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def _values(model: type[Ask], form: Mapping[str, list[str]]) -> dict[str, Any]:
    """A form's texts as values: lists and objects from JSON, lists also from repeated parts."""
    kinds = {name: _kinds(field) for name, field in model.model_json_schema()["properties"].items()}
    values: dict[str, Any] = {}
    for name, texts in form.items():
        known = kinds.get(name, set())
        if "array" in known and (len(texts) > 1 or "integer" not in known):
            values[name] = _json(texts[0]) if texts[0].startswith("[") and len(texts) == 1 else texts
        elif len(texts) > 1:
            raise Refusal(Code.INVALID_PAYLOAD, f"{_shown(name)}: is there more than once")
        elif known & {"object", "array"}:
            values[name] = _json(texts[0])
        elif "integer" in known and _INTEGER.fullmatch(texts[0]):
            values[name] = int(texts[0])
        else:
            values[name] = texts[0]
    return values


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a member may have; what is a reference is an object."""
    kinds = {schema["type"]} if "type" in schema else set()
    if "$ref" in schema:
        kinds.add("object")
    return kinds.union(*(_kinds(part) for key in ("anyOf", "allOf") for part in schema.get(key, ())))


def _json(text: str) -> Any:
    return parse_json(text.encode())


def _shown(name: str) -> str:
    return name if name.isprintable() and len(name) <= 64 else "?"
