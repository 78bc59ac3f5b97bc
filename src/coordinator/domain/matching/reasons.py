"""Why a queued job waits: one plain sentence, and every reason with a code, a text and counts.

Nothing here names a client, another job or a miner: the reasons may be shown to the job's client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from coordinator.domain.matching.gpus import ANY
from coordinator.domain.matching.job_report import Change, MatchReport, ProfileMiners, Relaxation
from coordinator.domain.matching.needs import ConstraintName

SHOWN_MODELS: Final = 5


class ReasonCode(StrEnum):
    """Why a job waits, or a miner idles. A code never changes its meaning."""

    NO_MINER = "NO_MINER"  # no miner is online
    SERVICE_NOT_RUN = "SERVICE_NOT_RUN"  # miners are online, and none of them runs the service
    CONSTRAINT_UNMET = "CONSTRAINT_UNMET"  # `constraint` says which one, `counts` how often
    QUARANTINED = "QUARANTINED"
    DRAINING = "DRAINING"
    ALL_BUSY = "ALL_BUSY"  # every slot that fits has a job
    SLOTS_NOT_EARNED = "SLOTS_NOT_EARNED"  # slots are free, and the standing allows no more of them
    AVOIDED = "AVOIDED"  # earlier attempts failed there, so that others come first
    OFFERED = "OFFERED"  # on a work queue, and not claimed yet
    OFFER_DUE = "OFFER_DUE"  # a slot is free: the offer is about to be made, or was made a moment ago
    PAYLOAD_ERASED = "PAYLOAD_ERASED"
    PLACE = "PLACE"  # the client's own jobs before this one
    EXPIRES = "EXPIRES"
    # Of miners only:
    OFFLINE = "OFFLINE"
    NOTHING_QUEUED = "NOTHING_QUEUED"  # no job of its services waits


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason. `counts` are numbers of miners unless their names say otherwise."""

    code: ReasonCode
    text: str
    counts: dict[str, int] = field(default_factory=dict)
    constraint: ConstraintName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """An offer on a work queue."""

    profile: str
    seconds: int
    """Since it was published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedFacts:
    """The facts about a queued job beside the match."""

    expires_in: int
    """Seconds."""
    own_before: int = 0
    """Jobs of the same client and class that go first."""
    own_before_at_least: bool = False
    """Whether there may be more of them: the count is bounded."""
    payload_erased: bool = False
    tried: frozenset[str] = frozenset()
    """The principals whose attempts ended without a result."""
    offered: Offered | None = None
    """Known to the process that makes the offers, and to no other."""


def why_unmatched(report: MatchReport) -> str:
    """Why no miner can be found, and what would help: a clause without its full stop."""
    if report.fitting:
        return "; ".join([_set_apart_text(report.fitting, report.service), *_help(report)])
    if not report.online:
        return "no miner is online"
    if not report.running_service:
        if report.online == 1:
            return f"the only miner online does not run the service {report.service}"
        return f"none of the {report.online} miners online runs the service {report.service}"
    if report.relaxations:
        first = report.relaxations[0]
        return "; ".join([f"no miner {_has(first.constraint, first.asked)} for it", *_help(report)])
    unmet = [f for f in report.failures if f.constraint != "service"]
    if not unmet:
        return f"the miners that run {report.service} get no jobs of it for now"
    parts = [f"{f.miners} of {report.running_service} {_lack(f.constraint, report)}" for f in unmet]
    return f"no miner has all that it needs: {', '.join(parts)}; no single change would find one"


def reasons_to_wait(report: MatchReport, facts: QueuedFacts) -> tuple[str, list[Reason]]:
    """Why a queued job waits: the sentence, then all reasons, the decisive one first."""
    reasons = _decisive(report, facts)
    sentence = f"Waits: {reasons[0].text}."
    if not report.found:
        reasons += _unmet(report)
    reasons += _set_apart(report, {reason.code for reason in reasons})
    if facts.tried and not any(r.code is ReasonCode.AVOIDED for r in reasons):
        reasons.append(Reason(ReasonCode.AVOIDED, _avoids(facts), {"principals": len(facts.tried)}))
    more = "at least " if facts.own_before_at_least else ""
    if facts.own_before:
        text = f"{more}{facts.own_before} of your jobs with the same needs go first"
        reasons.append(Reason(ReasonCode.PLACE, text, {"own_jobs_before": facts.own_before}))
    reasons.append(
        Reason(ReasonCode.EXPIRES, f"it expires in {_span(facts.expires_in)}", {"seconds": facts.expires_in})
    )
    return sentence, reasons


def _decisive(report: MatchReport, facts: QueuedFacts) -> list[Reason]:
    if facts.payload_erased:
        text = "its payload was erased, so that no miner can run it; submit it again"
        return [Reason(ReasonCode.PAYLOAD_ERASED, text)]
    if not report.found:
        return [_not_found(report)]
    service = report.service
    able = [profile for profile in report.fitting if profile.found(service)]
    slots = sum(p.slots for p in able)
    busy = sum(min(p.busy, p.slots) for p in able)
    counts = {"miners": report.found, "slots": slots, "busy_slots": busy}
    if facts.offered is not None:
        text = f"offered {_span(facts.offered.seconds)} ago, and not claimed yet"
        return [Reason(ReasonCode.OFFERED, text, {"seconds": facts.offered.seconds})]
    if busy >= slots:
        all_ = "the only miner" if report.found == 1 else f"all {report.found} miners"
        text = f"{all_} that can run it {_are(report.found)} busy ({busy} of {slots} slots)"
        return [Reason(ReasonCode.ALL_BUSY, text, counts)]
    if facts.tried and all(p.principal in facts.tried for p in able if p.busy < p.slots):
        return [Reason(ReasonCode.AVOIDED, _avoids(facts), {"principals": len(facts.tried)})]
    unearned = [p for p in able if p.busy < p.slots and not p.may_take(service)]
    if unearned and all(not p.may_take(service) for p in able if p.busy < p.slots):
        text = "slots are free at miners that have not earned them yet: each completed job adds one"
        return [Reason(ReasonCode.SLOTS_NOT_EARNED, text, counts)]
    text = f"{slots - busy} of {slots} slots that fit are free; it is offered within moments"
    return [Reason(ReasonCode.OFFER_DUE, text, counts)]


def _not_found(report: MatchReport) -> Reason:
    text = why_unmatched(report)
    counts = {"online": report.online, "running_service": report.running_service}
    if report.fitting:
        barred = any(p.online for p in report.fitting)
        return Reason(ReasonCode.QUARANTINED if barred else ReasonCode.DRAINING, text, counts)
    if not report.online:
        return Reason(ReasonCode.NO_MINER, text, counts)
    if not report.running_service:
        return Reason(ReasonCode.SERVICE_NOT_RUN, text, counts, "service")
    if report.relaxations:
        first = report.relaxations[0]
        return Reason(ReasonCode.CONSTRAINT_UNMET, text, {**counts, "would": first.miners}, first.constraint)
    return Reason(ReasonCode.CONSTRAINT_UNMET, text, counts)


def _unmet(report: MatchReport) -> list[Reason]:
    """One reason for each constraint that miners of the service fail."""
    return [
        Reason(
            ReasonCode.CONSTRAINT_UNMET,
            f"{f.miners} of {report.running_service} {_lack(f.constraint, report)}",
            {"miners": f.miners, "alone": f.alone, "running_service": report.running_service},
            f.constraint,
        )
        for f in report.failures
        if f.constraint != "service"
    ]


def _set_apart(report: MatchReport, said: set[ReasonCode]) -> list[Reason]:
    """The miners that fit, and are draining or in quarantine."""
    reasons = []
    draining = sum(p.draining for p in report.fitting)
    if draining and ReasonCode.DRAINING not in said:
        text = f"{_miners(draining)} would fit and {_are(draining)} draining"
        reasons.append(Reason(ReasonCode.DRAINING, text, {"miners": draining}))
    barred = sum(p.online for p in report.fitting if p.quarantine(report.service))
    if barred and ReasonCode.QUARANTINED not in said:
        text = f"{_miners(barred)} would fit and {_are(barred)} in quarantine"
        reasons.append(Reason(ReasonCode.QUARANTINED, text, {"miners": barred}))
    return reasons


def _help(report: MatchReport) -> list[str]:
    """The first relaxation of each constraint: "12 would with 16 GB, 2 in region us"."""
    best = {r.constraint: r for r in reversed(report.relaxations)}
    ordered = [r for r in report.relaxations if best[r.constraint] is r]
    parts = [f"{r.miners} {'' if n else 'would '}{_with(r)}" for n, r in enumerate(ordered)]
    return [", ".join(parts)] if parts else []


def _set_apart_text(fitting: Sequence[ProfileMiners], service: str) -> str:
    barred = sum(p.online for p in fitting if p.quarantine(service) == "by hand")
    draining = sum(p.draining for p in fitting)
    parts = [f"{barred} in quarantine"] if barred else []
    parts += [f"{draining} draining"] if draining else []
    return f"every miner that fits is set apart: {', '.join(parts)}"


def _avoids(facts: QueuedFacts) -> str:
    return "earlier attempts ended without a result, so that it waits up to half a minute for another miner"


# --- phrases -----------------------------------------------------------------------------------------------
def text_of(relaxation: Relaxation) -> str:
    """The relaxation as a sentence."""
    return f"{_miners(relaxation.miners)} would run it {_with(relaxation)}."


def _with(relaxation: Relaxation) -> str:
    """The change, after "12 would"."""
    to, asked = relaxation.to, relaxation.asked
    match relaxation.constraint:
        case "min_vram_gb":
            return "without a limit of memory" if to is None else f"with {to} GB"
        case "gpu":
            if to is None:
                return "without a GPU"
            return "with any GPU" if to == ANY else f"with any GPU of {to}"
        case "cuda":
            return "without CUDA" if to is None else f"with CUDA {to}"
        case "models":
            kept, before = set(_labels(to)), _labels(asked)
            if kept <= set(before):
                return f"without {_models([m for m in before if m not in kept])}"
            return f"with {_models(_labels(to))}"
        case "region":
            return "in any region" if to is None else f"in region {to}"
        case _:
            return f"for {to} a unit"


def _has(constraint: ConstraintName, asked: Change) -> str:
    """The need, after "no miner"."""
    match constraint:
        case "min_vram_gb":
            return f"has {asked} GB"
        case "gpu":
            return "has a GPU" if asked == ANY else f"has a GPU {asked}"
        case "cuda":
            return f"has CUDA {asked}"
        case "models":
            return f"has {_models(_labels(asked))}"
        case "region":
            return f"is in region {asked}"
        case _:
            return f"takes {asked} a unit"


def _lack(constraint: ConstraintName, report: MatchReport) -> str:
    """The fault, after "3 of 5"."""
    wants = report.wants
    match constraint:
        case "min_vram_gb":
            return f"have less than {wants.min_vram_gb} GB on one GPU"
        case "gpu":
            return "have no GPU" if wants.gpu == ANY else f"have no GPU {wants.gpu}"
        case "cuda":
            return f"have no CUDA {wants.cuda} or newer"
        case "models":
            names = [model for model, _ in report.models]
            shown = ", ".join(names[:SHOWN_MODELS]) + (", …" if len(names) > SHOWN_MODELS else "")
            return f"lack {_models(wants.models)} (models there are: {shown or 'none'})"
        case "region":
            return f"are not in region {wants.region}"
        case "max_price":
            return f"ask more than {wants.max_price or report.list_price} a unit"
        case _:
            return f"do not run {report.service}"


def _labels(value: Change) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def _models(names: Sequence[str]) -> str:
    return f"the model{'s' if len(names) != 1 else ''} {', '.join(names)}"


def _miners(count: int) -> str:
    return f"{count} miner{'s' if count != 1 else ''}"


def _are(count: int) -> str:
    return "are" if count != 1 else "is"


def _span(seconds: int) -> str:
    """A span of time, such as "90 seconds" or "15 minutes"."""
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s"
    return f"{max(0, seconds)} second{'s' if seconds != 1 else ''}"
