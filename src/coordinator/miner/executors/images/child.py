"""Images with Pillow in a child process, which calls `work`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from coordinator.miner.executors.images.opening import open_picture
from coordinator.miner.executors.images.operations import apply
from coordinator.miner.executors.images.picture import too_many_pixels
from coordinator.miner.executors.images.saving import save


def work(plan: Mapping[str, Any], report: Callable[[float, str], None]) -> dict[str, Any]:
    """`{inputs, outputs, operations, output_format, …, max_pixels}` → `{sizes, notes}`.

    Raises ExecutorError: INVALID_PAYLOAD if a file is not a whole image, INPUT_TOO_LARGE for too many pixels.
    """
    Image.MAX_IMAGE_PIXELS = plan["max_pixels"]
    warnings.simplefilter("ignore")  # about notes in the file
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    sizes, notes = [], []
    for number, (source, target) in enumerate(zip(plan["inputs"], plan["outputs"], strict=True)):
        try:
            picture = open_picture(Path(source), number, plan)
            for operation in plan["operations"]:
                apply(picture, operation, plan)
            save(picture, Path(target), plan)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise too_many_pixels(number, plan["max_pixels"]) from None
        Path(source).unlink()
        sizes.append([picture.image.width, picture.image.height])
        notes += picture.notes
        report((number + 1) / len(plan["inputs"]), "processing")
    return {"sizes": sizes, "notes": notes}
