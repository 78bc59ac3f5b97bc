"""What the facade's endpoints answer, for OpenAPI."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from coordinator.edge.http.bodies import SCHEMA_REF
from coordinator.edge.openai.errors import OpenAIError
from coordinator.edge.openai.runs import JOB_HEADER

_REFUSALS: Final = {
    400: ("invalid_request_error", "unsupported_parameter"),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "forbidden"),
    404: ("invalid_request_error", "model_not_found"),
    408: ("invalid_request_error", "invalid_value"),
    413: ("invalid_request_error", "too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", "internal"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "timeout"),
}
_WITHOUT_JOBS: Final = (401, 403, 404, 429, 500, 503)


def describe(
    *, events: bool = False, texts: bool = False, jobs: bool = True
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint: with a stream of events, with plain texts, or without making a job."""
    success: dict[str, Any] = {"description": HTTPStatus.OK.phrase}
    other = "text/event-stream" if events else "text/plain" if texts else None
    if other is not None:
        success["content"] = {other: {"schema": {"type": "string"}}}
    if jobs:
        success["headers"] = {
            JOB_HEADER: {
                "description": "The job that gave this, or several; each has a receipt.",
                "schema": {"type": "string"},
            }
        }
    return {200: success}


def errors_of(operation: dict[str, Any]) -> None:
    """Describe how an endpoint of the facade fails, in the place of the problems that others answer with."""
    responses = operation["responses"]
    for status in [status for status in responses if status[0] in "45"]:
        del responses[status]
    statuses = _REFUSALS if "requestBody" in operation else _WITHOUT_JOBS
    for status in statuses:
        kind, code = _REFUSALS[status]
        error = {"message": "what was wrong, and what to do", "type": kind, "param": None, "code": code}
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {
                "application/json": {
                    "schema": {"$ref": SCHEMA_REF.format(model="OpenAIError")},
                    "examples": {code: {"value": {"error": error}}},
                }
            },
        }


def error_schemas() -> dict[str, Any]:
    """The schemas of errors, by name."""
    schema = OpenAIError.model_json_schema(ref_template=SCHEMA_REF)
    return {**schema.pop("$defs"), "OpenAIError": schema}
