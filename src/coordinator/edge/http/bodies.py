"""Request bodies: read with limits, parsed and refused exactly as over AMQP, and described for OpenAPI.

FastAPI would read a body before it checks the principal, and parse it by its own rules. So endpoints read
their bodies here, and `request_body` describes them in OpenAPI.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Final

from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from coordinator.application.commands.parsing import parse_json
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.json_schema import DescribedJsonSchema
from coordinator.edge.context import EdgeLimits
from coordinator.edge.http.disconnects import CLIENT, RequestClient
from coordinator.edge.http.problems import Problem
from coordinator.wire.limits import MAX_ARRAY_LENGTH, MAX_BODY_BYTES, MAX_TURN_BYTES

SCHEMA_REF: Final = "#/components/schemas/{model}"
Member = type[BaseModel] | dict[str, Any]
"""The type of a body's member: a model, or a JSON Schema."""


async def read_object(request: Request, limits: EdgeLimits) -> dict[str, Any]:
    """The JSON object in the body; without a body an empty one. Raises Problem, Refusal."""
    body = await _arrived(request)
    if body is None:
        try:
            async with asyncio.timeout(limits.body_seconds):
                body = await _read(request, limits)
        except TimeoutError:
            raise _too_slow() from None
    value = parse_json(body) if body else {}
    if len(body) > MAX_TURN_BYTES:
        await asyncio.sleep(0)  # a large body's parsing was a turn of its own
    if not isinstance(value, dict):
        raise Refusal(Code.INVALID_PAYLOAD, "the body must be a JSON object")
    return value


async def incoming(request: Request, limits: EdgeLimits) -> AsyncIterator[bytes]:
    """The body in chunks, as they arrive. Raises Problem if they arrive too slowly, or are encoded."""
    _refuse_encoded(request.headers)
    chunks = request.stream()
    loop = asyncio.get_running_loop()
    # Only the time that we wait counts: a store that is slow itself costs the sender nothing.
    waited, received = 0.0, 0
    while True:
        allowed = limits.grace_seconds + received / limits.bytes_per_second
        began = loop.time()
        try:
            async with asyncio.timeout(max(0.0, min(limits.chunk_seconds, allowed - waited))):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise _too_slow() from None
        if chunk is None:
            return
        waited += loop.time() - began
        received += len(chunk)
        yield chunk


def has_body(headers: Headers) -> bool:
    """Whether a request with these headers has a body."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def declared_length(request: Request) -> int:
    """The value of `Content-Length`; 0 without a valid one."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 19 else 0


def fill(body: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """The body with values from the path and the headers. Raises Refusal if the body has other values."""
    for name, value in values.items():
        if name in body and body[name] != value:
            raise Refusal(Code.INVALID_PAYLOAD, f"{name}: differs from the path or the headers")
    return {**body, **values}


def header_text(name: str, value: str) -> str:
    """A header's text: the server reads Latin-1, and clients send UTF-8. Raises Refusal."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise Refusal(Code.INVALID_PAYLOAD, f"{name}: should be UTF-8") from None


def take_text(body: dict[str, Any], name: str) -> str | None:
    """Remove an optional text from the body. Raises Refusal."""
    value = body.pop(name, None)
    if value is not None and not isinstance(value, str):
        raise Refusal(Code.INVALID_PAYLOAD, f"{name}: should be a string")
    return value


def request_body(
    model: type[BaseModel],
    *,
    example: Mapping[str, Any],
    omit: Collection[str] = (),
    optional: Collection[str] = (),
    members: Mapping[str, Member] | None = None,
) -> dict[str, Any]:
    """The `openapi_extra` of an endpoint whose JSON body has this model's members.

    `omit`: members that come from the path or a header; `optional`: members that have a default over HTTP;
    `members`: members of HTTP alone, or with a more exact schema than the model's.
    """
    schema = _schema_of(model)
    properties = {name: member for name, member in schema["properties"].items() if name not in omit}
    for name, member in (members or {}).items():
        if isinstance(member, dict):
            properties[name] = member
            continue
        described = _schema_of(member)
        schema.setdefault("$defs", {}).update({**described.pop("$defs", {}), member.__name__: described})
        properties[name] = {"$ref": SCHEMA_REF.format(model=member.__name__)}
    for name in optional:  # null means absent
        properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
    required = [name for name in schema.pop("required", ()) if name not in {*omit, *optional}]
    schema |= {"properties": properties, **({"required": required} if required else {})}
    content = {"schema": schema, "example": dict(example)}
    needed = bool(required) or "anyOf" in schema  # of several members one
    return {"requestBody": {"required": needed, "content": {"application/json": content}}}


def array_body(
    name: str, model: type[BaseModel], *, example: Mapping[str, Any], optional: Collection[str] = ()
) -> dict[str, Any]:
    """The `openapi_extra` of an endpoint whose body has an array of such objects.

    `optional`: members that the objects have in common. They may be beside the array, and need not be sent.
    """
    described = _schema_of(model)
    definitions = {**described.pop("$defs", {}), model.__name__: described}
    described["required"] = [member for member in described.get("required", ()) if member not in optional]
    members = described["properties"]
    beside: dict[str, Any] = {common: {"anyOf": [members[common], {"type": "null"}]} for common in optional}
    schema = {
        "type": "object",
        "properties": {
            name: {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_ARRAY_LENGTH,
                "items": {"$ref": SCHEMA_REF.format(model=model.__name__)},
            },
            **beside,
        },
        "required": [name],
        "additionalProperties": False,
        "$defs": definitions,
    }
    content = {"schema": schema, "example": {name: [dict(example)]}}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def nothing_else(body: Mapping[str, Any]) -> None:
    """Raises Refusal for the members that are left."""
    if body:
        raise Refusal(Code.INVALID_PAYLOAD, "the body has members that are unknown here")


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(ref_template=SCHEMA_REF, schema_generator=DescribedJsonSchema)


async def _arrived(request: Request) -> bytes | None:
    """The body, if all of it is here: then it is read without timers. Raises Problem."""
    client: RequestClient | None = request.scope.get("state", {}).get(CLIENT)
    if client is None or not client.has_sent_all:
        return None
    _refuse_encoded(request.headers)
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    body: bytes = message.get("body", b"")
    if len(body) > MAX_BODY_BYTES:
        raise _too_large()
    return body


async def _read(request: Request, limits: EdgeLimits) -> bytes:
    if declared_length(request) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    async for chunk in incoming(request, limits):
        body += chunk
        # A chunked body declares no length, so it is cut off here.
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
    return bytes(body)


def _refuse_encoded(headers: Headers) -> None:
    """Raises Problem for a compressed body: a few bytes of it could stand for gigabytes."""
    if not any(name == b"content-encoding" for name, _ in headers.raw):
        return
    codings = {part.strip().lower() for part in ",".join(headers.getlist("content-encoding")).split(",")}
    if codings - {"", "identity"}:
        raise Problem(
            Code.INVALID_PAYLOAD,
            "Content-Encoding: compressed bodies are not read; send the body as it is",
            status=415,
            headers={"Accept-Encoding": "identity"},
        )


def _too_large() -> Problem:
    return Problem(Code.TOO_LARGE, f"the body is larger than {MAX_BODY_BYTES} bytes")


def _too_slow() -> Problem:
    return Problem(Code.INVALID_PAYLOAD, "the body did not arrive in time; send it again", status=408)
