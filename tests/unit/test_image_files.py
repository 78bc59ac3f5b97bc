"""Files of `image_processing`: cut, damaged, longer than they should be, of many frames, thin or turned."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from coordinator.miner.executors.errors import INVALID_PAYLOAD, ExecutorError
from tests.harness.images import edited, encoded

FRACTIONS = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)


def noise() -> Image.Image:
    random.seed(1)
    return Image.frombytes("RGB", (96, 64), random.randbytes(96 * 64 * 3))


def more() -> dict[str, Any]:
    return {"save_all": True, "append_images": [noise().rotate(90), noise().rotate(180)]}


FILES = {
    "png": encoded(noise()),
    "png of frames": encoded(noise(), "PNG", **more()),
    "jpg": encoded(noise(), "JPEG"),
    "progressive jpg": encoded(noise(), "JPEG", progressive=True),
    "jpg of several": encoded(noise(), "MPO", **more()),
    "gif": encoded(noise(), "GIF"),
    "gif of frames": encoded(noise(), "GIF", **more()),
    "webp": encoded(noise(), "WEBP"),
    "lossless webp": encoded(noise(), "WEBP", lossless=True),
    "webp of frames": encoded(noise(), "WEBP", **more()),
    "avif": encoded(noise(), "AVIF"),
    "avif of frames": encoded(noise(), "AVIF", **more()),
    "bmp": encoded(noise(), "BMP"),
    "tiff": encoded(noise(), "TIFF"),
    "big tiff": encoded(noise(), "TIFF", big_tiff=True),
    "tiff of jpeg": encoded(noise(), "TIFF", compression="jpeg"),
    "tiff of pages": encoded(noise(), "TIFF", compression="tiff_lzw", **more()),
    "fax": encoded(noise().convert("1"), "TIFF", compression="group4"),
}


def refusal(folder: Path, content: bytes, *operations: dict[str, object], **more: object) -> str:
    with pytest.raises(ExecutorError) as caught:
        edited(folder, content, *operations, **more)
    assert INVALID_PAYLOAD == caught.value.code
    assert not caught.value.retryable
    assert caught.value.detail.startswith("images.0: ")
    assert str(folder) not in caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_refused_and_bytes_after_its_end_are_not(tmp_path: Path, name: str) -> None:
    """Half of a picture is no picture, wherever it was cut, also behind its first frame."""
    content = FILES[name]
    whole = edited(tmp_path, content).image
    assert whole.tobytes() == edited(tmp_path, content + b"\0\xff,;!IEND after the end" * 9).image.tobytes()
    for fraction in FRACTIONS:
        refusal(tmp_path, content[: int(len(content) * fraction)])


@pytest.mark.parametrize("name", [name for name in FILES if "of " in name and "jpeg" not in name])
def test_the_first_frame_is_taken_and_told(tmp_path: Path, name: str) -> None:
    """Of an animation, or of pages, the output has one, and the client learns how many there were."""
    done = edited(tmp_path, FILES[name])
    assert (96, 64) == done.image.size
    assert ["images.0: the first of 3 frames or pages was taken, the others were left out"] == done.notes


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "images.0: the file is empty"),
        (b"<!doctype html><html>", "images.0: is a web page, no image; is the URL right?"),
        (b"%PDF-1.7", "images.0: is a PDF; render its pages to images first"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "images.0: is HEIC, which is not read"),
        (b"plain text", "images.0: is not a whole image of a format that is read (png, jpg, webp,"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, expected: str) -> None:
    """The refusal says what the file is, where that can be told, and what to do."""
    assert refusal(tmp_path, content).startswith(expected)


def test_damage_within_a_png_is_found(tmp_path: Path) -> None:
    """A changed byte in the pixels of a PNG breaks the checksum, even where it still unpacks."""
    content = bytearray(encoded(noise(), compress_level=0))
    content[len(content) // 2] ^= 1
    assert "its chunk IDAT is damaged" in refusal(tmp_path, bytes(content))


@pytest.mark.parametrize(
    "name",
    ["png", "png of frames", "jpg", "progressive jpg", "gif", "gif of frames", "lossless webp", "avif"],
)
def test_a_download_that_was_not_finished_is_refused(tmp_path: Path, name: str) -> None:
    """A file of the right length whose second half is zeros is no picture; one of a single colour is."""
    content = FILES[name]
    half = len(content) // 2
    refusal(tmp_path, content[:half] + bytes(len(content) - half))
    kind, options = {"jpg": "JPEG", "progressive jpg": "JPEG"}.get(name, name.split()[-1].upper()), {}
    if "of" not in name:
        options = {"progressive": True} if "progressive" in name else {"lossless": True}
        for colour in ("black", "white"):
            flat = Image.new("RGB", (400, 300), colour)
            made = edited(tmp_path, encoded(flat, kind, **options), output_format="png").image
            assert flat.getpixel((9, 9)) == made.convert("RGB").getpixel((9, 9))


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (1, 1)])
@pytest.mark.parametrize("fit", ["contain", "cover", "stretch"])
@pytest.mark.parametrize("output_format", ["png", "jpg", "webp", "tiff", "avif"])
def test_thin_pictures(tmp_path: Path, size: tuple[int, int], fit: str, output_format: str) -> None:
    """A line keeps at least one pixel of its shorter side."""
    content = encoded(Image.new("RGB", size, (10, 200, 30)))
    resize = {"operation": "resize", "width": 100, "height": 100, "fit": fit}
    image = edited(tmp_path, content, resize, output_format=output_format).image
    expected = (
        (100, 100) if fit != "contain" else tuple(min(100, max(1, round(100 * n / max(size)))) for n in size)
    )
    assert expected == image.size
    colour = image.convert("RGB").getpixel((0, 0))
    assert isinstance(colour, tuple)
    assert all(abs(one - other) < 9 for one, other in zip(colour, (10, 200, 30), strict=True))


@pytest.mark.parametrize(("output_format", "side"), [("webp", 16_384), ("jpg", 65_501)])
def test_sides_that_the_format_lacks(tmp_path: Path, output_format: str, side: int) -> None:
    """What a format can't hold is refused with its limit and what to try."""
    detail = refusal(tmp_path, encoded(Image.new("L", (side, 1))), output_format=output_format)
    assert f"images.0: {side} x 1 is more than {output_format} can hold ({side - 1} a side)" in detail
    assert "resize it, or choose png or tiff" in detail


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    """Whatever the EXIF orientation says, the red corner of the scene is at its top left."""
    upright = Image.new("RGB", (64, 32), "blue")
    upright.paste("red", (0, 0, 32, 16))
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = upright if stored is None else upright.transpose(stored)
    image = edited(tmp_path, encoded(turned, kind, exif=exif)).image
    assert (64, 32) == image.size
    corners = [image.convert("RGB").getpixel(place) for place in ((8, 4), (56, 4), (8, 28), (56, 28))]
    reds = [isinstance(colour, tuple) and colour[0] > 128 for colour in corners]
    assert [True, False, False, False] == reds


def test_broken_notes_cost_no_picture(tmp_path: Path) -> None:
    """A picture with unreadable EXIF is edited without it, and the client is told if it was to be kept."""
    content = encoded(noise(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\xff\xff")
    assert (96, 64) == edited(tmp_path, content).image.size
    assert (96, 64) == edited(tmp_path, content, keep_metadata=True).image.size
