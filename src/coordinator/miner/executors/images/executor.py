"""The service `image_processing`: Pillow in a child process with limits."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from coordinator.domain.matching.units import CountedUnit
from coordinator.miner.executors.base import Outcome, Work, payload_of
from coordinator.miner.executors.child import PING
from coordinator.miner.executors.counts import gigabytes
from coordinator.miner.executors.errors import INPUT_TOO_LARGE, UNSUPPORTED, ExecutorError
from coordinator.miner.executors.in_child import CHECK_SECONDS, output_of, run_in_child
from coordinator.miner.executors.limits import whole_machine
from coordinator.services.image_processing import (
    SERVICE,
    ImagesPayload,
    ProcessedImages,
    RemoveBackground,
    Upscale,
)
from coordinator.services.job_warnings import bounded

TIMEOUT_SECONDS: Final = 900.0
MAX_INPUT_BYTES: Final = 256 << 20
"""For each image."""
MAX_PIXELS: Final = 100_000_000
MAX_TOTAL_BYTES: Final = 2 * 2**30
"""For all images together."""
MAX_MEMORY_BYTES: Final = 3 * 2**30
"""For an image of MAX_PIXELS, some copies of it, and the program."""
MAX_OUTPUT_BYTES: Final = 2**30
"""For each image."""
MAX_DISK_BYTES: Final = 16 * 2**30
MEDIA_TYPES: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "tiff": "image/tiff",
    "avif": "image/avif",
}


class ImagesExecutor:
    """Resizes, crops, rotates, filters, adjusts, converts. Neural networks are UNSUPPORTED."""

    services = (SERVICE.id,)

    def __init__(self, *, max_pixels: int = MAX_PIXELS, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._max_pixels = max_pixels
        self._timeout_seconds = timeout_seconds

    async def check(self) -> str | None:
        """Whether Pillow is installed and runs under the limits."""
        with TemporaryDirectory(prefix="images-check-") as folder:
            try:
                await self._run(PING, Path(folder), CHECK_SECONDS)
            except ExecutorError as error:
                return f"{error.detail}: install coordinator[images]"
        return None

    async def run(self, work: Work) -> Outcome:
        """The result is ProcessedImages.

        Raises ExecutorError: INVALID_PAYLOAD (also for a file that is not a whole image), UNSUPPORTED,
        INPUT_TOO_LARGE (bytes, pixels), RESOURCE_LIMIT, OUTPUT_TOO_LARGE, EXECUTOR_TIMEOUT, EXECUTOR_KILLED,
        EXECUTOR_FAILED, and the errors of downloads and uploads.
        """
        payload = payload_of(SERVICE, work)
        _check_possible(payload)
        started = time.monotonic()
        inputs = [f"input-{number}" for number in range(len(payload.images))]
        outputs = [f"{number + 1:04}.{payload.output_format}" for number in range(len(payload.images))]
        left = MAX_TOTAL_BYTES
        for ref, name in zip(payload.images, inputs, strict=True):
            if left <= 0:
                raise ExecutorError(INPUT_TOO_LARGE, f"images: more than {MAX_TOTAL_BYTES} bytes")
            await work.blobs.download(ref, work.folder / name, max_bytes=min(MAX_INPUT_BYTES, left))
            left -= (work.folder / name).stat().st_size
        plan = {
            "inputs": inputs,
            "outputs": outputs,
            "max_pixels": self._max_pixels,
            **payload.model_dump(mode="json", exclude={"images"}),
        }
        done = await self._run(plan, work.folder, self._timeout_seconds, work)
        media_type = MEDIA_TYPES[payload.output_format]
        stored = [
            await work.blobs.upload(output_of(work.folder, name), media_type=media_type) for name in outputs
        ]
        result = ProcessedImages(
            output_format=payload.output_format,
            outputs=stored,
            sizes=done["sizes"],
            warnings=bounded(done["notes"]),
        )
        wall_ms = round((time.monotonic() - started) * 1000)
        units: dict[CountedUnit, int | str] = {"image": len(stored), "gb": gigabytes(stored)}
        return Outcome(result.document(), {"wall_ms": wall_ms, "images": len(stored)}, units)

    async def _run(
        self, plan: dict[str, Any], folder: Path, timeout_seconds: float, work: Work | None = None
    ) -> dict[str, Any]:
        share = work.share if work else whole_machine()
        return await run_in_child(
            "images",
            plan,
            folder=folder,
            timeout_seconds=timeout_seconds,
            max_memory=share.memory(MAX_MEMORY_BYTES),
            max_disk=share.disk(MAX_DISK_BYTES),
            max_file_bytes=MAX_OUTPUT_BYTES,
            **({"on_progress": work.progress} if work else {}),
        )


def _check_possible(payload: ImagesPayload) -> None:
    """Raise ExecutorError for an operation with a neural network: Pillow has none."""
    for operation in payload.operations:
        if isinstance(operation, Upscale | RemoveBackground):
            raise ExecutorError(
                UNSUPPORTED, f"{operation.operation}: this miner has no model for it", retryable=True
            )
