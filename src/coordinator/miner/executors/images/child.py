"""Images with Pillow in a child process, which calls `work`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps, UnidentifiedImageError

from coordinator.miner.executors.base import INPUT_TOO_LARGE, INVALID_PAYLOAD, ExecutorError

FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "GIF", "BMP")
"""Formats with well maintained decoders. EPS, for one, would start another program."""
_SAVED_AS: Final = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tiff": "TIFF", "avif": "AVIF"}


def work(plan: Mapping[str, Any], report: Callable[[float, str], None]) -> dict[str, Any]:
    """`{inputs, outputs, operations, output_format, quality, keep_metadata, max_pixels}` → `{sizes}`.

    Raises ExecutorError: INVALID_PAYLOAD if a file is not an image, INPUT_TOO_LARGE for too many pixels.
    """
    Image.MAX_IMAGE_PIXELS = plan["max_pixels"]
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    sizes = []
    for number, (source, target) in enumerate(zip(plan["inputs"], plan["outputs"], strict=True)):
        try:
            with Image.open(source, formats=FORMATS) as opened:
                image = _one(opened, plan, number)
                _save(image, Path(target), opened, plan)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise _too_many_pixels(number, plan["max_pixels"]) from None
        except UnidentifiedImageError:
            raise _bad(number, "is not an image of a known format") from None
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise _bad(number, f"can't be decoded or encoded ({type(error).__name__})") from None
        Path(source).unlink()
        sizes.append([image.width, image.height])
        report((number + 1) / len(plan["inputs"]), "processing")
    return {"sizes": sizes}


def _one(opened: Image.Image, plan: Mapping[str, Any], number: int) -> Image.Image:
    if opened.width * opened.height > plan["max_pixels"]:
        raise _too_many_pixels(number, plan["max_pixels"])
    image = ImageOps.exif_transpose(opened)
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    image = image.convert("RGBA" if transparent else "RGB")
    for operation in plan["operations"]:
        image = _apply(image, operation, number, plan["max_pixels"])
    return image


def _apply(image: Image.Image, operation: Mapping[str, Any], number: int, max_pixels: int) -> Image.Image:
    match operation["operation"]:
        case "resize":
            size = (operation["width"], operation["height"])
            _allow(size, number, max_pixels)
            if operation["fit"] == "stretch":
                return image.resize(size, Image.Resampling.LANCZOS)
            fit = ImageOps.contain if operation["fit"] == "contain" else ImageOps.fit
            return fit(image, size, Image.Resampling.LANCZOS)
        case "crop":
            left, top = operation["left"], operation["top"]
            right = min(left + operation["width"], image.width)
            bottom = min(top + operation["height"], image.height)
            if left >= right or top >= bottom:
                raise _bad(number, "the crop begins outside the image")
            return image.crop((left, top, right, bottom))
        case "rotate":
            # A rotated image is at most as wide and as high as its diagonal.
            diagonal = int((image.width**2 + image.height**2) ** 0.5) + 1
            if operation["degrees"] % 90:
                _allow((diagonal, diagonal), number, max_pixels)
            return image.rotate(-operation["degrees"], Image.Resampling.BICUBIC, expand=True)
        case "flip":
            return ImageOps.mirror(image) if operation["direction"] == "horizontal" else ImageOps.flip(image)
        case "denoise":
            smooth = image.filter(ImageFilter.MedianFilter(3 if operation["strength"] <= 0.5 else 5))
            return ImageChops.blend(image, smooth, min(1.0, 0.25 + operation["strength"]))
        case "sharpen":
            return image.filter(ImageFilter.UnsharpMask(2, round(300 * operation["strength"]), 2))
        case "blur":
            return image.filter(ImageFilter.GaussianBlur(operation["radius"]))
        case "adjust":
            image = ImageEnhance.Brightness(image).enhance(operation["brightness"])
            image = ImageEnhance.Contrast(image).enhance(operation["contrast"])
            return ImageEnhance.Color(image).enhance(operation["saturation"])
    raise AssertionError(operation["operation"])


def _save(image: Image.Image, target: Path, opened: Image.Image, plan: Mapping[str, Any]) -> None:
    kind = _SAVED_AS[plan["output_format"]]
    options: dict[str, Any] = {}
    if kind in ("JPEG", "WEBP", "AVIF"):
        options["quality"] = plan["quality"]
    if kind == "TIFF":
        options["compression"] = "tiff_lzw"
    if profile := opened.info.get("icc_profile"):
        options["icc_profile"] = profile  # without it the colours would change
    if plan["keep_metadata"] and (exif := opened.getexif()):
        exif.pop(0x0112, None)  # the orientation, already applied
        options["exif"] = exif
    else:
        image.info = {}
    if kind == "JPEG" and image.mode == "RGBA":
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A"))
        image = flat
    image.save(target, kind, **options)


def _allow(size: tuple[int, int], number: int, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise _too_many_pixels(number, max_pixels)


def _too_many_pixels(number: int, max_pixels: int) -> ExecutorError:
    return ExecutorError(
        INPUT_TOO_LARGE, f"images.{number}: more than {max_pixels} pixels, at first or after an operation"
    )


def _bad(number: int, problem: str) -> ExecutorError:
    return ExecutorError(INVALID_PAYLOAD, f"images.{number}: {problem}")
