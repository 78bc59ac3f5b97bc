"""Blobs: files by digest. Uploads are owned; downloads go through a job that refers to the blob."""

from __future__ import annotations

import time
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from coordinator.application.commands.payload_bodies import refs_in
from coordinator.application.ports import PayloadKind
from coordinator.blobs import BlobInfo, BlobTooLarge
from coordinator.crypto.refs import SHA256_HEX, blob_ref
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import Canceled, Completed, Expired, Failed, Queued, Running
from coordinator.domain.messages import Principal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import declared_length, incoming
from coordinator.edge.http.problems import describe_problems
from coordinator.edge.http.reading import may_read, reply
from coordinator.edge.middleware.credentials import Anyone
from coordinator.edge.models.jobs import BlobView
from coordinator.edge.routes.results import begun, stored_document

router = APIRouter(tags=["blobs"])

_BINARY: Final = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}

Sha256 = Annotated[str, Path(pattern=f"^{SHA256_HEX.pattern}$", description="64 lower-case hex digits.")]
Job = Queued | Running | Completed | Failed | Canceled | Expired


@router.put(
    "/blobs/{sha256}",
    status_code=201,
    response_model=BlobView,
    summary="Upload a blob",
    description="The content is checked against the digest while it streams in. Whoever uploads a blob may "
    "refer to it; that somebody else uploaded the same gives no right to it.",
    responses=describe_problems(
        Code.INVALID_PAYLOAD,
        Code.UNAUTHORIZED_KEY,
        Code.DIGEST_MISMATCH,
        Code.BLOB_TOO_LARGE,
        Code.UNAVAILABLE,
    ),
    openapi_extra={"requestBody": {"required": True, **_BINARY}},
)
async def put_blob(request: Request, context: Context, principal: Anyone, sha256: Sha256) -> Response:
    limit = context.settings.max_blob_bytes
    if declared_length(request) > limit:
        raise BlobTooLarge
    content = incoming(request, context.limits)
    info = await context.blobs.put(content, expected_sha256=sha256, max_bytes=limit)
    await own(context, principal, info)
    return reply(BlobView(blob=blob_ref(sha256), sha256=sha256, size=info.size), status=201)


@router.head(
    "/blobs/{sha256}",
    summary="Ask whether a blob need not be uploaded",
    description="200 where this key has uploaded it before and it is still there; 404 otherwise.",
    responses=describe_problems(
        Code.INVALID_PAYLOAD, Code.UNAUTHORIZED_KEY, Code.BLOB_NOT_FOUND, Code.UNAVAILABLE
    ),
)
async def head_blob(context: Context, principal: Anyone, sha256: Sha256) -> Response:
    owned = await context.read("read_blob_owners", keys=[_owner_key(sha256, principal)])
    info = await context.blobs.stat(sha256) if owned else None
    if info is None:
        raise _not_found()
    return Response(headers={"Content-Length": str(info.size)}, media_type="application/octet-stream")


@router.get(
    "/jobs/{job_id}/blobs/{sha256}",
    response_class=StreamingResponse,
    summary="Download a blob of a job",
    description="For the job's client what its payload or result refers to; for the miner that holds the job "
    "what its payload refers to.",
    responses={
        200: {"description": "The content.", **_BINARY},
        **describe_problems(
            Code.INVALID_PAYLOAD, Code.UNAUTHORIZED_KEY, Code.BLOB_NOT_FOUND, Code.UNAVAILABLE
        ),
    },
)
async def get_blob(context: Context, principal: Anyone, job_id: UUID, sha256: Sha256) -> Response:
    job = await context.gateway.state(job_id)
    if not isinstance(job, Job) or not await _refers(context, principal, job, blob_ref(sha256)):
        raise _not_found()
    info = await context.blobs.stat(sha256)
    if info is None:
        raise _not_found()
    return StreamingResponse(
        await begun(context.blobs.get(sha256)),
        media_type="application/octet-stream",
        headers={
            "Content-Length": str(info.size),
            "Content-Disposition": "attachment",
            "ETag": f'"{sha256}"',
        },
    )


async def own(context: EdgeContext, principal: Principal, info: BlobInfo) -> None:
    """Note that this principal uploaded a blob: it may refer to it from now on."""
    row = {
        "key": _owner_key(info.sha256, principal),
        "digest": info.sha256,
        "principal": principal.name,
        "size": info.size,
        "at": time.time_ns() // 1_000_000,
    }
    await context.put("blob_owners", row)


async def _refers(context: EdgeContext, principal: Principal, job: Job, ref: str) -> bool:
    """Whether this principal may read `ref` because of this job."""
    job_id = job.job.job_id
    if may_read(principal, job.job.client):
        if ref in await _refs(context, job_id, "payload", job.job.payload_digest):
            return True
        return isinstance(job, Completed) and ref in await _refs(
            context, job_id, "result", job.completed.result_digest
        )
    holds = isinstance(job, Running) and principal.owns_miner(job.started.miner_id)
    return holds and ref in await _refs(context, job_id, "payload", job.job.payload_digest)


async def _refs(context: EdgeContext, job_id: UUID, kind: PayloadKind, digest: str) -> set[str]:
    stored = await stored_document(context, job_id, kind)
    return set() if stored is None else await refs_in(stored, digest, context.blobs)


def _owner_key(sha256: str, principal: Principal) -> str:
    return f"{sha256}/{principal.name}"


def _not_found() -> Refusal:
    return Refusal(Code.BLOB_NOT_FOUND, "no such blob")
