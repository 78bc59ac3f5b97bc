"""The units that results show, for jobs that are billed by counted units."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator.application.commands.handler import Prepared, log_unavailable
from coordinator.application.commands.handlers.jobs.details import Counted, Details, PreparedResult
from coordinator.application.payloads.large_documents import LARGE_BYTES
from coordinator.application.payloads.references import References
from coordinator.application.payloads.service_versions import ServiceVersions
from coordinator.application.ports import LogUnavailable
from coordinator.domain.job import JobSubmitted
from coordinator.domain.matching.units import shown_units
from coordinator.wire.answers import Refused


async def counted_by(services: ServiceVersions, job: JobSubmitted, result: dict[str, Any]) -> Counted | None:
    """None for a job that is billed by time, or whose entry does not say how results show their units.

    The entry is that of the version under which the job was submitted. Raises LogUnavailable.
    """
    if job.unit is None:
        return None
    service = await services.of(job.service, job.service_version)
    if service is None or not service.spec.pricing.shown:
        return None
    return Counted(job.unit, service.spec.pricing.shown, result)


async def count(references: References, prepared: list[Prepared[Details] | Refused]) -> None:
    """Count the units of these results; one query for the sizes of all their blobs."""
    counted: list[tuple[int, Prepared[Details], PreparedResult, Counted]] = [
        (place, p, p.details, p.details.counted)
        for place, p in enumerate(prepared)
        if isinstance(p, Prepared) and isinstance(p.details, PreparedResult) and p.details.counted
    ]
    if not counted:
        return
    pairs = [
        (ref, p.intent.principal.name)
        for _, p, details, of in counted
        if of.weighs_blobs
        for ref in details.refs
    ]
    try:
        sizes = await references.sizes(pairs) if pairs else {}
    except LogUnavailable:
        refusal = log_unavailable()
        for place, _, _, of in counted:
            if of.weighs_blobs:
                prepared[place] = Refused(refusal.code, refusal.detail)
        counted = [each for each in counted if not each[3].weighs_blobs]
        sizes = {}
    for place, p, details, of in counted:
        bytes_of = sum(sizes.get((ref, p.intent.principal.name), 0) for ref in details.refs)
        asked = of.unit, of.shown, of.result, bytes_of
        is_large = details.size >= LARGE_BYTES
        shown = await asyncio.to_thread(shown_units, *asked) if is_large else shown_units(*asked)
        prepared[place] = p._replace(details=details._replace(counted=None, shown=shown))
