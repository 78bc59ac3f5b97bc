"""Which models live miners offer now, for which service."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from pydantic import ValidationError

from coordinator.domain.errors import Code
from coordinator.domain.matching import Constraints, satisfies
from coordinator.edge.http.problems import Problem
from coordinator.edge.state.offerings import STALE_AFTER_S, Offering, Offerings

SHOWN_MODELS: Final = 10
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+/-]{0,99}")


async def check_model(offerings: Offerings, service: str, model: str) -> None:
    """Return if a live miner has this model for this service. Raises Problem (model_not_found).

    Before it says no, it takes another look.
    """
    found: Sequence[Offering] = ()
    for stale_after in (STALE_AFTER_S, 0.0):
        found = await offerings.get(stale_after)
        if _has(found, service, model):
            return
    there = models_of(found, [service])
    shown = ", ".join(list(there)[:SHOWN_MODELS]) + (", …" if len(there) > SHOWN_MODELS else "")
    # What was sent is quoted only where it looks like a model's name.
    name = f"`{model}`" if _NAME.fullmatch(model) else "that was asked for"
    raise Problem(
        Code.NO_ELIGIBLE_MINER,
        f"no live miner offers the model {name} for {service}; there is: {shown or 'none'}",
        status=404,
        members={"param": "model"},
    )


def models_of(offerings: Sequence[Offering], services: Collection[str]) -> dict[str, int]:
    """The models of miners that run one of these services, sorted, and since when (Unix milliseconds)."""
    found: dict[str, tuple[str, int]] = {}
    for offering in offerings:
        if not set(services) & set(offering.capabilities.services):
            continue
        for model in offering.capabilities.models:
            # Letter case does not count when jobs are matched: one name for each.
            name, since = found.get(model.lower(), (model, offering.since))
            found[model.lower()] = (min(name, model), min(since, offering.since))
    return dict(sorted(found.values()))


def _has(offerings: Sequence[Offering], service: str, model: str) -> bool:
    try:
        wants = Constraints(models=(model,))
    except ValidationError:
        return False  # no miner can have a model with such a name
    return any(satisfies(service, wants, offering.capabilities) for offering in offerings)
