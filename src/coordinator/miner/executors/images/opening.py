"""Opening a stranger's picture: the whole file is checked, its first frame decoded and turned upright."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from coordinator.miner.executors.images.colours import normalise
from coordinator.miner.executors.images.operations import OF_ANY_DEPTH
from coordinator.miner.executors.images.picture import Picture, bad, check_pixels
from coordinator.miner.executors.images.saving import DEEP_FORMATS
from coordinator.miner.executors.images.whole import Cut, kind_of, pictures_in

FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "GIF", "BMP")
"""Formats with well maintained decoders. EPS, for one, would start another program."""
_NAMES: Final = "png, jpg, webp, tiff, avif, gif or bmp"
_STARTS: Final = {
    b"%PDF": "a PDF; render its pages to images first",
    b"%!PS": "PostScript; render it to an image first",
    b"<svg": "an SVG; render it to an image first",
    b"<?xml": "XML; if it is an SVG, render it to an image first",
    b"<!DOCTYPE": "a web page, no image; is the URL right?",
    b"<html": "a web page, no image; is the URL right?",
    b"8BPS": "a Photoshop file; export it first",
    b"PK\x03\x04": "a ZIP archive; send the images in it one by one",
}
_DAMAGES: Final = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, struct.error)
"""What Pillow's readers raise for broken files."""
_TIFF_NOTES: Final = frozenset(
    {
        *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software),
        *(ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.HostComputer, ExifTags.Base.Copyright),
        *(ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo),
    }
)
"""A TIFF's other tags describe its own pixels."""
_MP_ENTRIES: Final = 0xB002
_END_OF_JPEG: Final = b"\xff\xd9"
_MP_SEARCHED_BYTES: Final = 1 << 20
_HEIF: Final = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc")


def open_picture(source: Path, number: int, plan: Mapping[str, Any]) -> Picture:
    """The first frame of a file, whole and upright, as grey or RGB.

    Raises ExecutorError: INVALID_PAYLOAD if it is no image of FORMATS, is cut or damaged; INPUT_TOO_LARGE for
    too many pixels.
    """
    kind = kind_of(source)
    try:
        frames = pictures_in(source, kind)
        with Image.open(source, formats=FORMATS) as opened:
            check_pixels(opened.size, number, plan["max_pixels"])
            if kind != "GIF":  # Pillow would decode each frame to count them
                frames = max(frames, getattr(opened, "n_frames", 1))
            if opened.format == "MPO":
                _check_last_picture(opened, source)
            raw_mode = _raw_mode(opened)
            opened.load()
            return _picture(opened, number, raw_mode, frames, plan)
    except UnidentifiedImageError:
        raise bad(number, _not_an_image(source)) from None
    except Cut as cut:
        raise bad(number, f"the {kind} is not whole: {cut}; send it again") from None
    except _DAMAGES as error:
        early = "truncated" in str(error).lower()
        problem = (
            "ends early" if early else f"is damaged, or of a kind that can't be read ({type(error).__name__})"
        )
        raise bad(number, f"the {kind or 'image'} {problem}; send it again, or save it anew as png") from None


def _picture(opened: Any, number: int, raw_mode: str, frames: int, plan: Mapping[str, Any]) -> Picture:
    tags = dict(getattr(opened, "tag_v2", {}))
    picture = Picture(number, _upright(opened), opened.info.get("icc_profile"), dpi=opened.info.get("dpi"))
    if frames > 1:
        picture.note(f"the first of {frames} frames or pages was taken, the others were left out")
    if plan["keep_metadata"]:
        _keep_exif(picture, opened)
    deep = plan["output_format"] in DEEP_FORMATS and all(
        operation["operation"] in OF_ANY_DEPTH for operation in plan["operations"]
    )
    normalise(picture, raw_mode, tags, deep=deep, plan=plan)
    return picture


def _check_last_picture(opened: Any, source: Path) -> None:
    """Raise Cut if a JPEG of several pictures ends inside of a later one.

    Many programs leave out the later ones; and the sizes in the list are often wrong, the places are not.
    """
    with source.open("rb") as file:
        base = file.read(_MP_SEARCHED_BYTES).find(b"MPF\0") + 4  # places count from there
        size = file.seek(0, 2)
        starts = (entry["DataOffset"] + base for entry in opened.mpinfo[_MP_ENTRIES] if entry["DataOffset"])
        file.seek(max((start for start in starts if start < size), default=size))
        last = file.read()
    if last and _END_OF_JPEG not in last:
        raise Cut("it ends inside of a later picture")


def _raw_mode(opened: Any) -> str:
    """The layout of the file's pixels in Pillow's words, known until they are decoded."""
    if not opened.tile:
        return ""
    arguments = opened.tile[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _upright(opened: Any) -> Image.Image:
    try:
        turned = ImageOps.exif_transpose(opened)
    except Exception:
        # Broken notes: Pillow raises whatever its parser met. The pixels are fine.
        turned = opened.copy()
    assert isinstance(turned, Image.Image)
    return turned


def _keep_exif(picture: Picture, opened: Any) -> None:
    try:
        exif = opened.getexif()
        exif.pop(ExifTags.Base.Orientation, None)  # already applied
        if opened.format == "TIFF":
            for tag in set(exif) - _TIFF_NOTES:
                del exif[tag]
        exif.tobytes()
    except Exception:
        picture.note("its metadata is broken and was left out")
        return
    picture.exif = exif


def _not_an_image(source: Path) -> str:
    with source.open("rb") as file:
        start = file.read(64)
    if not start:
        return "the file is empty"
    for mark, what in _STARTS.items():
        if start.lstrip()[: len(mark)].lower() == mark.lower():
            return f"is {what}"
    if start[4:12] in _HEIF:
        return f"is HEIC, which is not read; convert it to {_NAMES}"
    return f"is not a whole image of a format that is read ({_NAMES}); convert it first"
