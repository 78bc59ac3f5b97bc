"""The service `image_processing`: resizes, crops, turns, filters, adjusts and converts images."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from coordinator.services.base import (
    FileRef,
    KnownService,
    OutputFile,
    Payload,
    Result,
    Strict,
    Warnings,
    Whole,
)

ImageFormat = Literal["png", "jpg", "webp", "tiff", "avif"]
Side = Annotated[int, Field(ge=1, le=16_384), Whole]
Extent = Annotated[int, Field(ge=1, le=65_536), Whole]
Place = Annotated[int, Field(ge=0, le=65_535), Whole]
Strength = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0, le=4)]
Pixels = Annotated[int, Field(ge=1)]


class Resize(Strict):
    operation: Literal["resize"]
    width: Side
    """Pixels."""
    height: Side
    """Pixels."""
    fit: Literal["contain", "cover", "stretch"] = "contain"
    """The treatment of a different aspect ratio."""


class Crop(Strict):
    operation: Literal["crop"]
    left: Place
    """Pixels."""
    top: Place
    """Pixels."""
    width: Extent
    """Pixels."""
    height: Extent
    """Pixels."""


class Rotate(Strict):
    operation: Literal["rotate"]
    degrees: Annotated[float, Field(ge=-360, le=360)]
    """Clockwise. New corners are transparent, or have the background's colour in an opaque image."""


class Flip(Strict):
    operation: Literal["flip"]
    direction: Literal["horizontal", "vertical"]


class Upscale(Strict):
    operation: Literal["upscale"]
    factor: Annotated[Literal[2, 4], Whole]
    """With a neural network."""
    faces: bool = False
    """Also restores faces."""


class Denoise(Strict):
    operation: Literal["denoise"]
    strength: Strength = 0.5


class Sharpen(Strict):
    operation: Literal["sharpen"]
    strength: Strength = 0.5


class Blur(Strict):
    operation: Literal["blur"]
    radius: Annotated[float, Field(ge=0.1, le=250)]
    """Pixels."""


class Adjust(Strict):
    operation: Literal["adjust"]
    brightness: Factor = 1.0
    """1 changes nothing."""
    contrast: Factor = 1.0
    """1 changes nothing."""
    saturation: Factor = 1.0
    """1 changes nothing, 0 is grey."""


class RemoveBackground(Strict):
    operation: Literal["remove_background"]
    soft_edges: bool = True


ImageOperation = Annotated[
    Resize | Crop | Rotate | Flip | Upscale | Denoise | Sharpen | Blur | Adjust | RemoveBackground,
    Field(discriminator="operation"),
]


class ImagesPayload(Payload):
    """Images, and the operations on each."""

    images: Annotated[list[FileRef], Field(min_length=1, max_length=100)]
    """Each becomes one output, in this order; of several frames or pages the first."""
    operations: Annotated[tuple[ImageOperation, ...], Field(max_length=20, strict=False)] = ()
    """Applied in this order; an empty list only converts."""
    output_format: ImageFormat = "png"
    quality: Annotated[int, Field(ge=1, le=100), Whole] = 90
    """For jpg, webp and avif."""
    background: Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")] = "#ffffff"
    """The colour behind transparent pixels in a jpg, and of the corners of a rotated opaque image."""
    profile: Literal["keep", "srgb"] = "keep"
    """`keep` leaves values and colour profile as they are; `srgb` converts to the colours of the web.
    CMYK and LAB become sRGB either way."""
    keep_metadata: bool = False
    """Keeps the place, the time and the camera of the image (EXIF); by default no output has them."""


class ProcessedImages(Result):
    output_format: ImageFormat
    outputs: Annotated[list[OutputFile], Field(min_length=1, max_length=100)]
    """In the order of the input."""
    sizes: Annotated[
        list[Annotated[list[Pixels], Field(min_length=2, max_length=2)]], Field(min_length=1, max_length=100)
    ]
    """Width and height of each output in pixels."""
    warnings: Warnings | None = None
    """What had to change: a depth, a profile, frames that were left out."""


SERVICE: Final = KnownService("image_processing", TypeAdapter(ImagesPayload), ProcessedImages)
