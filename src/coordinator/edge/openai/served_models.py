"""Which models live miners offer now, for which service."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from coordinator.domain.errors import Code
from coordinator.domain.matching import Capabilities, Constraints, satisfies
from coordinator.edge.context import EdgeContext, monotonic
from coordinator.edge.http.problems import Problem

STALE_AFTER_S: Final = 1.0
SHOWN_MODELS: Final = 10
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+/-]{0,99}")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Miners with the same abilities; `since` is when the first of them came, in Unix milliseconds."""

    capabilities: Capabilities
    since: int


class ServedModels:
    """One look at the read models a second, however many requests ask; and one more before it says no."""

    def __init__(self, context: EdgeContext) -> None:
        self._context = context
        self._offerings: Sequence[ServedModel] = ()
        self._seen_at = float("-inf")
        self._looking = asyncio.Lock()

    async def now(self) -> Sequence[ServedModel]:
        """The abilities of the miners that are online, at most a second old."""
        return await self._look(STALE_AFTER_S)

    async def check(self, service: str, model: str) -> None:
        """Return if a live miner has this model for this service. Raises Problem (model_not_found)."""
        for stale_after in (STALE_AFTER_S, 0.0):
            offerings = await self._look(stale_after)
            if _has(offerings, service, model):
                return
        there = models_of(offerings, [service])
        shown = ", ".join(list(there)[:SHOWN_MODELS]) + (", …" if len(there) > SHOWN_MODELS else "")
        # What was sent is quoted only where it looks like a model's name.
        name = f"`{model}`" if _NAME.fullmatch(model) else "that was asked for"
        raise Problem(
            Code.NO_ELIGIBLE_MINER,
            f"no live miner offers the model {name} for {service}; there is: {shown or 'none'}",
            status=404,
            members={"param": "model"},
        )

    async def _look(self, stale_after: float) -> Sequence[ServedModel]:
        async with self._looking:
            if monotonic() - self._seen_at > stale_after:
                rows = await self._context.read("read_offerings")
                self._offerings = [
                    ServedModel(Capabilities.model_validate_json(row["capabilities_json"]), row["since"])
                    for row in rows
                ]
                self._seen_at = monotonic()
            return self._offerings


def models_of(offerings: Sequence[ServedModel], services: Collection[str]) -> dict[str, int]:
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


def _has(offerings: Sequence[ServedModel], service: str, model: str) -> bool:
    try:
        wants = Constraints(models=(model,))
    except ValidationError:
        return False  # no miner can have a model with such a name
    return any(satisfies(service, wants, offering.capabilities) for offering in offerings)
