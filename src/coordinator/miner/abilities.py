"""What a miner can really do: which of its executors work here, and which models they have.

Checked at the start, and again while it runs where that can change by itself (`watched` executors: engines).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import structlog

from coordinator.miner.executors.base import Executor

MAX_MODELS = 500
"""As many as can be registered; the first ones in the alphabet are kept."""


class Abilities:
    """The executors that work, by service (`executors`), and why the others do not (`problems`)."""

    def __init__(self, installed: Mapping[str, Executor], models: Iterable[str] = ()) -> None:
        """`models` are the miner's own, which no executor has to report."""
        self.executors: dict[str, Executor] = {}
        self.problems: dict[str, str] = {}
        self._installed = dict(installed)
        self._own_models = tuple(models)
        self._models: dict[int, tuple[str, ...]] = {}
        self._checking = asyncio.Lock()
        self._checked = False
        self._log = structlog.get_logger()

    @property
    def services(self) -> tuple[str, ...]:
        """The services that this miner runs now, sorted."""
        return tuple(sorted(self.executors))

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that is here now: the miner's own, and what its executors report. Sorted."""
        found = set(self._own_models)
        for executor in self.executors.values():
            found.update(self._models.get(id(executor), ()))
        return tuple(sorted(found)[:MAX_MODELS])

    @property
    def can_change(self) -> bool:
        """Whether a check while running can find anything new."""
        return any(_watched(executor) for executor in self._installed.values())

    async def check(self) -> None:
        """Look at every executor."""
        async with self._checking:
            await self._check(self._installed)
            self._checked = True

    async def check_again(self) -> bool:
        """Look at the watched ones again: whether services or models are others than before."""
        async with self._checking:
            before = (self.services, self.models)
            await self._check({s: e for s, e in self._installed.items() if _watched(e)})
            return before != (self.services, self.models)

    async def _check(self, among: Mapping[str, Executor]) -> None:
        different = {id(executor): executor for executor in among.values()}
        problems = dict(
            zip(different, await asyncio.gather(*map(_problem_of, different.values())), strict=True)
        )
        for service, executor in among.items():
            problem = problems[id(executor)]
            if problem is None:
                self._models[id(executor)] = tuple(getattr(executor, "models", ()))
                if self.problems.pop(service, None) is not None:
                    self._log.info("service_available", service=service)
                self.executors[service] = executor
            else:
                self.executors.pop(service, None)
                # At the start the program tells all of them at once.
                if self._checked and self.problems.get(service) != problem:
                    self._log.warning("service_unavailable", service=service, reason=problem)
                self.problems[service] = problem


def _watched(executor: Executor) -> bool:
    return bool(getattr(executor, "watched", False))


async def _problem_of(executor: Executor) -> str | None:
    try:
        return await executor.check()
    except Exception as error:
        return f"its check failed ({type(error).__name__})"
