"""Works for executors under test: blobs in a folder, and what an executor says while it runs."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import jsonschema_rs
import psutil
import pytest

from coordinator.miner.executors import ExecutorError, Outcome, OutputFile, Work, Workspace, errors
from coordinator.services.catalog import load_catalog

OUTPUT_SCHEMAS = {entry["id"]: entry["output_schema"] for entry in load_catalog()}


class FolderBlobs:
    """Blobs in a folder, by digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def add(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        (self.folder / sha256).write_bytes(content)
        return f"blob:{sha256}"

    def read(self, output: OutputFile) -> bytes:
        return (self.folder / output["blob"].removeprefix("blob:")).read_bytes()

    async def download(self, ref: str, to: Path, *, max_bytes: int) -> None:
        content = (self.folder / ref.removeprefix("blob:")).read_bytes()
        if len(content) > max_bytes:
            raise ExecutorError(errors.INPUT_TOO_LARGE, f"larger than {max_bytes} bytes")
        await asyncio.to_thread(to.write_bytes, content)

    async def upload(self, path: Path, *, media_type: str) -> OutputFile:
        content = await asyncio.to_thread(path.read_bytes)
        ref = self.add(content)
        return OutputFile(name=path.name, blob=ref, size=len(content), media_type=media_type)


class Bench:
    """Makes works out of payloads, and remembers their progress and their text."""

    def __init__(self, service: str, folder: Path, blobs: FolderBlobs) -> None:
        self.service = service
        self.workspace = Workspace(folder)
        self.blobs = blobs
        self.progress: list[tuple[float, str]] = []
        self.text = ""

    def work(self, payload: dict[str, Any]) -> Work:
        def report(fraction: float, what: str) -> None:
            self.progress.append((fraction, what))

        def emit(text: str) -> None:
            self.text += text

        return Work("job-1", 1, self.service, payload, self.workspace, self.blobs, report, emit)


async def failure(executor: Any, work: Work) -> tuple[str, bool]:
    """The code and retryability of the error that a work ends in."""
    with pytest.raises(ExecutorError) as caught:
        await executor.run(work)
    assert caught.value.detail
    assert str(work.workspace._parent) not in caught.value.detail
    return caught.value.code, caught.value.retryable


def check_output(service: str, outcome: Outcome) -> Outcome:
    jsonschema_rs.validate(OUTPUT_SCHEMAS[service], outcome.result)
    return outcome


def processes_in(folder: Path) -> list[psutil.Process]:
    """Live processes that work in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found
