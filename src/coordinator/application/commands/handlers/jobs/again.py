"""The requests of earlier jobs, so that they can be made again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final
from uuid import UUID

from pydantic_core import from_json

from coordinator.application.payloads.bodies import MAX_SEARCHED_BYTES, blob_of_body, store_failed
from coordinator.application.payloads.service_versions import States
from coordinator.application.ports import BlobSource, Intent, StoredPayload
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import STATE_NAMES, JobSubmit, JobSubmitAgain, JobSubmitted, is_final
from coordinator.domain.messages import Principal, Role

PayloadsOf = Callable[[Collection[UUID]], Awaitable[Mapping[UUID, StoredPayload]]]
_ERASED: Final = "the payload was erased, so that the job can't be submitted again; send it anew"


class EarlierJobs:
    """Reads what was asked for. Used on the event loop only."""

    def __init__(self, states: States, payloads_of: PayloadsOf, blobs: BlobSource) -> None:
        self._states = states
        self._payloads_of = payloads_of
        self._blobs = blobs

    async def request(self, intent: Intent, command: JobSubmitAgain) -> Intent:
        """The same request once more, from the same client. Raises Refusal, LogUnavailable."""
        sender = intent.principal
        job = await self._final_job(sender, command.job_id)
        # The job's client pays, and its limits apply, whoever asks.
        owner = sender if sender.name == job.client else Principal(job.client, Role.CLIENT)
        submit = JobSubmit(
            service=job.service,
            payload=await self._payload(job),
            constraints=job.constraints,
            ttl_seconds=max(1, (job.expires_at - job.at) // 1000),
            priority=job.priority,
            max_attempts=job.max_attempts,
            budget=job.hold or None,  # never more than the first one could cost
        )
        # A repeat of the command is a repeat of the submit.
        key = command.idempotency_key or intent.message_id
        message_id = None if key is None else f"again/{sender.name}/{command.job_id}/{key}"
        return Intent(submit, owner, message_id, command.traceparent or intent.traceparent)

    async def _final_job(self, sender: Principal, job_id: UUID) -> JobSubmitted:
        for fresh in (False, True):
            state = (await self._states((job_id,), fresh=fresh))[job_id]
            if type(state) in STATE_NAMES and is_final(state):
                break
        # The same refusal for another client's job as for no job.
        if type(state) not in STATE_NAMES or (sender.role is Role.CLIENT and state.job.client != sender.name):
            raise Refusal(Code.JOB_NOT_FOUND, "no such job")
        if not is_final(state):
            name = STATE_NAMES[type(state)]
            raise Refusal(Code.CONFLICT_STATE, f"the job is {name}; cancel it, or wait for its end")
        job: JobSubmitted = state.job
        return job

    async def _payload(self, job: JobSubmitted) -> dict[str, Any]:
        stored = (await self._payloads_of([job.job_id])).get(job.job_id)
        if stored is None:
            raise Refusal(Code.CONTENT_EXPIRED, _ERASED)
        blob = blob_of_body(stored, job.payload_digest)
        body = stored.body if blob is None else await self._content(blob)
        payload: dict[str, Any] = from_json(body)
        return payload

    async def _content(self, blob: str) -> bytes:
        content = bytearray()
        try:
            async for piece in self._blobs.get(blob):
                content += piece
                if len(content) > MAX_SEARCHED_BYTES:
                    raise Refusal(
                        Code.TOO_LARGE, "the payload is too large to be submitted again; send it anew"
                    )
        except Refusal:
            raise
        except Exception as error:  # any failure of the store concerns this command only
            raise store_failed(error) from None
        return bytes(content)
