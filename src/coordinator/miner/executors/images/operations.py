"""The operations on a picture. Grey stays grey, transparency stays, and invisible pixels lend no colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from PIL import Image, ImageChops, ImageColor, ImageEnhance, ImageFilter, ImageOps

from coordinator.miner.executors.images.colours import to_rgb
from coordinator.miner.executors.images.picture import DEEP, DEEP_WHITE, Picture, check_pixels

OF_ANY_DEPTH: Final = frozenset({"resize", "crop", "rotate", "flip"})
"""Operations that keep 16 bits of grey."""
_PREMULTIPLIED: Final = {"RGBA": "RGBa", "LA": "La"}
_SMOOTH: Final = Image.Resampling.LANCZOS


def apply(picture: Picture, operation: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Change the picture. Raises ExecutorError: too many pixels, or a crop outside of the picture."""
    image = picture.image
    match operation["operation"]:
        case "resize":
            _resize(picture, operation, plan["max_pixels"])
        case "crop":
            left, top = operation["left"], operation["top"]
            right = min(left + operation["width"], image.width)
            bottom = min(top + operation["height"], image.height)
            if left >= right or top >= bottom:
                raise picture.bad(
                    f"the crop begins at {left}, {top}, outside the image of {image.width} x {image.height}"
                )
            picture.image = image.crop((left, top, right, bottom))
        case "rotate":
            _rotate(picture, -operation["degrees"], plan)
        case "flip":
            mirrored = operation["direction"] == "horizontal"
            picture.image = ImageOps.mirror(image) if mirrored else ImageOps.flip(image)
        case "denoise":
            size, share = 3 if operation["strength"] <= 0.5 else 5, min(1.0, 0.25 + operation["strength"])
            picture.image = _filtered(
                image, lambda seen: ImageChops.blend(seen, seen.filter(ImageFilter.MedianFilter(size)), share)
            )
        case "sharpen":
            mask = ImageFilter.UnsharpMask(2, round(300 * operation["strength"]), 2)
            picture.image = _filtered(image, lambda seen: seen.filter(mask))
        case "blur":
            picture.image = _filtered(
                image, lambda seen: seen.filter(ImageFilter.GaussianBlur(operation["radius"]))
            )
        case "adjust":
            image = ImageEnhance.Brightness(image).enhance(operation["brightness"])
            image = ImageEnhance.Contrast(image).enhance(operation["contrast"])
            picture.image = ImageEnhance.Color(image).enhance(operation["saturation"])
        case other:
            raise AssertionError(other)


def _resize(picture: Picture, operation: Mapping[str, Any], max_pixels: int) -> None:
    image, size = picture.image, (operation["width"], operation["height"])
    check_pixels(size, picture.number, max_pixels)
    if operation["fit"] == "cover":
        picture.image = ImageOps.fit(image, size, _SMOOTH)
        return
    if operation["fit"] == "contain":
        # At least one pixel: a line of 1 x 10,000 has no whole pixel of width in 100 x 100.
        scale = min(size[0] / image.width, size[1] / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    picture.image = image.resize(size, _SMOOTH)


def _rotate(picture: Picture, degrees: float, plan: Mapping[str, Any]) -> None:
    """Corners that come in are transparent, or have the background's colour in a picture that is opaque."""
    if degrees % 90 == 0:
        picture.image = picture.image.rotate(degrees, expand=True)
        return
    # A rotated picture is at most as wide and as high as its diagonal.
    diagonal = int((picture.image.width**2 + picture.image.height**2) ** 0.5) + 1
    check_pixels((diagonal, diagonal), picture.number, plan["max_pixels"])
    fill: Any = None
    if not picture.transparent:
        fill = fill_of(picture, plan["background"])
    picture.image = picture.image.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=fill)


def fill_of(picture: Picture, background: str) -> Any:
    """The background as a value of the picture's mode; a picture of grey becomes RGB for a colour."""
    red, green, blue = ImageColor.getrgb(background)[:3]
    if picture.image.mode == DEEP:
        luma = ImageColor.getcolor(background, "L")
        assert isinstance(luma, int)
        return luma * (DEEP_WHITE / 255)
    if not red == green == blue:
        to_rgb(picture)
    return red if picture.image.mode in ("L", "LA") else (red, green, blue)


def _filtered(image: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`change` on premultiplied colours, so that invisible pixels do not bleed into their neighbours."""
    weighted = _PREMULTIPLIED.get(image.mode)
    return change(image) if weighted is None else change(image.convert(weighted)).convert(image.mode)
