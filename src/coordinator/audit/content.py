"""Payloads and results: which of them the log says are erased, and which of them are stored."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from coordinator.audit.entries import Divergence, Found, StoredPayload, Tables
from coordinator.audit.parties import Event, in_stream

CONTENT_ERASED: Final = "content.erased.v1"
_KINDS: Final = ("payload", "result")


def check_erasure(stream: str, event: Event, owners: Mapping[str, str | None]) -> None:
    """Whether this erasure could be decided. Raises Found.

    `owners`: the clients of those of its jobs that are known; None for a job that is not final. That a client
    erases its own content only is not checked: the log does not say who was an admin.
    """
    jobs, kinds = event["jobs"], event["kinds"]
    if not jobs or jobs != sorted(set(jobs)):
        raise Found("event", "an erasure names its jobs sorted, each one once", sorted(set(jobs)), jobs)
    if not kinds or kinds != [kind for kind in _KINDS if kind in kinds]:
        raise Found("event", "an erasure names its kinds in order, each one once", list(_KINDS), kinds)
    in_stream(stream, "content", ",".join(sorted(kinds)), *jobs)
    for job in jobs:
        if job not in owners:
            raise Found("transition", f"the content of job {job} was erased before there was such a job")
        if owners[job] is None:
            raise Found("final", f"the content of job {job} was erased before the job was final")
    clients = set(owners.values())
    client = clients.pop() if len(clients) == 1 else None
    if event["client"] != client:
        raise Found("client", "an erasure names the client of all its jobs", client, event["client"])


class StoredContent:
    """Finds content that is missing without an erasure, or stored in spite of one.

    An erasure may come later in the log than the comparison that misses the content, so that only the end of
    the log shows what is missing without one.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._erased_to = tables.erased_to()
        self._missing: dict[tuple[str, str], int] = {}
        """By job and kind: the position of the job's last event. Bounded by the jobs that await erasure."""

    def compared(self, rows: Iterable[Mapping[str, Any]], stored: Collection[StoredPayload]) -> None:
        """Note what these jobs lack of what their rows say that they have."""
        there = {(payload.job_id, payload.kind) for payload in stored}
        for row in rows:
            for kind in _KINDS:
                key = (row["job_id"], kind)
                if row[f"{kind}_digest"] is not None and key not in there:
                    self._missing[key] = row["position"]

    def erased(self, event: Event, position: int) -> None:
        """An erasure, all of whose jobs have been compared. Raises Found."""
        for job in event["jobs"]:
            for kind in event["kinds"]:
                self._missing.pop((job, kind), None)
        if position > self._erased_to:
            return  # it is not carried out yet
        for payload in self._tables.payloads(event["jobs"]):
            if payload.kind in event["kinds"]:
                detail = f"the {payload.kind} of job {payload.job_id} is stored in spite of its erasure"
                raise Found("erased", detail)

    def finish(self) -> Divergence | None:
        """At the end of the log: the first content that is missing, with nothing that says why."""
        if not self._missing:
            return None
        (job, kind), position = min(self._missing.items(), key=lambda item: (item[1], item[0]))
        detail = f"the {kind} of job {job} is not stored, and no event says that it was erased"
        return Divergence(position, "erased", detail)
