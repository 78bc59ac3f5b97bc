"""What a job of `image_processing` may ask for. The catalogue's schema says the same."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from coordinator.miner.executors.base import UNSUPPORTED, ExecutorError, FileRef
from coordinator.miner.executors.llm.payload import Strict, Whole

MEDIA_TYPES: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "tiff": "image/tiff",
    "avif": "image/avif",
}
Side = Annotated[int, Field(ge=1, le=16_384), Whole]
Strength = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0, le=4)]


class Resize(Strict):
    operation: Literal["resize"]
    width: Side
    height: Side
    fit: Literal["contain", "cover", "stretch"] = "contain"


class Crop(Strict):
    operation: Literal["crop"]
    left: Annotated[int, Field(ge=0, le=65_535), Whole]
    top: Annotated[int, Field(ge=0, le=65_535), Whole]
    width: Annotated[int, Field(ge=1, le=65_536), Whole]
    height: Annotated[int, Field(ge=1, le=65_536), Whole]


class Rotate(Strict):
    operation: Literal["rotate"]
    degrees: Annotated[float, Field(ge=-360, le=360)]


class Flip(Strict):
    operation: Literal["flip"]
    direction: Literal["horizontal", "vertical"]


class Upscale(Strict):
    operation: Literal["upscale"]
    factor: Annotated[Literal[2, 4], Whole]
    faces: bool = False


class Denoise(Strict):
    operation: Literal["denoise"]
    strength: Strength = 0.5


class Sharpen(Strict):
    operation: Literal["sharpen"]
    strength: Strength = 0.5


class Blur(Strict):
    operation: Literal["blur"]
    radius: Annotated[float, Field(ge=0.1, le=250)]


class Adjust(Strict):
    operation: Literal["adjust"]
    brightness: Factor = 1.0
    contrast: Factor = 1.0
    saturation: Factor = 1.0


class RemoveBackground(Strict):
    operation: Literal["remove_background"]
    soft_edges: bool = True


Operation = Annotated[
    Resize | Crop | Rotate | Flip | Upscale | Denoise | Sharpen | Blur | Adjust | RemoveBackground,
    Field(discriminator="operation"),
]


class ImagesPayload(Strict):
    """Each image becomes one output; the operations are done in their order."""

    images: Annotated[list[FileRef], Field(min_length=1, max_length=100)]
    operations: Annotated[tuple[Operation, ...], Field(max_length=20, strict=False)] = ()
    output_format: Literal["png", "jpg", "webp", "tiff", "avif"] = "png"
    quality: Annotated[int, Field(ge=1, le=100), Whole] = 90
    keep_metadata: bool = False


def check_possible(payload: ImagesPayload) -> None:
    """Raise ExecutorError for what takes a neural network: Pillow has none."""
    for operation in payload.operations:
        if isinstance(operation, Upscale | RemoveBackground):
            raise ExecutorError(
                UNSUPPORTED, f"{operation.operation}: there is no model for it here", retryable=True
            )
