"""A real engine for speech: whisper.cpp with a tiny model, as a process that tests may end."""

from __future__ import annotations

from pathlib import Path

from tests.harness import tiny_whisper
from tests.harness.engine_process import EngineProcess

MODEL = "tiny"


class WhisperEngine(EngineProcess):
    """Listens with a model of random weights: it hears nonsense, always the same of the same sound."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "tests.harness.whisper_server", folder / f"ggml-{MODEL}.bin")

    def write_model(self, path: Path) -> None:
        tiny_whisper.write_model(path)
