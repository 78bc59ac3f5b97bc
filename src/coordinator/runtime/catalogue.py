"""Registers the catalogue's services at each start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from coordinator.application.ports import Gateway, Intent, LogUnavailable
from coordinator.domain.errors import Code
from coordinator.domain.messages import SYSTEM
from coordinator.domain.service import ServiceRegister, ServiceSpec
from coordinator.wire.answers import Refused

START_SECONDS = 60.0  # for all entries to get into the log
TRIES = 3  # in case the log is out of reach for a moment


class CatalogueRegistration:
    """A service whose whole work is its start."""

    def __init__(self, gateway: Gateway, catalogue: Callable[[], list[dict[str, Any]]]) -> None:
        self._gateway = gateway
        self._catalogue = catalogue

    async def start(self) -> None:
        """Register the catalogue's entries, and update the entries of an older catalogue.

        An entry that an admin has revised or retired stays unchanged. Raises LogUnavailable.
        """
        specs = [ServiceSpec.model_validate(entry) for entry in self._catalogue()]
        intents = [Intent(ServiceRegister(spec=spec), SYSTEM) for spec in specs]
        async with asyncio.timeout(START_SECONDS):
            for _ in range(TRIES):  # a repeat registers nothing twice
                answers = await self._gateway.handle(intents)
                if not any(isinstance(a, Refused) and a.code is Code.UNAVAILABLE for a in answers):
                    break
        for spec, answer in zip(specs, answers, strict=True):
            if isinstance(answer, Refused) and answer.code in (Code.UNAVAILABLE, Code.INTERNAL):
                raise LogUnavailable(f"{spec.id} could not be registered: {answer.detail}")

    async def stop(self) -> None:
        return None
