"""Blobs: files by digest. Uploads are owned; downloads go through a job that refers to the blob."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.payloads.bodies import refs_in
from coordinator.application.ports import PayloadKind
from coordinator.blobs import BlobInfo, BlobTooLarge
from coordinator.crypto.refs import SHA256_HEX, blob_ref
from coordinator.domain.content import CONTENT_KINDS
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import Canceled, Completed, Expired, Failed, Queued, Running
from coordinator.domain.messages import Principal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import declared_length, incoming
from coordinator.edge.http.credentials import Anyone, Uploader
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.reading import may_read, reply
from coordinator.edge.http.reads.stored_payloads import Pieces, begun, expired, stored_payload
from coordinator.edge.http.uploads import store_upload
from coordinator.edge.models.jobs import BlobView

router = APIRouter(tags=["blobs"])

_BINARY: Final = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}

Sha256 = Annotated[str, Path(pattern=f"^{SHA256_HEX.pattern}$", description="64 lower-case hex digits.")]
FinalJob = Completed | Failed | Canceled | Expired
Job = Queued | Running | FinalJob


@router.put(
    "/blobs/{sha256}",
    status_code=201,
    response_model=BlobView,
    summary="Upload a blob",
    description="The content is checked against the digest while it streams in. The uploader of a blob may "
    "refer to it; another principal's upload of the same content gives no right to it.",
    responses=refusals(Code.DIGEST_MISMATCH, Code.BLOB_TOO_LARGE, Code.QUOTA_EXCEEDED),
    openapi_extra={"requestBody": {"required": True, **_BINARY}},
)
async def put_blob(request: Request, context: Context, principal: Uploader, sha256: Sha256) -> Response:
    if declared_length(request) > context.settings.max_blob_bytes:
        raise BlobTooLarge
    content = incoming(request, context.limits)
    info = await store_upload(
        context, principal, content, expected_sha256=sha256, declared=declared_length(request)
    )
    return reply(BlobView(blob=blob_ref(sha256), sha256=sha256, size=info.size), status=201)


@router.head(
    "/blobs/{sha256}",
    summary="Check whether a blob is uploaded already",
    description="200 if this key has uploaded it before and it is still stored; 404 otherwise.",
    responses=refusals(Code.BLOB_NOT_FOUND),
)
async def head_blob(context: Context, principal: Uploader, sha256: Sha256) -> Response:
    owned = await context.blob_owners.has(principal, sha256)
    info = await context.blobs.stat(sha256) if owned else None
    if info is None:
        raise _not_found()
    return Response(headers={"Content-Length": str(info.size)}, media_type="application/octet-stream")


@router.get(
    "/jobs/{job_id}/blobs/{sha256}",
    response_class=Pieces,
    summary="Download a blob of a job",
    description="For the job's client, blobs of its payload or result; for the miner that holds the job, "
    "blobs of its payload.",
    responses={
        200: {"description": "The content.", **_BINARY},
        **refusals(Code.BLOB_NOT_FOUND, Code.CONTENT_EXPIRED),
    },
)
async def get_blob(context: Context, principal: Anyone, job_id: UUID, sha256: Sha256) -> Response:
    info = await readable_blob(context, principal, job_id, sha256)
    return Pieces(
        await begun(context.blobs.get(sha256)),
        media_type="application/octet-stream",
        headers={
            "Content-Length": str(info.size),
            "Content-Disposition": "attachment",
            "ETag": f'"{sha256}"',
        },
        counted=context.open_connections.stream(principal),
    )


async def readable_blob(context: EdgeContext, principal: Principal, job_id: UUID, sha256: str) -> BlobInfo:
    """The blob of a job, if this principal may read it. Raises Refusal, or Problem if it was erased."""
    job = await context.gateway.state(job_id)
    if not isinstance(job, Job) or not await _refers(context, principal, job, blob_ref(sha256)):
        if isinstance(job, FinalJob) and await _is_erased(context, principal, job):
            raise await expired(
                context, job_id, CONTENT_KINDS, "the job's payload or result was erased, with its files"
            )
        raise _not_found()
    info = await context.blobs.stat(sha256)
    if info is None:
        raise _not_found()
    return info


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
    stored = await stored_payload(context, job_id, kind)
    return set() if stored is None else await refs_in(stored, digest, context.blobs)


async def _is_erased(context: EdgeContext, principal: Principal, job: FinalJob) -> bool:
    """Whether this principal's job has lost its payload or result, which may have named the blob."""
    if not may_read(principal, job.job.client):
        return False
    kinds: tuple[PayloadKind, ...] = ("payload", "result") if isinstance(job, Completed) else ("payload",)
    stored = [await stored_payload(context, job.job.job_id, kind) for kind in kinds]
    return None in stored


def _not_found() -> Refusal:
    return Refusal(Code.BLOB_NOT_FOUND, "no such blob")
