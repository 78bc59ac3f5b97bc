"""Answers: their common parts, and their description for OpenAPI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel
from starlette.responses import Response

from coordinator.edge.openai.errors import OpenAIError
from coordinator.edge.openai.runs import JOB_HEADER, Done

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
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
_WITHOUT_JOBS: Final = (401, 403, 404, 429, 500, 503)


class PromptDetails(BaseModel):
    cached_tokens: int


class CompletionDetails(BaseModel):
    reasoning_tokens: int


class Usage(BaseModel):
    """Tokens, as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


def usage_of(done: Done) -> Usage:
    """The tokens of a job of `llm_inference`."""
    asked, made = done.result["prompt_tokens"], done.result["completion_tokens"]
    return Usage(
        prompt_tokens=asked,
        completion_tokens=made,
        total_tokens=asked + made,
        prompt_tokens_details=PromptDetails(cached_tokens=done.result.get("cached_tokens", 0)),
        completion_tokens_details=CompletionDetails(reasoning_tokens=done.result.get("reasoning_tokens", 0)),
    )


def finish_reason(answer: Mapping[str, Any]) -> FinishReason:
    """Why the model stopped, in OpenAI's words."""
    found: FinishReason = answer["finish_reason"] if answer["finish_reason"] != "stop_sequence" else "stop"
    return found


def answer(document: BaseModel | Mapping[str, Any], *job_ids: UUID) -> Response:
    """The answer, with the header that names its jobs: they have receipts."""
    text = (
        document.model_dump_json()
        if isinstance(document, BaseModel)
        else json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    )
    return Response(text, headers=job_header(*job_ids), media_type="application/json")


def job_header(*job_ids: UUID) -> dict[str, str]:
    """The header that names the jobs."""
    return {JOB_HEADER: ", ".join(map(str, job_ids))} if job_ids else {}


def openai_responses(*media_types: str, jobs: bool = True) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint: with answers of these types besides JSON, or without making a job."""
    success: dict[str, Any] = {"description": HTTPStatus.OK.phrase}
    if media_types:
        success["content"] = {
            media_type: {
                "schema": {"type": "string"}
                if media_type.startswith("text/")
                else {"type": "string", "format": "binary"}
            }
            for media_type in media_types
        }
    if jobs:
        success["headers"] = {
            JOB_HEADER: {
                "description": "The job of this answer, or several; each has a receipt.",
                "schema": {"type": "string"},
            }
        }
    refusals = _REFUSALS if jobs else _WITHOUT_JOBS
    return {200: success, **{status: _refusal(status) for status in refusals}}


def _refusal(status: int) -> dict[str, Any]:
    kind, code = _REFUSALS[status]
    error = {"message": "the fault, and what to do", "type": kind, "param": None, "code": code}
    return {
        "model": OpenAIError,
        "description": HTTPStatus(status).phrase,
        "content": {"application/json": {"examples": {code: {"value": {"error": error}}}}},
    }
