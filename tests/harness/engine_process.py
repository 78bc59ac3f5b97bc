"""A real engine as a process that tests may end, and start again on the same port."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, Self

import httpx

from coordinator.dev.servers.processes import free_port
from coordinator.miner.executors.engine import EngineSettings
from tests.harness.processes import Process
from tests.harness.waiting import eventually_now


class EngineProcess:
    """Started with `start`. The module gets `{"model": path, "port", …options}` as its one argument."""

    def __init__(self, folder: Path, module: str, model: Path, **options: Any) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._folder = folder
        self._module = module
        self._model = model
        self._options = options
        self._process: Process | None = None
        self._runs = itertools.count(1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def settings(self, **more: Any) -> EngineSettings:
        """What a miner has to be told of it, whatever the environment says."""
        return EngineSettings.model_construct(**{"url": f"{self.url}/v1", **more})

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if not self._model.exists():
            self.write_model(self._model)
        port = int(self.url.rpartition(":")[2])
        given = {"model": str(self._model), "port": port, **self._options}
        name = f"{self._module.rpartition('.')[2]}-{next(self._runs)}"
        self._process = process = Process(name, self._folder, self._module, json.dumps(given))

        def answers() -> bool:
            assert process.ended is None, process.tail()
            return httpx.get(f"{self.url}/health").is_success

        eventually_now(answers, "the engine's health")

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def write_model(self, path: Path) -> None:
        raise NotImplementedError
