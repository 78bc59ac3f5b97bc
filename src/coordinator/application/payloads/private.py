"""Private payloads: withheld from offers, handed out with the answer to the claim.

The miners of one key that registered alike share a work queue, and where miners share a user of the broker,
every one of them can read every offer. An offer of private work has no payload and no salt (with the salt,
guesses of a short payload could be tried on its digest).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final
from uuid import UUID

from pydantic_core import from_json, to_json

from coordinator.application.payloads.bodies import blob_of_body
from coordinator.application.ports import StoredPayload
from coordinator.crypto.refs import blob_ref
from coordinator.crypto.sealing import attempt_context, seal
from coordinator.domain.job import Running
from coordinator.domain.service import RegisteredService, service_stream

KNOWN_SECONDS: Final = 1.0
"""How long a change of a service's entry may take to count here."""


class PrivatePayloads:
    """Which services are private, and the payloads of claimed jobs. Used on the event loop only."""

    def __init__(
        self,
        state_of: Callable[[UUID], Awaitable[Any]],
        payloads_of: Callable[[Collection[UUID]], Awaitable[Mapping[UUID, StoredPayload]]],
        version_of: Callable[[str, int], Awaitable[RegisteredService | None]],
        *,
        all_services: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`state_of`: an aggregate's state, fresh from the log. `version_of(service, version)`: an entry.

        `all_services`: every service is private.
        """
        self._version_of = version_of
        self._state_of = state_of
        self._payloads_of = payloads_of
        self._all = all_services
        self._monotonic = monotonic
        self._known: dict[str, tuple[bool, float]] = {}

    async def is_private(self, service: str) -> bool:
        """Whether offers of this service's jobs withhold their payloads. Raises LogUnavailable."""
        if self._all:
            return True
        private, until = self._known.get(service, (False, 0.0))
        if self._monotonic() >= until:
            state = await self._state_of(service_stream(service))
            private = isinstance(state, RegisteredService) and state.spec.private
            self._known[service] = private, self._monotonic() + KNOWN_SECONDS
        return private

    async def of_claim(self, job: Running, *, sealed: bool) -> dict[str, Any]:
        """The members that the answer to this job's claim has besides; empty unless its service is private.

        Raises LogUnavailable.
        """
        if not await self.is_private(job.job.service):
            # The offer may be older than the entry of now.
            entry = await self._version_of(job.job.service, job.job.service_version)
            if entry is None or not entry.spec.private:
                return {}
        job_id = job.job.job_id
        stored = (await self._payloads_of([job_id])).get(job_id)
        if stored is None:
            return {}  # erased meanwhile
        blob = blob_of_body(stored, job.job.payload_digest)
        body = {"payload": from_json(stored.body)} if blob is None else {"payload_blob": blob_ref(blob)}
        members = {**body, "payload_salt": stored.salt.hex()}
        if not sealed:
            return members
        context = attempt_context(str(job_id), job.started.attempt)
        return {"sealed": seal(job.started.miner_key, context, to_json(members))}
