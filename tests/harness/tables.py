"""Tables for tests: the work of the data child without a process for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coordinator.miner.executors.data.child import work
from coordinator.miner.executors.data.executor import cells_of
from coordinator.miner.executors.errors import INVALID_PAYLOAD, ExecutorError
from coordinator.services.data_processing import DataPayload

KEEP = {"step": "sample", "fraction": 1}
"""Changes nothing."""


@dataclass(frozen=True)
class Prepared:
    """The answer of the child, and its files by their names without the ending."""

    answer: dict[str, Any]
    files: dict[str, bytes]

    @property
    def text(self) -> str:
        return self.files["dataset"].decode()

    @property
    def notes(self) -> list[str]:
        notes: list[str] = self.answer["notes"]
        return notes

    @property
    def types(self) -> dict[str, str]:
        return {column["name"]: column["type"] for column in self.answer["columns"]}

    @property
    def parts(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of jsonl files."""
        return {
            name: [json.loads(line) for line in content.decode().split("\n") if line]
            for name, content in self.files.items()
        }

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.parts["dataset"]


def prepared(
    folder: Path, inputs: Sequence[bytes | str] | bytes | str, *steps: dict[str, Any], **more: Any
) -> Prepared:
    """What becomes of these inputs, as jsonl unless it is said. Raises ExecutorError."""
    contents = [inputs] if isinstance(inputs, bytes | str) else inputs
    payload = DataPayload.model_validate(
        {
            "inputs": [f"blob:{number:064}" for number in range(len(contents))],
            "steps": list(steps) or [KEEP],
            "output_format": "jsonl",
            "seed": 1,
            **more,
        }
    )
    names = []
    for number, content in enumerate(contents):
        (folder / f"input-{number}").write_bytes(content.encode() if isinstance(content, str) else content)
        names.append(f"input-{number}")
    plan = payload.model_dump(mode="json", by_alias=True) | {"inputs": names, "max_cells": cells_of(0)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        answer = work(plan, lambda *_: None)
        files = {name.partition(".")[0]: Path(name).read_bytes() for name in answer["files"]}
    return Prepared(answer, files)


def refusal(
    folder: Path, inputs: Any, *steps: dict[str, Any], code: str = INVALID_PAYLOAD, **more: Any
) -> str:
    """The detail of the refusal that these inputs end in."""
    with pytest.raises(ExecutorError) as caught:
        prepared(folder, inputs, *steps, **more)
    assert (code, False) == (caught.value.code, caught.value.retryable)
    assert str(folder) not in caught.value.detail
    assert "Error" not in caught.value.detail
    return caught.value.detail
