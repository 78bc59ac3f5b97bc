"""A real OpenAI-compatible engine: llama.cpp's server with a tiny model, as a process that tests may end."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, Self

import httpx

from coordinator.miner.executors.engine import EngineSettings
from coordinator.servers.processes import free_port
from tests.harness.processes import Process
from tests.harness.tiny_llama import write_model
from tests.harness.waiting import eventually_now

MODEL = "tiny-llama"


class LlamaEngine:
    """Started with `start`; keeps its port over restarts. `options` go to `llama_server`."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._folder = folder
        self._options = options
        self._model = folder / "tiny.gguf"
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
            write_model(self._model)
        given = {
            "model": str(self._model),
            "name": MODEL,
            "port": int(self.url.rpartition(":")[2]),
            **self._options,
        }
        self._process = process = Process(
            f"llama-{next(self._runs)}", self._folder, "tests.harness.llama_server", json.dumps(given)
        )

        def answers() -> bool:
            assert process.ended is None, process.tail()
            return httpx.get(f"{self.url}/health").is_success

        eventually_now(answers, "the engine's health")

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def busy(self) -> int:
        """How many answers it is generating."""
        return sum(slot["is_processing"] for slot in httpx.get(f"{self.url}/slots").json())
