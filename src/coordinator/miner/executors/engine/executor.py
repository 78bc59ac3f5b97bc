"""What executors have in common whose work an engine does."""

from __future__ import annotations

from coordinator.miner.executors.engine.client import Engine
from coordinator.miner.executors.errors import ENGINE_UNAVAILABLE, ExecutorError


class EngineExecutor:
    """An executor of one engine, which is checked again while the miner runs."""

    watched = True

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def models(self) -> tuple[str, ...]:
        """The engine's models, which the miner advertises."""
        return self._engine.offered

    @property
    def notes(self) -> tuple[str, ...]:
        """Faults that cost no service, for `doctor`."""
        return self._engine.notes

    async def check(self) -> str | None:
        """Whether the engine answers and has a model; else the reason why not, in one sentence."""
        return await self._engine.check()

    async def ready(self) -> None:
        """Check now if no check has found a model yet. Raises ExecutorError: ENGINE_UNAVAILABLE."""
        if not self._engine.models and (problem := await self.check()):
            raise ExecutorError(ENGINE_UNAVAILABLE, problem, retryable=True)
