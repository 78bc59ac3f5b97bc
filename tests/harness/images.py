"""Pictures for tests, and the work of the images' child without a process for each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from coordinator.miner.executors.images import child
from coordinator.miner.executors.images.executor import MAX_PIXELS
from coordinator.services.image_processing import ImagesPayload


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The picture as a file."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@dataclass(frozen=True)
class Edited:
    """What became of some pictures."""

    images: list[Image.Image]
    notes: list[str]

    @property
    def image(self) -> Image.Image:
        [image] = self.images
        return image


def edited(
    folder: Path, contents: Sequence[bytes] | bytes, *operations: dict[str, Any], **more: Any
) -> Edited:
    """The outputs of these pictures. Raises ExecutorError."""
    contents = [contents] if isinstance(contents, bytes) else contents
    refs = [f"blob:{number:064}" for number in range(len(contents))]
    payload = ImagesPayload.model_validate({"images": refs, "operations": list(operations), **more})
    inputs = [folder / f"input-{number}" for number in range(len(contents))]
    outputs = [folder / f"output-{number}" for number in range(len(contents))]
    for path, content in zip(inputs, contents, strict=True):
        path.write_bytes(content)
    plan = {"inputs": list(map(str, inputs)), "outputs": list(map(str, outputs)), "max_pixels": MAX_PIXELS}
    plan |= payload.model_dump(mode="json", exclude={"images"})
    with warnings.catch_warnings():
        done = child.work(plan, lambda *_: None)
    images: list[Image.Image] = [Image.open(BytesIO(path.read_bytes())) for path in outputs]
    assert done["sizes"] == [list(image.size) for image in images]
    return Edited(images, done["notes"])
