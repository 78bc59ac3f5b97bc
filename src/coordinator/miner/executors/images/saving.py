"""Saving pictures: the format's own limits, its depth, and no more metadata than was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from PIL import Image

from coordinator.miner.executors.errors import EXECUTOR_FAILED, ExecutorError
from coordinator.miner.executors.images.colours import to_16_bits
from coordinator.miner.executors.images.operations import fill_of
from coordinator.miner.executors.images.picture import DEEP, Picture

SAVED_AS: Final = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tiff": "TIFF", "avif": "AVIF"}
LONGEST_SIDE: Final = {"jpg": 65_500, "webp": 16_383, "avif": 65_536}
"""Pixels that the formats' encoders take at most."""
DEEP_FORMATS: Final = frozenset({"png", "tiff"})
"""Formats that keep 16 bits of grey."""


def save(picture: Picture, target: Path, plan: Mapping[str, Any]) -> None:
    """Write the file. Raises ExecutorError: INVALID_PAYLOAD if the format can't hold it, EXECUTOR_FAILED."""
    name = plan["output_format"]
    limit = LONGEST_SIDE.get(name)
    if limit is not None and max(picture.image.size) > limit:
        width, height = picture.image.size
        raise picture.bad(
            f"{width} x {height} is more than {name} can hold ({limit} a side); "
            "resize it, or choose png or tiff"
        )
    if name == "jpg" and picture.transparent:
        _flatten(picture, plan["background"])
    image = to_16_bits(picture.image) if picture.image.mode == DEEP else picture.image
    image.info = {}  # what Pillow would write by itself: notes, the place, a transparency that was applied
    options: dict[str, Any] = {}
    if name in ("jpg", "webp", "avif"):
        options["quality"] = plan["quality"]
    if name == "tiff":
        options["compression"] = "tiff_lzw"
    if picture.profile is not None:
        options["icc_profile"] = picture.profile  # without it the colours would change
    if plan["keep_metadata"]:
        if picture.exif:
            options["exif"] = picture.exif
            if name == "tiff":
                options.pop("compression")  # libtiff's compressors would lose the place
        if picture.dpi is not None and name in ("png", "jpg", "tiff"):
            options["dpi"] = picture.dpi
    try:
        image.save(target, SAVED_AS[name], **options)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, RuntimeError) as error:
        raise ExecutorError(
            EXECUTOR_FAILED,
            f"images.{picture.number}: {image.mode} of {image.width} x {image.height} can't be saved "
            f"as {name} ({type(error).__name__}); try png",
        ) from None


def _flatten(picture: Picture, background: str) -> None:
    fill = fill_of(picture, background)
    opaque = "L" if picture.image.mode == "LA" else "RGB"
    flat = Image.new(opaque, picture.image.size, fill)
    flat.paste(picture.image.convert(opaque), mask=picture.image.getchannel("A"))
    picture.image = flat
    picture.note(f"jpg has no transparency: laid on {background}")
