"""Matching: the needs of a job against the capabilities of a miner, as pure functions.

Jobs with equal needs form a *class*, miners with equal capabilities a *profile*. `unmet` compares a class
with a profile and gives the reasons against the match. Callers keep the answer per pair, so the cost does not
grow with the number of jobs or miners.
"""

from __future__ import annotations

import functools
import hashlib
import json
from decimal import Decimal as Exact
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints, field_validator

from coordinator.domain.matching.gpus import ANY, MAX_LABEL, AnyOrLabel, Label, matches, vendor_in, words_of
from coordinator.domain.matching.gpus import Gpu as Gpu
from coordinator.domain.matching.units import COUNTED, CountedUnit
from coordinator.domain.messages import Decimal, ServiceId

BYTES_PER_GB = 10**9  # as vendors count: a "24 GB" card reports 24,564 MiB
BYTES_PER_MIB = 2**20  # as drivers count
NOMINAL_SHARE = 0.98  # with error correction on, the driver reports a little less than the nominal memory

Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}(\.[0-9]{1,4}){0,3}$")]
Region = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$")]


class Constraints(BaseModel):
    """The needs of a job. A missing field asks for nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    gpu: AnyOrLabel | None = None
    """A vendor (nvidia, amd, intel, apple), a model ("rtx-4090"), or "any" or true (some GPU)."""
    cuda: Version | None = None
    """The lowest CUDA version, compared as a version: 12.10 is newer than 12.9."""
    min_vram_gb: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    """Memory of a single GPU, in GB of 10^9 bytes."""
    models: Annotated[tuple[Label, ...], Field(max_length=32), FailFast()] = ()
    """Models that the miner must have, all of them. Case does not matter."""
    region: Region | None = None
    max_price: Decimal | None = None
    """The highest price that the client pays for one unit (one GPU second, or what the service counts); the
    default is the list price."""

    @field_validator("gpu")
    @classmethod
    def _names_a_gpu(cls, gpu: str | None) -> str | None:
        # The normalised name goes into events, and must pass validation when they are read.
        if gpu is not None and not 1 <= len("-".join(words_of(gpu))) <= MAX_LABEL:
            raise ValueError(f"must be a vendor, a model or any, in letters and digits, {MAX_LABEL} at most")
        return gpu


class Needs(Constraints):
    """The constraints of a class, with the list price of its jobs, and the unit that it is a price of."""

    list_price: Decimal | None = None
    unit: CountedUnit | None = None


class UnitPrice(BaseModel):
    """A miner's price of one counted unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    unit: CountedUnit
    amount: Decimal


class Capabilities(BaseModel):
    """The capabilities of a miner. Only `services` is required: the miner serves these and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    services: Annotated[tuple[ServiceId, ...], Field(min_length=1, max_length=100), FailFast()]
    gpus: Annotated[tuple[Gpu, ...], Field(max_length=64), FailFast()] = ()
    cuda: Version | None = None
    models: Annotated[tuple[Label, ...], Field(max_length=500), FailFast()] = ()
    region: Region | None = None
    price: Decimal | None = None
    """The price of one GPU second. None takes the registry's list price, and so no job with a lower limit."""
    prices: Annotated[tuple[UnitPrice, ...], Field(max_length=len(COUNTED)), FailFast()] = ()
    """The prices of counted units, for services that are billed by them; the list price for others."""

    @field_validator("prices")
    @classmethod
    def _names_each_unit_once(cls, prices: tuple[UnitPrice, ...]) -> tuple[UnitPrice, ...]:
        if len({price.unit for price in prices}) < len(prices):
            raise ValueError("has one price for each unit")
        return prices


def _short_hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def normalise_constraints(constraints: Constraints) -> Constraints:
    """The same needs in one spelling, so that equal needs give equal classes."""
    gpu = "-".join(words_of(constraints.gpu)) if constraints.gpu else None
    return constraints.model_copy(
        update={
            "gpu": gpu,
            "cuda": _spell(constraints.cuda),
            "models": tuple(sorted({_lower(m) for m in constraints.models})),
            "region": constraints.region.lower() if constraints.region else None,
            "max_price": _plain(constraints.max_price),
        }
    )


def normalise_capabilities(capabilities: Capabilities) -> Capabilities:
    """The same capabilities in one spelling, so that equal miners of one principal share a profile."""
    return capabilities.model_copy(
        update={
            "services": tuple(sorted(set(capabilities.services))),
            "gpus": tuple(
                sorted(
                    (g.model_copy(update={"vendor": g.made_by}) for g in capabilities.gpus),
                    key=lambda g: (g.name, g.memory_mb, g.vendor or ""),
                )
            ),
            "cuda": _spell(capabilities.cuda),
            "models": tuple(sorted({_lower(m) for m in capabilities.models})),
            "region": capabilities.region.lower() if capabilities.region else None,
            "price": _plain(capabilities.price),
            "prices": tuple(
                sorted(
                    (p.model_copy(update={"amount": _plain(p.amount)}) for p in capabilities.prices),
                    key=lambda p: p.unit,
                )
            ),
        }
    )


class Wanted(NamedTuple):
    """The needs of a job, normalised, and their class."""

    job_class: str
    """20 hex digits over the service, the constraints, the list price, and its unit if that is counted."""
    constraints: Constraints
    """Normalised."""
    asked: str
    """20 hex digits over the service and the constraints alone: the request of the client."""


@functools.lru_cache(4096)
def wanted(
    service: str, constraints: Constraints, list_price: str | None = None, unit: CountedUnit | None = None
) -> Wanted:
    """The needs of a job for this service with these constraints; equal needs give equal classes.

    `list_price` and `unit`: those of the registry entry, once it is known; they decide which miners match.
    """
    normal = normalise_constraints(constraints)
    needs = [service, normal.model_dump(exclude_none=True)]
    asked = _short_hash(needs)
    if list_price is None:
        return Wanted(asked, normal, asked)
    counted = [] if unit is None else [unit]
    return Wanted(_short_hash([*needs, _plain(list_price), *counted]), normal, asked)


def profile_of(capabilities: Capabilities, principal: str) -> str:
    """The profile of a miner: 20 hex digits over its normalised capabilities and its principal's name.

    It names the work queue. Strangers don't share one, whatever they declare: offers that are taken and never
    claimed are then one principal's own, and nobody can take another's.
    """
    named = normalise_capabilities(capabilities).model_dump(exclude_none=True)
    if not named["prices"]:
        del named["prices"]
    for gpu in named["gpus"]:
        # A vendor that the name says adds nothing, so miners that leave it out share the profile.
        if gpu.get("vendor") == vendor_in(gpu["name"]):
            gpu.pop("vendor", None)
    return _short_hash([principal, named])


ConstraintName = Literal["service", "gpu", "min_vram_gb", "cuda", "models", "region", "max_price"]
"""A constraint by the name of its field; `service` stands for the service itself."""


class Unmet(NamedTuple):
    """One reason against a match."""

    constraint: ConstraintName
    """The constraint that fails. A miner without any card fails `gpu` if a GPU is asked for by name."""
    text: str


def failing(
    service: str,
    wants: Constraints,
    has: Capabilities,
    list_price: str | None = None,
    unit: CountedUnit | None = None,
) -> list[Unmet]:
    """The constraints that a miner with these capabilities fails; empty if it can serve this job.

    `list_price`: the limit of a client that names none, and the price of a miner that names none, of one
    `unit`.
    """
    reasons: list[Unmet] = []
    if service not in has.services:
        reasons.append(Unmet("service", f"does not run the service {service}"))
    reasons += _unmet_gpu(wants, has)
    if wants.cuda and (has.cuda is None or _version(has.cuda) < _version(wants.cuda)):
        reasons.append(Unmet("cuda", f"needs CUDA {wants.cuda} or newer, has {has.cuda or 'none'}"))
    if wants.models:
        have = {_lower(m) for m in has.models}
        missing = [m for m in wants.models if _lower(m) not in have]
        if missing:
            reasons.append(Unmet("models", f"lacks the models {', '.join(missing)}"))
    if wants.region and wants.region.lower() != (has.region or "").lower():
        reasons.append(Unmet("region", f"must be in region {wants.region}, is in {has.region or 'none'}"))
    asked = asked_price(has, unit)
    reasons += [Unmet("max_price", text) for text in _unmet_price(wants.max_price, asked, list_price)]
    return reasons


def unmet(
    service: str,
    wants: Constraints,
    has: Capabilities,
    list_price: str | None = None,
    unit: CountedUnit | None = None,
) -> list[str]:
    """The texts of `failing`: why a miner with these capabilities can't serve this job."""
    return [reason.text for reason in failing(service, wants, has, list_price, unit)]


def satisfies(
    service: str,
    wants: Constraints,
    has: Capabilities,
    list_price: str | None = None,
    unit: CountedUnit | None = None,
) -> bool:
    """Whether a miner with these capabilities can serve this job."""
    return not failing(service, wants, has, list_price, unit)


def asked_price(has: Capabilities, unit: CountedUnit | None) -> str | None:
    """The miner's own price of one unit (None: of a GPU second); None takes the list price."""
    if unit is None:
        return has.price
    return next((price.amount for price in has.prices if price.unit == unit), None)


def tightness(capabilities: Capabilities) -> tuple[int, int, int]:
    """Sort key of profiles, least capable first: work goes to the smallest miner that can do it."""
    memory = max((g.memory_mb for g in capabilities.gpus), default=0)
    return (memory, len(capabilities.gpus), len(capabilities.services) + len(capabilities.models))


def _unmet_price(max_price: str | None, asked: str | None, list_price: str | None) -> list[str]:
    limit = list_price if max_price is None else max_price
    price = list_price if asked is None else asked
    if limit is None or price is None or price == limit or Exact(price) <= Exact(limit):
        return []
    if asked is None:
        return [f"names no price and so asks the list price of {price} a unit, the limit is {limit}"]
    default = ", the list price" if max_price is None else ""
    return [f"asks {price} a unit, the limit is {limit}{default}"]


def _unmet_gpu(wants: Constraints, has: Capabilities) -> list[Unmet]:
    if wants.gpu is None and wants.min_vram_gb is None:
        return []
    if not has.gpus:
        return [Unmet("gpu" if wants.gpu else "min_vram_gb", "needs a GPU, has none")]
    cards = cards_for(wants.gpu, has)
    if not cards:
        has_names = ", ".join(sorted({g.label for g in has.gpus}))
        return [Unmet("gpu", f"needs GPU {wants.gpu}, has {has_names}")]
    largest = max(g.memory_mb for g in cards)
    if wants.min_vram_gb and not has_memory(largest, wants.min_vram_gb):
        return [Unmet("min_vram_gb", f"needs {wants.min_vram_gb} GB on one GPU, has {largest} MiB")]
    return []


def cards_for(gpu: str | None, has: Capabilities) -> list[Gpu]:
    """The miner's cards that a job with this `gpu` may use."""
    return [g for g in has.gpus if gpu is None or matches(gpu, g)]


def has_memory(memory_mb: int, gb: int) -> bool:
    """Whether a card of so many MiB counts as one of `gb` GB of 10^9 bytes."""
    return memory_mb * BYTES_PER_MIB >= gb * BYTES_PER_GB * NOMINAL_SHARE


def same_label(label: str) -> str:
    """The spelling by which models compare."""
    return _lower(label)


def version_key(version: str) -> tuple[int, ...]:
    """The key by which CUDA versions compare."""
    return _version(version)


def _lower(text: str) -> str:
    # Never longer than before ("İ" alone would be), so that a text that fits into a field still does.
    return text.replace("İ", "i").lower()


def _version(text: str) -> tuple[int, ...]:
    parts = [int(p) for p in text.split(".")]
    while parts and parts[-1] == 0:  # 12 and 12.0 are one version
        parts.pop()
    return tuple(parts)


def _spell(version: str | None) -> str | None:
    return None if version is None else ".".join(str(n) for n in _version(version)) or "0"


def _plain(number: str | None) -> str | None:
    """One spelling of a decimal number: 0.50 and 0.5 are one price."""
    if number is None:
        return None
    return number.rstrip("0").rstrip(".") if "." in number else number


def stronger(needs: Constraints, wishes: Constraints) -> Constraints:
    """Constraints that satisfy both the needs of the work and the additional wishes of its client.

    Raises ValueError if no miner could satisfy both: the client wishes for another GPU than the work needs.
    """
    return Constraints(
        gpu=_stronger_gpu(needs.gpu, wishes.gpu),
        cuda=max(filter(None, (needs.cuda, wishes.cuda)), key=_version, default=None),
        min_vram_gb=max(filter(None, (needs.min_vram_gb, wishes.min_vram_gb)), default=None),
        models=tuple(dict.fromkeys((*needs.models, *wishes.models))),
        region=wishes.region or needs.region,
        max_price=wishes.max_price or needs.max_price,
    )


def _stronger_gpu(needed: str | None, wished: str | None) -> str | None:
    if needed is None or wished is None:
        return wished or needed
    if words_of(wished) == [ANY] or words_of(wished) == words_of(needed):
        return needed
    if words_of(needed) != [ANY] and vendor_in(wished) != needed:
        raise ValueError(f"gpu: the work needs a GPU of {needed}")
    return wished
