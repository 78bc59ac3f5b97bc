"""Why a miner has no work: the match the other way round, of one profile with the classes of queued jobs.

An *improvement* changes one capability, by as little as lets the miner run a further job. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal as Exact
from typing import Final, NamedTuple, TypeVar

from coordinator.domain.matching.job_report import Change, Quarantine
from coordinator.domain.matching.needs import (
    Capabilities,
    ConstraintName,
    Needs,
    failing,
    same_label,
    version_key,
)
from coordinator.domain.matching.reasons import Reason, ReasonCode

_Lack = TypeVar("_Lack", str, tuple[str, ...])
MAX_IMPROVEMENTS: Final = 10
"""Of models, of regions and of services."""


class QueuedClass(NamedTuple):
    """The queued jobs of one class."""

    service: str
    needs: Needs
    queued: int


class Improvement(NamedTuple):
    """A change of one capability, and the queued jobs that the miner could run with it."""

    constraint: ConstraintName
    to: Change
    """None: what the jobs ask for differs, or can't be told in one value (a GPU)."""
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerReport:
    """One profile against all classes of queued jobs."""

    queued: int
    """All queued jobs."""
    of_its_services: int
    fitting: int
    """Those that it could run as it is."""
    failures: tuple[tuple[ConstraintName, int], ...]
    """How many of the jobs of its services need what it lacks."""
    improvements: tuple[Improvement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerFacts:
    """The facts about a miner beside the match."""

    state: str
    concurrency: int
    running: int
    quarantine: Quarantine = ""
    may_take: bool = True
    """Whether its principal has earned a slot more, for any of its services."""


def miner_report(has: Capabilities, classes: Iterable[QueuedClass]) -> MinerReport:
    """The report on these capabilities against the queued jobs."""
    failures: Counter[ConstraintName] = Counter()
    close: dict[ConstraintName, list[QueuedClass]] = {}
    queued = of_its_services = fitting = 0
    for waiting in classes:
        service, needs, count = waiting
        names = {r.constraint for r in failing(service, needs, has, needs.list_price, needs.unit)}
        queued += count
        if "service" not in names:
            of_its_services += count
            fitting += 0 if names else count
            for name in names:
                failures[name] += count
        if len(names) == 1:
            close.setdefault(names.pop(), []).append(waiting)
    return MinerReport(
        queued=queued,
        of_its_services=of_its_services,
        fitting=fitting,
        failures=tuple(failures.most_common()),
        improvements=tuple(
            sorted(
                (i for name, missed in close.items() for i in _improvements(name, has, missed)),
                key=lambda i: -i.jobs,
            )
        ),
    )


def reasons_to_idle(report: MinerReport, facts: MinerFacts) -> tuple[str, list[Reason]]:
    """Why a miner gets no jobs, or no more of them: the sentence, then all reasons, the decisive first."""
    first, begins = _decisive(report, facts), "Gets no jobs"
    if facts.running and facts.state == "ONLINE":
        begins = "Gets no more jobs" if first.code is ReasonCode.ALL_BUSY else "Works"
    reasons = [first]
    for name, jobs in report.failures:
        text = f"{jobs} of {report.of_its_services} queued jobs of its services {_NEED[name]}"
        reasons.append(Reason(ReasonCode.CONSTRAINT_UNMET, text, {"jobs": jobs}, name))
    return f"{begins}: {first.text}.", reasons


def _decisive(report: MinerReport, facts: MinerFacts) -> Reason:
    if facts.state == "OFFLINE":
        return Reason(ReasonCode.OFFLINE, "its session is over; it has to register again")
    if facts.state == "DRAINING":
        return Reason(ReasonCode.DRAINING, "it drains: it finishes its jobs and takes no new ones")
    if facts.quarantine == "by hand":
        return Reason(ReasonCode.QUARANTINED, "its key's miners are in quarantine, which an admin ends")
    if facts.running >= facts.concurrency:
        counts = {"slots": facts.concurrency, "busy_slots": facts.running}
        many = f"all of its {facts.concurrency} slots are" if facts.concurrency > 1 else "its only slot is"
        return Reason(ReasonCode.ALL_BUSY, f"{many} busy", counts)
    if not report.of_its_services:
        text = "no job of its services is queued" if report.queued else "no job is queued"
        return Reason(ReasonCode.NOTHING_QUEUED, text, {"queued_jobs": 0})
    if not report.fitting:
        text = f"none of the {report.of_its_services} queued jobs of its services fits it"
        if report.improvements and (best := _best(report.improvements)):
            text += f"; {best}"
        return Reason(ReasonCode.CONSTRAINT_UNMET, text, {"queued_jobs": report.of_its_services})
    counts = {"fitting_jobs": report.fitting}
    if facts.quarantine:
        text = "its key's miners are in quarantine: one probe job at a time, and completing one ends it"
        return Reason(ReasonCode.QUARANTINED, text, counts)
    if not facts.may_take:
        text = "its key's miners use all slots that they have earned; each completed job adds one"
        return Reason(ReasonCode.SLOTS_NOT_EARNED, text, counts)
    text = f"{report.fitting} queued jobs fit it; offers come within moments"
    return Reason(ReasonCode.OFFER_DUE, text, counts)


def improvement_text(improvement: Improvement, *, names: bool = True) -> str:
    """The improvement as a sentence. `names`: with models, regions and services of other people's jobs."""
    to, jobs = improvement.to, improvement.jobs
    more = f"{jobs} more job{'s' if jobs != 1 else ''} would fit"
    match improvement.constraint:
        case "min_vram_gb":
            return f"{more} with {to} GB on one GPU."
        case "cuda":
            return f"{more} with CUDA {to}."
        case "max_price":
            return f"{more} for {to} a unit."
        case "models":
            shown = ", ".join(to) if isinstance(to, tuple) and names else ""
            return f"{more} with the models {shown}." if shown else f"{more} with other models."
        case "region" | "service":
            kind = improvement.constraint
            other = f"{kind} {to}" if names else f"another {kind}"
            return f"{more} {'in' if kind == 'region' else 'with'} {other}."
        case _:
            return f"{more} with another GPU."


def _best(improvements: Sequence[Improvement]) -> str:
    """What would help first; without names, as the sentence is for the miner, too."""
    own = [i for i in improvements if i.constraint != "service"]
    return improvement_text(own[0], names=False).rstrip(".") if own else ""


def _improvements(
    name: ConstraintName, has: Capabilities, missed: Sequence[QueuedClass]
) -> list[Improvement]:
    """`missed`: the classes that fail this constraint only."""
    match name:
        case "min_vram_gb":
            least = min(c.needs.min_vram_gb or 1 for c in missed)
            return [Improvement(name, least, _sum(c for c in missed if (c.needs.min_vram_gb or 1) <= least))]
        case "cuda":
            asked = [(c, version_key(c.needs.cuda), c.needs.cuda) for c in missed if c.needs.cuda]
            _, first, text = min(asked, key=lambda item: item[1])
            return [Improvement(name, text, _sum(c for c, version, _ in asked if version <= first))]
        case "max_price":
            limits = [(c, limit) for c in missed if (limit := c.needs.max_price or c.needs.list_price)]
            highest = max((limit for _, limit in limits), key=Exact)
            return [Improvement(name, highest, _sum(c for c, li in limits if Exact(li) >= Exact(highest)))]
        case "models":
            have = set(map(same_label, has.models))
            lacks = [(tuple(sorted(set(map(same_label, c.needs.models)) - have)), c) for c in missed]
            return _most(name, lacks, covers=lambda to, lacked: set(lacked) <= set(to))
        case "region":
            return _most(name, [((c.needs.region or "").lower(), c) for c in missed])
        case "service":
            return _most(name, [(c.service, c) for c in missed])
        case _:
            return [Improvement(name, None, _sum(missed))]


def _most(
    name: ConstraintName,
    lacking: Sequence[tuple[_Lack, QueuedClass]],
    covers: Callable[[_Lack, _Lack], bool] = lambda to, lacked: to == lacked,
) -> list[Improvement]:
    """An improvement for each different lack, those that find the most jobs first."""
    distinct = dict.fromkeys(lack for lack, _ in lacking)
    found = [Improvement(name, to, _sum(c for lack, c in lacking if covers(to, lack))) for to in distinct]
    return sorted(found, key=lambda i: -i.jobs)[:MAX_IMPROVEMENTS]


def _sum(classes: Iterable[QueuedClass]) -> int:
    return sum(c.queued for c in classes)


_NEED: Final[dict[ConstraintName, str]] = {
    "service": "need another service",
    "gpu": "need another GPU",
    "min_vram_gb": "need more memory on one GPU",
    "cuda": "need a newer CUDA",
    "models": "need models that it lacks",
    "region": "are for another region",
    "max_price": "pay less than it asks",
}
