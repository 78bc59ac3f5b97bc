"""What answers have in common."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel
from starlette.responses import Response

from coordinator.edge.openai.runs import JOB_HEADER, Done


class Usage(BaseModel):
    """Tokens, as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage_of(done: Done) -> Usage:
    """The tokens of a job of `llm_inference`."""
    asked, made = done.result["prompt_tokens"], done.result["completion_tokens"]
    return Usage(prompt_tokens=asked, completion_tokens=made, total_tokens=asked + made)


def answer(model: BaseModel, *job_ids: UUID) -> Response:
    """The answer, which names the jobs that it came from: they have receipts."""
    return Response(model.model_dump_json(), headers=job_header(*job_ids), media_type="application/json")


def job_header(*job_ids: UUID) -> dict[str, str]:
    """The header that names the jobs."""
    return {JOB_HEADER: ", ".join(map(str, job_ids))}
