"""Profiles, gamma, backgrounds and notes of `image_processing`: what is converted, stays or leaves."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image, PngImagePlugin

from tests.harness import icc
from tests.harness.images import edited, encoded
from tests.integration.test_image_modes import FORMATS, chunk, halves, png, words

TURN = {"operation": "rotate", "degrees": 45}


def pixel(image: Image.Image, place: tuple[int, int] = (3, 3)) -> tuple[int, ...]:
    found = image.convert("RGBA" if image.mode in ("LA", "RGBA") else "RGB").getpixel(place)
    assert isinstance(found, tuple)
    return tuple(int(value) for value in found)


def near(one: tuple[int, ...], other: tuple[int, ...], tolerance: int = 3) -> bool:
    return len(one) == len(other) and all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("output_format", FORMATS)
def test_cmyk_goes_through_its_profile(tmp_path: Path, output_format: str) -> None:
    """Ink of cyan is red on this printer; the result is sRGB without the printer's profile."""
    content = encoded(Image.new("CMYK", (32, 32), (255, 0, 0, 0)), "TIFF", icc_profile=icc.cmyk_of_red_cyan())
    done = edited(tmp_path, content, output_format=output_format)
    assert near((255, 0, 0), pixel(done.image), 6), pixel(done.image)
    assert done.image.info.get("icc_profile") is None
    assert ["images.0: CMYK became sRGB through its profile"] == done.notes


@pytest.mark.parametrize(
    "profile", [b"\0\0\0\x84" + bytes(32), icc.display_p3(), icc.cmyk_of_red_cyan()[:132]]
)
def test_a_profile_that_does_not_fit_cmyk_leaves(tmp_path: Path, profile: bytes) -> None:
    """A broken profile, or one of RGB, is not kept on the converted picture, and the client is told."""
    content = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100, icc_profile=profile)
    done = edited(tmp_path, content, output_format="png")
    assert near((0, 255, 255), pixel(done.image))
    assert done.image.info.get("icc_profile") is None
    assert "its profile can't be used" in done.notes[0]


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_wide_colours_keep_their_profile_or_become_srgb(
    tmp_path: Path, output_format: str, mode: str
) -> None:
    """By default values and profile stay; `srgb` converts, here by the published matrices."""
    colour = (200, 100, 50, 255)[: len(mode)]
    content = encoded(Image.new(mode, (16, 16), colour), icc_profile=icc.display_p3())
    kept = edited(tmp_path, content, output_format=output_format)
    assert icc.display_p3() == kept.image.info.get("icc_profile")
    assert near((200, 100, 50), pixel(kept.image)[:3], 4)
    assert [] == [note for note in kept.notes if "colour" in note]

    made = edited(tmp_path, content, output_format=output_format, profile="srgb")
    linear = [(value / 255) ** 2.2 for value in colour[:3]]
    matrix = [(1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)]
    expected = []
    for row in matrix:
        light = sum(a * b for a, b in zip(row, linear, strict=True))
        expected.append(round(255 * (1.055 * max(light, 0.0031) ** (1 / 2.4) - 0.055)))
    assert near(tuple(expected), pixel(made.image)[:3], 5), (expected, pixel(made.image))
    assert made.image.info.get("icc_profile") is None
    assert "images.0: its colours were converted through its profile to sRGB" in made.notes


def test_grey_keeps_a_profile_of_grey_where_the_format_has_grey(tmp_path: Path) -> None:
    """PNG has grey; WebP has not: there the levels go through the profile (linear 128 is 188 in sRGB)."""
    content = encoded(Image.new("L", (16, 16), 128), icc_profile=icc.grey(1.0))
    kept = edited(tmp_path, content, output_format="png").image
    assert ("L", 128, icc.grey(1.0)) == (kept.mode, kept.getpixel((3, 3)), kept.info["icc_profile"])
    made = edited(tmp_path, content, output_format="webp").image
    assert near((188, 188, 188), pixel(made))
    assert made.info.get("icc_profile") is None


def test_a_profile_of_rgb_on_grey_makes_it_rgb(tmp_path: Path) -> None:
    """A JPEG of grey with the profile of its camera's RGB has equal colours and a profile that fits."""
    image = edited(tmp_path, encoded(Image.new("L", (8, 8), 90), icc_profile=icc.display_p3())).image
    assert ("RGB", (90, 90, 90), icc.display_p3()) == (image.mode, pixel(image), image.info["icc_profile"])


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], 128),
        ([chunk(b"gAMA", struct.pack(">I", 45455))], 128),
        ([chunk(b"gAMA", struct.pack(">I", 100000))], 186),
        ([chunk(b"sRGB", b"\0"), chunk(b"gAMA", struct.pack(">I", 100000))], 128),
    ],
)
@pytest.mark.parametrize("depth", [8, 16])
def test_the_gamma_of_a_png_is_applied(
    tmp_path: Path, chunks: list[bytes], expected: int, depth: int
) -> None:
    """Linear light is made sRGB's, as no output holds a gamma; the usual one and sRGB change nothing."""
    half = words(128 * 257) if depth == 16 else bytes([128] * 12)
    done = edited(tmp_path, png(depth, 0, half, half, *chunks), output_format="tiff")
    value = done.image.getpixel((3, 3))
    assert isinstance(value, int | float)
    assert expected == round(value / (257 if depth == 16 else 1))
    assert bool(done.notes) == (expected != 128)


@pytest.mark.parametrize(
    ("background", "expected"),
    [("#ffffff", (255, 255, 255)), ("#102030", (16, 32, 48)), ("#000000", (0, 0, 0))],
)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_the_background(
    tmp_path: Path, background: str, expected: tuple[int, ...], mode: str
) -> None:
    """In a JPEG the client's colour shows through, half where the picture is half transparent."""
    colours: tuple[Any, Any] = (
        ((200, 200, 200, 128), (0, 0, 0, 0)) if mode == "RGBA" else ((200, 128), (0, 0))
    )
    content = encoded(halves(mode, *colours))
    done = edited(tmp_path, content, output_format="jpg", quality=95, background=background)
    assert near(expected, pixel(done.image, (18, 8)), 4)
    half = tuple(round(200 * 128 / 255 + value * 127 / 255) for value in expected)
    assert near(half, pixel(done.image, (5, 8)), 4)
    assert [f"images.0: jpg has no transparency: laid on {background}"] == done.notes


@pytest.mark.parametrize(
    "operation",
    [
        {"operation": "resize", "width": 48, "height": 32},
        {"operation": "rotate", "degrees": 3},
        {"operation": "blur", "radius": 2},
        {"operation": "denoise", "strength": 1},
        {"operation": "sharpen", "strength": 1},
    ],
)
def test_invisible_pixels_lend_no_colour(tmp_path: Path, operation: dict[str, Any]) -> None:
    """Black behind full transparency leaves no dark fringe at the edge of white, also once flattened."""
    content = encoded(halves("RGBA", (255, 255, 255, 255), (0, 0, 0, 0)))
    image = edited(tmp_path, content, operation).image.convert("RGBA")
    seen = [pixel(image, (x, image.height // 2)) for x in range(image.width)]
    assert min(min(colour[:3]) for colour in seen if colour[3] > 16) >= 240
    flat = edited(tmp_path, content, operation, output_format="jpg", quality=95).image
    assert min(pixel(flat, (x, flat.height // 2))[0] for x in range(flat.width)) >= 240


def test_new_corners_are_transparent_or_the_background(tmp_path: Path) -> None:
    """A turned opaque picture gets the client's colour, a transparent one transparent corners."""
    for mode, colour in (("RGB", (9, 9, 9)), ("L", 9)):
        opaque = encoded(Image.new(mode, (20, 20), colour))
        assert (255, 255, 255) == pixel(edited(tmp_path, opaque, TURN).image, (0, 0))
        assert (1, 2, 3) == pixel(edited(tmp_path, opaque, TURN, background="#010203").image, (0, 0))
    clear = encoded(Image.new("RGBA", (20, 20), (9, 9, 9, 200)))
    assert 0 == pixel(edited(tmp_path, clear, TURN).image, (0, 0))[3]
    deep = edited(tmp_path, encoded(Image.new("I;16", (20, 20), 9)), TURN).image
    assert ("I;16", 65535) == (deep.mode, deep.getpixel((0, 0)))


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("keep", [True, False])
def test_notes_and_the_place_leave_unless_kept(tmp_path: Path, output_format: str, keep: bool) -> None:
    """GPS, camera, comments, texts and XMP are in no output by default; `keep_metadata` keeps the EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "SecretCamera"
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSMapDatum] = "SecretPlace"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "SecretText")
    texts.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>SecretXmp</x:xmpmeta>")
    image = Image.new("RGB", (30, 20), "red")
    sources = [
        encoded(image, "JPEG", exif=exif, comment=b"SecretComment", xmp=b"<x>SecretXmp</x>"),
        encoded(image, "PNG", exif=exif, pnginfo=texts),
        encoded(image, "WEBP", exif=exif, xmp=b"<x>SecretXmp</x>"),
        encoded(image, "TIFF", exif=exif, description="SecretText"),
    ]
    done = edited(tmp_path, sources, output_format=output_format, keep_metadata=keep)
    for number, made in enumerate(done.images):
        content = (tmp_path / f"output-{number}").read_bytes()
        assert (20, 30) == made.size
        assert made.getexif().get(ExifTags.Base.Orientation) in (None, 1)
        assert keep == (b"SecretCamera" in content)
        assert keep == (b"SecretPlace" in content) or number == 3  # Pillow writes no place into a TIFF
        if not keep:
            assert b"Secret" not in content
