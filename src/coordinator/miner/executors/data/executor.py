"""The service `data_processing`: Polars in a child process with limits."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from coordinator.miner.executors.base import (
    Outcome,
    Work,
    document_of,
    payload_of,
)
from coordinator.miner.executors.child import PING
from coordinator.miner.executors.counts import gigabytes
from coordinator.miner.executors.errors import INPUT_TOO_LARGE, UNSUPPORTED, ExecutorError
from coordinator.miner.executors.in_child import CHECK_SECONDS, output_of, run_in_child
from coordinator.miner.executors.limits import whole_machine
from coordinator.services.data_processing import SERVICE, PreparedData, Tokenize
from coordinator.services.job_warnings import bounded

TIMEOUT_SECONDS: Final = 1800.0
MAX_INPUT_BYTES: Final = 2 * 2**30
"""For all inputs together."""
MAX_MEMORY_BYTES: Final = 12 * 2**30
LEAST_MEMORY_BYTES: Final = 768 * 2**20
MEMORY_PER_INPUT_BYTE: Final = 100
"""Some copies of a table whose file was compressed well."""
MAX_OUTPUT_BYTES: Final = 8 * 2**30
LEAST_OUTPUT_BYTES: Final = 256 * 2**20
OUTPUT_PER_INPUT_BYTE: Final = 32
"""Compressed columns as text, and a column for each category."""
SLACK_BYTES: Final = 64 * 2**20
"""One file exceeds its own limit before all together exceed theirs."""
LEAST_CELLS: Final = 20_000_000
CELLS_PER_INPUT_BYTE: Final = 100
"""Columns of one value compress to almost nothing; a file of them alone is no data set."""
MEDIA_TYPES: Final = {
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
}


class DataExecutor:
    """Prepares tables. `tokenize` is UNSUPPORTED: it needs a model's tokenizer."""

    services = (SERVICE.id,)

    def __init__(
        self, *, timeout_seconds: float = TIMEOUT_SECONDS, max_input_bytes: int = MAX_INPUT_BYTES
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._max_input_bytes = max_input_bytes

    async def check(self) -> str | None:
        """Whether Polars is installed and runs under the limits."""
        with TemporaryDirectory(prefix="data-check-") as folder:
            try:
                await self._run(PING, Path(folder), CHECK_SECONDS)
            except ExecutorError as error:
                return f"{error.detail}: install coordinator[data]"
        return None

    async def run(self, work: Work) -> Outcome:
        """The result is PreparedData.

        Raises ExecutorError: INVALID_PAYLOAD (also for files and columns that a step does not fit),
        UNSUPPORTED (`tokenize`), INPUT_TOO_LARGE (bytes, cells, columns), RESOURCE_LIMIT, OUTPUT_TOO_LARGE,
        EXECUTOR_TIMEOUT, EXECUTOR_KILLED, EXECUTOR_FAILED, and the errors of downloads and uploads.
        """
        payload = payload_of(SERVICE, work)
        if any(isinstance(step, Tokenize) for step in payload.steps):
            raise ExecutorError(UNSUPPORTED, "tokenize: this miner has no tokenizer", retryable=True)
        started = time.monotonic()
        inputs, left = [f"input-{number}" for number in range(len(payload.inputs))], self._max_input_bytes
        for ref, name in zip(payload.inputs, inputs, strict=True):
            if left <= 0:
                raise ExecutorError(INPUT_TOO_LARGE, f"inputs: more than {self._max_input_bytes} bytes")
            await work.blobs.download(ref, work.folder / name, max_bytes=left)
            left -= (work.folder / name).stat().st_size
        size = self._max_input_bytes - left
        plan = payload.model_dump(mode="json", by_alias=True) | {
            "inputs": inputs,
            "max_cells": cells_of(size),
        }
        done = await self._run(plan, work.folder, self._timeout_seconds, work, size)
        media_type = MEDIA_TYPES[payload.output_format]
        done["outputs"] = [
            await work.blobs.upload(output_of(work.folder, name), media_type=media_type)
            for name in done.pop("files")
        ]
        wall_ms = round((time.monotonic() - started) * 1000)
        done["warnings"] = bounded(done.pop("notes"))
        result = PreparedData.model_validate(done)
        metrics: dict[str, int | str] = {"wall_ms": wall_ms, "rows": result.rows_read}
        return Outcome(await document_of(work, result), metrics, {"gb": gigabytes(done["outputs"])})

    async def _run(
        self,
        plan: dict[str, Any],
        folder: Path,
        timeout_seconds: float,
        work: Work | None = None,
        size: int = 0,
    ) -> dict[str, Any]:
        share = work.share if work else whole_machine()
        memory = min(LEAST_MEMORY_BYTES + MEMORY_PER_INPUT_BYTE * size, MAX_MEMORY_BYTES)
        output = min(LEAST_OUTPUT_BYTES + OUTPUT_PER_INPUT_BYTE * size, MAX_OUTPUT_BYTES)
        return await run_in_child(
            "data",
            plan,
            folder=folder,
            timeout_seconds=timeout_seconds,
            max_memory=share.memory(memory),
            max_disk=share.disk(size + output + SLACK_BYTES),
            max_file_bytes=output,
            **({"on_progress": work.progress} if work else {}),
        )


def cells_of(size: int) -> int:
    """The most rows times columns that inputs of `size` bytes may declare."""
    return max(LEAST_CELLS, CELLS_PER_INPUT_BYTE * size)
