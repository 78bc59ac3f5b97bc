"""What belongs to a job, for its reader in a browser: result, receipt, passport, and files.

Files were made by strangers. They are shown as pictures, sounds and films only, and never as a page: their
type is set here, and a policy lets nothing in them run.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from coordinator.edge.context import Context
from coordinator.edge.dashboard.routing import page_router
from coordinator.edge.dashboard.sign_in import Visited
from coordinator.edge.http.byte_ranges import part_or_whole
from coordinator.edge.http.reads.reading import Position
from coordinator.edge.routes import blobs, results
from coordinator.edge.routes.proof import passports

router = page_router()

POLICY: Final = "default-src 'none'; frame-ancestors 'none'; sandbox"
SHOWN_AS: Final = {"image": "image/png", "audio": "audio/mpeg", "video": "video/mp4"}
"""Browsers find out themselves which picture, sound or film it is; nothing else shows under these types."""


@router.get("/jobs/{job_id}/result.json")
async def get_result(
    request: Request, context: Context, visitor: Visited, position: Position, job_id: UUID
) -> Response:
    """The result, with its digest and salt."""
    answer = await results.get_result(context, visitor.principal, position, job_id)
    return _download(answer, f"result-{job_id}.json")


@router.get("/jobs/{job_id}/receipt.json")
async def get_receipt(context: Context, visitor: Visited, position: Position, job_id: UUID) -> Response:
    """The receipt."""
    answer = await results.get_receipt(context, visitor.principal, position, job_id)
    return _download(answer, f"receipt-{job_id}.json")


@router.get("/jobs/{job_id}/passport.json")
async def get_passport(context: Context, visitor: Visited, position: Position, job_id: UUID) -> Response:
    """The passport; it waits a little for a checkpoint that has the job's end."""
    answer = await passports.get_passport(context, visitor.principal, position, job_id, wait="5")
    return _download(answer, f"passport-{job_id}.json")


@router.get("/jobs/{job_id}/files/{sha256}")
async def get_file(
    request: Request,
    context: Context,
    visitor: Visited,
    job_id: UUID,
    sha256: blobs.Sha256,
    shown: Annotated[Literal["", "image", "audio", "video"], Query(alias="as")] = "",
) -> Response:
    """A file of its payload or result: to be shown as what it is said to be, or to be kept."""
    if not shown:
        answer = await blobs.get_blob(context, visitor.principal, job_id, sha256)
        answer.headers["Content-Disposition"] = f'attachment; filename="{sha256[:16]}"'
    else:
        info = await blobs.readable_blob(context, visitor.principal, job_id, sha256)
        answer = await part_or_whole(request, context, visitor.principal, info)
        answer.headers["Content-Type"] = SHOWN_AS[shown]
        answer.headers["Content-Disposition"] = "inline"
    answer.headers["Content-Security-Policy"] = POLICY
    # Kept nowhere: an erasure counts for browsers, too.
    answer.headers["Cache-Control"] = "private, no-store"
    return answer


def _download(answer: Response, name: str) -> Response:
    answer.headers["Content-Security-Policy"] = POLICY
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer
