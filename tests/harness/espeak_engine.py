"""A real engine that speaks: eSpeak NG, as a process that tests may end."""

from __future__ import annotations

from pathlib import Path

from tests.harness.engine_process import EngineProcess


class EspeakEngine(EngineProcess):
    """Its voices are in the library's own folder: there is no model's file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "tests.harness.espeak_server", folder)
