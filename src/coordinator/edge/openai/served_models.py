"""The models that live miners offer now, by service."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from pydantic import ValidationError

from coordinator.domain.errors import Code
from coordinator.domain.matching.needs import Constraints, satisfies
from coordinator.edge.http.problems import Problem
from coordinator.edge.state.offerings import STALE_AFTER_S, Offering, Offerings
from coordinator.services.image_generation import SERVICE as IMAGE_GENERATION
from coordinator.services.image_generation import VRAM_GB as DIFFUSION_MODELS
from coordinator.services.model_names import is_model_name
from coordinator.services.video_transcoding import ENCODER_MODELS

SHOWN_MODELS: Final = 10
IMAGES: Final = IMAGE_GENERATION.id


async def check_model(offerings: Offerings, service: str, model: str) -> None:
    """Return if a live miner has this model for this service. Raises Problem (model_not_found).

    Offerings are read anew before a refusal.
    """
    found: Sequence[Offering] = ()
    for stale_after in (STALE_AFTER_S, 0.0):
        found = await offerings.get(stale_after)
        if _has(found, service, model):
            return
    if service in offerings.retired:
        raise Problem(
            Code.NO_ELIGIBLE_MINER,
            f"the service {service} is retired: none of its models can be asked for",
            status=404,
            members={"param": "model"},
        )
    offered = models_of(found, [service])
    shown = ", ".join(list(offered)[:SHOWN_MODELS]) + (", …" if len(offered) > SHOWN_MODELS else "")
    # A sent text is quoted only if it looks like a model's name.
    name = f"the model `{model}`" if is_model_name(model) else "this model"
    raise Problem(
        Code.NO_ELIGIBLE_MINER,
        f"no live miner offers {name} for {service}; offered models: {shown or 'none'}",
        status=404,
        members={"param": "model"},
    )


def models_of(offerings: Sequence[Offering], services: Collection[str]) -> dict[str, int]:
    """The models of miners that run one of these services, sorted, and since when (Unix milliseconds)."""
    found: dict[str, tuple[str, int]] = {}
    for offering in offerings:
        here = set(services) & set(offering.capabilities.services)
        for model in offering.capabilities.models:
            if not any(can_ask(service, model) for service in here):
                continue
            # Matching ignores case, so each model has one name.
            name, since = found.get(model.lower(), (model, offering.since))
            found[model.lower()] = (min(name, model), min(since, offering.since))
    return dict(sorted(found.values()))


def can_ask(service: str, model: str) -> bool:
    """Whether a job of this service can ask for a model of this name."""
    if model.startswith(ENCODER_MODELS):
        return False
    return model.lower() in DIFFUSION_MODELS if service == IMAGES else is_model_name(model)


def _has(offerings: Sequence[Offering], service: str, model: str) -> bool:
    if not can_ask(service, model):
        return False
    try:
        wants = Constraints(models=(model,))
    except ValidationError:
        return False  # no miner can have a model with such a name
    return any(satisfies(service, wants, offering.capabilities) for offering in offerings)
