"""Passports: for one job, everything that proves it offline, with the proofs of one checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from coordinator.application.ports import EventLog, PayloadKind, Recorded
from coordinator.application.proof.errors import LeavesDiffer
from coordinator.application.proof.leaves import leaf_of
from coordinator.application.proof.proofs import BeyondTheCheckpoint, Inclusion, Proofs, Published
from coordinator.application.receipts.receipts import Receipts
from coordinator.crypto.log.leaf import BadLeaf
from coordinator.crypto.log.passport import FORMAT
from coordinator.crypto.merkle import leaf_hash
from coordinator.domain.job import JobStarted, JobSubmitted, ends_job
from coordinator.domain.miner import MinerRegistered, miner_stream
from coordinator.domain.service import ServiceRegistered, ServiceRevised, service_stream
from coordinator.domain.signing_key import SIGNING_KEYS

_KINDS: Final[tuple[PayloadKind, ...]] = ("payload", "result")


class NotFinal(Exception):
    """The job is not final yet: a passport of it would prove only a beginning."""


@dataclass(frozen=True, slots=True)
class Passports:
    """Makes passports from the log, the tree and the receipts."""

    event_log: EventLog
    proofs: Proofs
    receipts: Receipts

    async def of(self, job_id: UUID, *, with_salts: bool = False) -> dict[str, Any] | None:
        """The passport of a job, see `crypto.log.passport`; None for an unknown job.

        Raises NotFinal, NotPublished, BeyondTheCheckpoint (ask again in a moment), LeavesDiffer for a log
        that is not the tree's, LogUnavailable.
        """
        made = await asyncio.to_thread(self._make, job_id)
        if made is None:
            return None
        made["receipt"] = await self.receipts.of(job_id)
        if with_salts:
            made["salts"] = await asyncio.to_thread(self._salts, job_id)
        return made

    def _make(self, job_id: UUID) -> dict[str, Any] | None:
        loaded = self.event_log.load([job_id, SIGNING_KEYS])
        events = loaded.get(job_id, [])
        if not events or not isinstance(events[0].event, JobSubmitted):
            return None
        if not ends_job(events[-1].event):
            raise NotFinal("the job is not final yet: ask again once it is, or with `wait`")
        # First of all, as those who wait ask again and again.
        until = self.proofs.published().position
        if events[-1].position > until:
            raise BeyondTheCheckpoint(f"the checkpoint covers positions up to {until}, and not the job's end")
        keys = loaded.get(SIGNING_KEYS, [])
        relied_on = [*keys, *self._relied_on(events[0].event, events)]
        # A key that is too new for the checkpoint has signed nothing about this job.
        relied_on = sorted((r for r in relied_on if r.position <= until), key=lambda r: r.position)
        both = sorted([*events, *relied_on], key=lambda r: r.position)
        inclusions, published = self.proofs.inclusions([recorded.position for recorded in both])
        by_position = {inclusion.position: inclusion for inclusion in inclusions}
        return _document(job_id, events, relied_on, by_position, published, self.proofs.names().key.text)

    def _relied_on(self, submitted: JobSubmitted, events: Sequence[Recorded]) -> Iterable[Recorded]:
        """The version of the service, and the registration of each session that held the job."""
        started = [recorded.event for recorded in events if isinstance(recorded.event, JobStarted)]
        sessions = {(start.miner_id, start.session_id) for start in started}
        service = service_stream(submitted.service)
        loaded = self.event_log.load([service, *{miner_stream(miner) for miner, _ in sessions}])
        for stream, found in loaded.items():
            for recorded in found:
                match recorded.event:
                    case ServiceRegistered() | ServiceRevised() if stream == service:
                        if getattr(recorded.event, "version", 1) == submitted.service_version:
                            yield recorded
                    case MinerRegistered(miner_id=miner, session_id=session):
                        if (miner, session) in sessions:
                            yield recorded

    def _salts(self, job_id: UUID) -> dict[str, str]:
        """As far as they are stored: an erased payload has none."""
        found = {kind: self.event_log.payloads(kind, [job_id]).get(job_id) for kind in _KINDS}
        return {kind: stored.salt.hex() for kind, stored in found.items() if stored is not None}


def _document(
    job_id: UUID,
    events: Sequence[Recorded],
    relied_on: Sequence[Recorded],
    inclusions: dict[int, Inclusion],
    published: Published,
    log_key: str,
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "job_id": str(job_id),
        "events": [_proven(recorded, inclusions[recorded.position]) for recorded in events],
        "relied_on": [_proven(recorded, inclusions[recorded.position]) for recorded in relied_on],
        "receipt": None,
        "checkpoint": published.signed.text,
        "log_key": log_key,
    }


def _proven(recorded: Recorded, inclusion: Inclusion) -> dict[str, Any]:
    """The stored parts of an event, with its proof. Raises LeavesDiffer if the log was changed since."""
    topic, state = recorded.original or (recorded.event.topic, recorded.data)
    try:
        hashed = leaf_hash(leaf_of(recorded))
    except BadLeaf as error:
        raise LeavesDiffer(inclusion.index, f"position {recorded.position}: {error}") from None
    if hashed != inclusion.leaf_hash:
        raise LeavesDiffer(inclusion.index, f"the event at position {recorded.position} was changed")
    return {
        "position": recorded.position,
        "stream": recorded.key,
        "version": recorded.version,
        "topic": topic,
        "metadata": recorded.metadata_json.decode(),
        "state": state.decode(),
        "index": inclusion.index,
        "path": [sibling.hex() for sibling in inclusion.path],
    }
