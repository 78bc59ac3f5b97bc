"""The match report: how many miners fail which constraint of a job, and the smallest changes that would help.

A *relaxation* drops or loosens exactly one constraint, by as little as finds a miner at all. The callers
bring the miners by profile, so that the cost does not grow with the number of miners. Two counts are kept
apart: miners that *fit*, whatever they do now, and miners that *can be found*, which are online and not
barred by an admin. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal as Exact
from typing import Final, Literal, NamedTuple

from coordinator.domain.matching.gpus import ANY, vendor_in, words_of
from coordinator.domain.matching.needs import (
    BYTES_PER_GB,
    BYTES_PER_MIB,
    Capabilities,
    ConstraintName,
    Constraints,
    Unmet,
    asked_price,
    cards_for,
    failing,
    has_memory,
    same_label,
    version_key,
)
from coordinator.domain.matching.units import CountedUnit

MAX_ALTERNATIVES: Final = 10
"""Other models, or other regions, in one report."""

Change = str | int | tuple[str, ...] | None
"""The value of a constraint; None: not asked for."""
Quarantine = Literal["", "probes", "by hand"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileMiners:
    """The live miners of one profile."""

    profile: str
    principal: str
    capabilities: Capabilities
    online: int
    """Miners that take new work."""
    draining: int = 0
    slots: int = 0
    """The registered slots of the miners online."""
    busy: int = 0
    """The attempts that these hold."""
    quarantines: dict[str, Quarantine] = field(default_factory=dict)
    """By service, "" for every service: the quarantines of the principal."""

    earned: dict[str, int] = field(default_factory=dict)
    """By service: the slots that the principal has earned, less those that it uses; absent if unlimited."""

    def may_take(self, service: str) -> bool:
        """Whether the principal has earned a slot more."""
        return self.earned.get(service, 1) > 0

    def quarantine(self, service: str) -> Quarantine:
        """The principal's quarantine for this service. One for every service has no probes."""
        return "by hand" if self.quarantines.get("") else self.quarantines.get(service, "")

    def found(self, service: str) -> int:
        """The miners that may get a job of this service, now or once they are free."""
        return 0 if self.quarantine(service) == "by hand" else self.online


class Relaxation(NamedTuple):
    """A change of one constraint that would find miners."""

    constraint: ConstraintName
    asked: Change
    to: Change
    """None: the constraint is dropped."""
    miners: int
    """The miners that can be found with it."""
    wants: Constraints
    """All constraints after the change."""


class Failure(NamedTuple):
    """How many miners fail a constraint."""

    constraint: ConstraintName
    miners: int
    alone: int
    """Of these, the ones that fail nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchReport:
    """One class against all live profiles."""

    service: str
    wants: Constraints
    list_price: str | None
    unit: CountedUnit | None
    """Of the list price; None for GPU seconds."""
    online: int
    """Miners online, of any service."""
    running_service: int
    """Of these, the ones that run the service."""
    compared: tuple[tuple[ProfileMiners, tuple[Unmet, ...]], ...]
    """Every profile with the constraints that it fails."""
    fitting: tuple[ProfileMiners, ...]
    """The profiles that satisfy all constraints, also of draining or quarantined miners."""
    failures: tuple[Failure, ...]
    """By constraint, of the miners online; `service` for those that don't run it, others of those that do."""
    relaxations: tuple[Relaxation, ...]
    """Empty if a miner can be found as it is. First those that keep a constraint, by the miners they find."""
    models: tuple[tuple[str, int], ...]
    """The models of the miners that run the service, each with their number, the most frequent first."""

    @property
    def found(self) -> int:
        """The miners that can be found."""
        return sum(profile.found(self.service) for profile in self.fitting)


def match_report(
    service: str,
    wants: Constraints,
    list_price: str | None,
    fleet: Iterable[ProfileMiners],
    unit: CountedUnit | None = None,
) -> MatchReport:
    """The report on a job's needs against these live profiles. `list_price` and `unit` as in `failing`."""
    profiles = list(fleet)
    fitting: list[ProfileMiners] = []
    failed: Counter[ConstraintName] = Counter()
    alone: Counter[ConstraintName] = Counter()
    compared: list[tuple[ProfileMiners, tuple[Unmet, ...]]] = []
    for profile in profiles:
        reasons = failing(service, wants, profile.capabilities, list_price, unit)
        compared.append((profile, tuple(reasons)))
        names = [reason.constraint for reason in reasons]
        if not names:
            fitting.append(profile)
        elif "service" in names:
            names = ["service"]  # for the others, its further faults are beside the point
        for name in names:
            failed[name] += profile.online
            alone[name] += profile.online if len(names) == 1 else 0
    able = [p for p in profiles if p.found(service) and service in p.capabilities.services]
    found = any(profile.found(service) for profile in fitting)
    models: Counter[str] = Counter()
    for profile in profiles:
        if service in profile.capabilities.services:
            models.update(dict.fromkeys(map(same_label, profile.capabilities.models), profile.online))
    return MatchReport(
        service=service,
        wants=wants,
        list_price=list_price,
        unit=unit,
        online=sum(p.online for p in profiles),
        running_service=sum(p.online for p in profiles if service in p.capabilities.services),
        compared=tuple(compared),
        fitting=tuple(fitting),
        failures=tuple(Failure(name, count, alone[name]) for name, count in failed.most_common() if count),
        relaxations=() if found else tuple(_relaxations(service, wants, list_price, unit, able)),
        models=tuple(sorted(((m, n) for m, n in models.items() if n), key=lambda item: (-item[1], item[0]))),
    )


Priced = tuple[str | None, CountedUnit | None]
"""A list price, and its unit."""


def _relaxations(
    service: str,
    wants: Constraints,
    list_price: str | None,
    unit: CountedUnit | None,
    able: Sequence[ProfileMiners],
) -> list[Relaxation]:
    """The smallest relaxations of each constraint. `able`: the profiles with miners that can be found."""

    def applied(name: ConstraintName, to: Change, near: Sequence[ProfileMiners]) -> Relaxation:
        relaxed = wants.model_copy(update={name: to})
        fit = [p for p in near if not failing(service, relaxed, p.capabilities, list_price, unit)]
        asked = (wants.max_price or list_price) if name == "max_price" else getattr(wants, name)
        return Relaxation(name, asked, to, sum(p.found(service) for p in fit), relaxed)

    found: list[Relaxation] = []
    for name, ways in _WAYS.items():
        # The profiles that fail nothing but this constraint, whatever it would have to be.
        dropped = wants.model_copy(update={name: () if name == "models" else None})
        near = [
            profile
            for profile in able
            if {r.constraint for r in failing(service, dropped, profile.capabilities, list_price, unit)}
            <= {name}
        ]
        if near:
            changes = ways(wants, (list_price, unit), [profile.capabilities for profile in near])
            found += [r for r in (applied(name, to, near) for to in changes) if r.miners]
    # To give up a constraint helps less than to find miners that meet it in part.
    return sorted(found, key=lambda r: (not r.to, -r.miners))


# --- the smallest change of each constraint, given the miners that fail nothing else ------------------------
def _less_memory(wants: Constraints, _: Priced, close: Sequence[Capabilities]) -> list[Change]:
    if wants.min_vram_gb is None:
        return []
    sizes = [gpu.memory_mb for has in close for gpu in cards_for(wants.gpu, has)]
    # A card below 1 GB satisfies no limit at all, and neither does a miner without a card.
    return [nominal_gb(max(sizes)) or None] if sizes else [None]


def nominal_gb(memory_mb: int) -> int:
    """The highest `min_vram_gb` that a card of so many MiB satisfies."""
    gb = memory_mb * BYTES_PER_MIB // BYTES_PER_GB
    while has_memory(memory_mb, gb + 1):
        gb += 1
    return gb


def _any_card(wants: Constraints, _: Priced, close: Sequence[Capabilities]) -> list[Change]:
    if wants.gpu is None:
        return []
    vendor = vendor_in(wants.gpu)
    wider: list[Change] = []
    if vendor and words_of(wants.gpu) != [vendor]:
        wider.append(vendor)
    if words_of(wants.gpu) != [ANY]:
        wider.append(ANY)
    for gpu in wider:
        assert isinstance(gpu, str)
        if any(_has_card(gpu, wants.min_vram_gb, capabilities) for capabilities in close):
            return [gpu]
    return [None]


def _has_card(gpu: str, gb: int | None, has: Capabilities) -> bool:
    return any(gb is None or has_memory(card.memory_mb, gb) for card in cards_for(gpu, has))


def _older_cuda(wants: Constraints, _: Priced, close: Sequence[Capabilities]) -> list[Change]:
    if wants.cuda is None:
        return []
    versions = [has.cuda for has in close if has.cuda]
    return [max(versions, key=version_key) if versions else None]


def _other_models(wants: Constraints, _: Priced, close: Sequence[Capabilities]) -> list[Change]:
    """Without the fewest of the models, and with another one, which is present, in their place."""
    if not wants.models:
        return []
    sets = [{same_label(m) for m in has.models} for has in close]
    kept = [tuple(m for m in wants.models if same_label(m) in have) for have in sets]
    most = max(map(len, kept))
    smallest = sorted({keeps for keeps in kept if len(keeps) == most})[:MAX_ALTERNATIVES]
    instead: Counter[tuple[str, ...]] = Counter()
    for keeps, have in zip(kept, sets, strict=True):
        if len(keeps) == most:
            instead.update((*keeps, model) for model in have - set(map(same_label, keeps)))
    others = [models for models, _count in sorted(instead.items(), key=lambda i: (-i[1], i[0]))]
    return [*smallest, *others[:MAX_ALTERNATIVES]]


def _other_region(wants: Constraints, _: Priced, close: Sequence[Capabilities]) -> list[Change]:
    """Each region with such miners, and anywhere if that is more than one of them."""
    if wants.region is None:
        return []
    there = Counter(has.region.lower() if has.region else None for has in close)
    regions: list[Change] = [region for region, _ in there.most_common() if region]
    return [*regions[:MAX_ALTERNATIVES], *([] if len(there) == 1 and regions else [None])]


def _higher_price(wants: Constraints, priced: Priced, close: Sequence[Capabilities]) -> list[Change]:
    list_price, unit = priced
    limit = wants.max_price if wants.max_price is not None else list_price
    if limit is None:
        return []
    prices = [asked_price(has, unit) or list_price for has in close]
    asked = [price for price in prices if price is not None]
    return [min(asked, key=Exact)] if asked else []


_WAYS: Final[dict[ConstraintName, Callable[[Constraints, Priced, Sequence[Capabilities]], list[Change]]]] = {
    "min_vram_gb": _less_memory,
    "gpu": _any_card,
    "cuda": _older_cuda,
    "models": _other_models,
    "region": _other_region,
    "max_price": _higher_price,
}
