"""A real OpenAI-compatible engine: llama.cpp's server with a tiny model, as a process that tests may end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.harness import tiny_llama
from tests.harness.engine_process import EngineProcess

MODEL = "tiny-llama"
THINKER = "tiny-thinker"
RERANKER = "tiny-reranker"


class LlamaEngine(EngineProcess):
    """`options` go to `llama_server`."""

    def __init__(self, folder: Path, **options: Any) -> None:
        given = {"name": MODEL, **options}
        super().__init__(folder, "tests.harness.llama_server", folder / "tiny.gguf", **given)

    def write_model(self, path: Path) -> None:
        tiny_llama.write_model(path)

    def busy(self) -> int:
        """How many answers it is generating."""
        return sum(slot["is_processing"] for slot in httpx.get(f"{self.url}/slots").json())
