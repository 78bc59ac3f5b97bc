"""The OpenAPI document: FastAPI's description of the routes, and additions to it.

Endpoints describe their own parts, and `app` the problems that all of them share. Added here are the headers
of answers, the signature beside a key, and links from a submitted job to the next operations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from http import HTTPStatus
from importlib import resources
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from coordinator.edge.http.bodies import SCHEMA_REF
from coordinator.edge.http.credentials import KEY_SCHEME
from coordinator.edge.http.problems import MEDIA_TYPE as PROBLEM_TYPE
from coordinator.edge.http.reads.reading import POSITION_HEADER
from coordinator.edge.middleware.rate_limits import (
    LIMIT_HEADER,
    POLICY_HEADER,
    REMAINING_HEADER,
    RESET_HEADER,
)
from coordinator.edge.middleware.signatures import SIGNATURE_HEADER, TIMESTAMP_HEADER
from coordinator.edge.models.base import ProblemDetails

SUMMARY: Final = "An event-sourced coordinator for GPU miners."
DESCRIPTION_FILE: Final = "introduction.md"
TAGS: Final = {
    "jobs": "Submit work, follow it, get its result and its receipt. For clients.",
    "services": "Jobs of well-known services, with typed bodies. For clients.",
    "openai": "The endpoints of the OpenAI API, for its clients. Each request makes a job.",
    "registry": "The services that jobs may use: the schemas of their payloads and results, and prices.",
    "blobs": "Files, by their SHA-256: uploaded before a payload or result refers to them.",
    "live": "Events of jobs, as they happen.",
    "miners": "Register, take work, hand in results. For miners behind a firewall; AMQP does the same.",
    "keys": "API keys, managed at run time. For admins.",
    "accounts": "Money: balances, entries, statements and quotes. A name sees its own; admins see all.",
    "quotas": "What a name may use, and what it uses. For admins; a name sees its own.",
    "webhooks": "URLs that are told of ended jobs, lost miners and faults, and the log of deliveries.",
    "proof": "The log's checkpoints, its Merkle tree, and proofs. For auditors, without a key.",
    "admin": "All jobs and all miners. For admins.",
    "health": "The coordinator's health, for probes and for Prometheus.",
    "errors": "The meaning of each code, and what to do.",
}
"""In the order in which the page shows them."""
WITHOUT_POSITION: Final = frozenset({"blobs", "health", "errors", "openai", "proof"})
"""Tags whose answers have no position in the log."""
PATHS_WITHOUT_POSITION: Final = "/v1/admin/dead-letters"
"""Paths that begin so have none either: dead letters are the broker's, and the log has not heard of them."""

_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "RequestId": {
        "description": "The request's id in the access log: its own `X-Request-Id`, or a new id.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Position": {
        "description": "The position in the log: of a command's effect, or reached by the tables of a read.",
        "required": True,
        "schema": {"type": "integer"},
    },
    "Location": {
        "description": "The URL of the created resource.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "RetryAfter": {
        "description": "Seconds after which the same request may be sent again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "RateLimitLimit": {
        "description": "How many requests this key's name may send in a window, if that is limited.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "RateLimitRemaining": {
        "description": "How many of these requests are left.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RateLimitReset": {
        "description": "Seconds until all of these requests are available again.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RateLimitPolicy": {
        "description": "The limit and its window: `60;w=60` is 60 requests in 60 seconds.",
        "schema": {"type": "string"},
    },
    "Authenticate": {
        "description": "How to authenticate.",
        "required": True,
        "schema": {"type": "string"},
    },
}
_RATE_HEADERS: Final = {
    LIMIT_HEADER: "RateLimitLimit",
    REMAINING_HEADER: "RateLimitRemaining",
    RESET_HEADER: "RateLimitReset",
    POLICY_HEADER: "RateLimitPolicy",
}
_SIGNATURE_SCHEME: Final = {
    "type": "apiKey",
    "in": "header",
    "name": SIGNATURE_HEADER,
    "description": "Beside the key, if it needs signed requests: HMAC-SHA256 in hex, under the key's "
    f"second secret, over method, path, query, `{TIMESTAMP_HEADER}` (Unix seconds, sent too) and the body's "
    "SHA-256 in hex, joined by line feeds. Each signature is valid once.",
}
_SCHEMAS: Final = "#/components/schemas/"
_NEXT: Final = {
    "result": ("get_result", "The job's result"),
    "job": ("show_job", "The job's current state"),
    "cancel": ("cancel_job", "Cancel the job"),
}
"""Operations that may follow a job's submit."""


def serve_document(app: FastAPI) -> None:
    """Let the app serve the whole document, which is made at the first request for it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=SUMMARY,
        description=_introduction(),
        routes=app.routes,
        # Relative, so that the page works under any name of the server.
        servers=[{"url": "/", "description": "This server."}],
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        separate_input_output_schemas=app.separate_input_output_schemas,
    )
    components = document["components"]
    schemas = components["schemas"]
    schemas["ProblemDetails"] = ProblemDetails.model_json_schema(ref_template=SCHEMA_REF)
    components["headers"] = _HEADERS
    components["securitySchemes"]["Signature"] = _SIGNATURE_SCHEME
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            # Endpoints describe bodies themselves, since FastAPI would parse the bodies that it describes.
            for content in operation.get("requestBody", {}).get("content", {}).values():
                for name, schema in content["schema"].pop("$defs", {}).items():
                    schemas.setdefault(name, schema)
            for parameter in operation.get("parameters", ()):
                _tidy(parameter)
            _add_headers(path, operation)
            if operation["security"]:
                operation["security"].append({KEY_SCHEME: [], "Signature": []})
            if method == "head":
                for response in operation["responses"].values():
                    response.pop("content", None)  # FastAPI does not know that there is no body
            elif method == "post":
                _add_links(operation, schemas)
    # FastAPI's own shape of a refusal, which is never answered.
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document


def _introduction() -> str:
    """The text at the top of the page, in Markdown."""
    return (resources.files(__package__) / DESCRIPTION_FILE).read_text(encoding="utf-8")


def _tidy(parameter: dict[str, Any]) -> None:
    """Remove FastAPI's duplicates, and null, which a query or a header can't have."""
    schema = parameter["schema"]
    for noise in ("title", "description"):
        schema.pop(noise, None)
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    if len(choices) == 1:
        del schema["anyOf"]
        schema.update(choices[0])


def has_position(path: str, tags: Collection[str]) -> bool:
    """Whether the answers of an operation have a position in the log."""
    return not WITHOUT_POSITION & set(tags) and not path.startswith(PATHS_WITHOUT_POSITION)


def _add_headers(path: str, operation: dict[str, Any]) -> None:
    operation.setdefault("security", [])
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    operation["responses"] = dict(sorted(responses.items()))
    for status, response in operation["responses"].items():
        if response["description"] == "Successful Response":
            response["description"] = HTTPStatus(int(status)).phrase
        headers = response.setdefault("headers", {})
        headers["X-Request-Id"] = _ref("RequestId")
        if status[0] == "2" and status != "204" and has_position(path, operation["tags"]):
            headers[POSITION_HEADER] = _ref("Position")
        # A failing health check is no problem document, and does not say when to retry.
        retried = operation["security"] or PROBLEM_TYPE in response.get("content", {})
        if status in ("425", "429", "503") and retried:
            headers["Retry-After"] = _ref("RetryAfter")
        if operation["security"]:
            headers.update({name: _ref(ref) for name, ref in _RATE_HEADERS.items()})
        if status == "401":
            headers["WWW-Authenticate"] = _ref("Authenticate")


def _add_links(operation: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    """Add the Location of a created resource and, if it is a job, links to the next operations."""
    response = operation["responses"].get("201")
    if response is None:
        return
    response["headers"]["Location"] = _ref("Location")
    reference = response.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    answer = schemas.get(reference.removeprefix(_SCHEMAS), {})
    if {"job_id", "expires_at"} <= answer.get("properties", {}).keys():
        response["links"] = {
            name: {
                "operationId": operation_id,
                "parameters": {"job_id": "$response.body#/job_id"},
                "description": text,
            }
            for name, (operation_id, text) in _NEXT.items()
        }


def _ref(header: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{header}"}
