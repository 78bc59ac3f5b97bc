"""The working executors of a miner, and their models.

All executors are checked at the start. `watched` executors (engines) can change by themselves, so they are
checked again while the miner runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import structlog

from coordinator.miner.executors.base import Executor
from coordinator.services.model_names import MAX_MODEL_NAME, RULE, is_model_name

MAX_MODELS = 500
"""The most that can be registered; the first ones in the alphabet are kept."""


class Abilities:
    """The working executors by service (`executors`), and the reasons why others fail (`problems`)."""

    def __init__(self, installed: Mapping[str, Executor], models: Iterable[str] = ()) -> None:
        """`models` are the miner's own: no executor needs to report them."""
        self.executors: dict[str, Executor] = {}
        self.problems: dict[str, str] = {}
        self._installed = dict(installed)
        self._own_models = tuple(models)
        self._unusable: set[str] = set()
        """Names that no job can ask for, as far as they were logged."""
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
        """All models here now: the miner's own, and those that its executors report. Sorted."""
        found = set(self._own_models)
        for executor in self.executors.values():
            found.update(self._models.get(id(executor), ()))
        usable = {name for name in found if is_model_name(name)}
        for name in sorted(found - usable - self._unusable):
            # The coordinator would list a model that nobody can ask for.
            self._unusable.add(name)
            self._log.warning("model_not_offered", model=name[:MAX_MODEL_NAME], reason=f"a name has {RULE}")
        return tuple(sorted(usable)[:MAX_MODELS])

    @property
    def can_change(self) -> bool:
        """Whether a later check can find a change."""
        return any(_watched(executor) for executor in self._installed.values())

    async def check(self) -> None:
        """Check every executor."""
        async with self._checking:
            await self._check(self._installed)
            self._checked = True

    async def check_again(self) -> bool:
        """Check the watched executors again. True if services or models have changed."""
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
                # At the start the program logs all of them at once.
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
