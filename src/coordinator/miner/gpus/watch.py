"""The GPUs of a running miner: found once, and their free memory read again from time to time."""

from __future__ import annotations

import asyncio
from collections import Counter

import structlog

from coordinator.miner.gpus.detection import find_gpus
from coordinator.miner.gpus.found import GpuReport
from coordinator.wire.heartbeat import GpuMemory


class GpuWatch:
    """What a miner knows of its GPUs. `setting` is GPUS."""

    def __init__(self, setting: str) -> None:
        self._setting = setting
        self._found = GpuReport()
        self._problems: tuple[str, ...] = ()
        self.memory: tuple[GpuMemory, ...] = ()
        """The free memory, as far as it is known, at the last reading."""
        self._log = structlog.get_logger()

    async def find(self) -> GpuReport:
        """Find the GPUs, and log them."""
        self._found = await self._read()
        self._log.info("gpus_found", gpus=[gpu.document() for gpu in self._found.gpus], cuda=self._found.cuda)
        return self._found

    async def keep(self, seconds: float) -> None:
        """Read the free memory every so many seconds, where the sources say it. Runs until it is cancelled.

        The GPUs that the miner offers stay: one that is gone is logged, and its jobs fail.
        """
        offered = told = Counter(gpu.gpu.name for gpu in self._found.gpus)
        if not self.memory:
            return
        while True:
            await asyncio.sleep(seconds)
            now = Counter(gpu.gpu.name for gpu in (await self._read()).gpus)
            if now != told:
                told = now
                self._log.warning(
                    "gpus_changed",
                    gone=sorted((offered - now).elements()),
                    new=sorted((now - offered).elements()),
                    next_step="start the miner again to offer what is here",
                )

    async def _read(self) -> GpuReport:
        found = await find_gpus(self._setting)
        for problem in found.problems:
            if problem not in self._problems:
                self._log.warning("gpu_problem", problem=problem)
        self._problems = found.problems
        self.memory = tuple(
            GpuMemory(name=gpu.gpu.name, free_mb=gpu.free_mb) for gpu in found.gpus if gpu.free_mb is not None
        )
        return found
