"""Every mode of pixels, output format and operation of `image_processing`: the colours stay."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.harness.images import edited, encoded

SIZE = (24, 16)
LEFT, RIGHT = (5, 8), (18, 8)
FORMATS = ("png", "jpg", "webp", "tiff", "avif")
OPERATIONS: list[dict[str, Any]] = [
    {"operation": "resize", "width": 48, "height": 32},
    {"operation": "resize", "width": 24, "height": 24, "fit": "cover"},
    {"operation": "resize", "width": 12, "height": 40, "fit": "stretch"},
    {"operation": "crop", "left": 0, "top": 2, "width": 1000, "height": 12},
    {"operation": "rotate", "degrees": 360},
    {"operation": "rotate", "degrees": 5},
    {"operation": "flip", "direction": "vertical"},
    {"operation": "denoise"},
    {"operation": "sharpen"},
    {"operation": "blur", "radius": 0.5},
    {"operation": "adjust"},
]
Colour = tuple[int, int, int, int]
ORANGE, GREY, NOTHING = (255, 128, 0, 255), (90, 90, 90, 255), (255, 255, 255, 0)


def halves(mode: str, left: Any, right: Any) -> Image.Image:
    image = Image.new(mode, SIZE, right)
    image.paste(left, (0, 0, SIZE[0] // 2, SIZE[1]))
    return image


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(depth: int, kind: int, left: bytes, right: bytes, *chunks: bytes) -> bytes:
    """A PNG of two halves with any depth and kind of pixels; `left` and `right` are half rows."""
    row = b"\0" + left + right
    head = struct.pack(">IIBBBBB", *SIZE, depth, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", zlib.compress(row * SIZE[1])), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values) * (SIZE[0] // 2)


def tiff(
    bits: tuple[int, ...], sample_format: int, photometric: int, left: bytes, right: bytes, **more: Any
) -> bytes:
    """An uncompressed TIFF, little-endian."""
    pixels = (left + right) * SIZE[1]
    order = ">" if more.get("big") else "<"
    entries: list[tuple[int, int, tuple[int, ...]]] = [
        (256, 3, (SIZE[0],)),
        (257, 3, (SIZE[1],)),
        (258, 3, bits),
        (259, 3, (1,)),
        (262, 3, (photometric,)),
        (273, 4, (0,)),
        (277, 3, (len(bits),)),
        (278, 3, (SIZE[1],)),
        (279, 4, (len(pixels),)),
        (339, 3, (sample_format,) * len(bits)),
    ]
    after = 8 + 2 + 12 * len(entries) + 4
    tail = b""
    table = struct.pack(f"{order}H", len(entries))
    place_of_pixels = after + sum(
        2 * len(values) for _, kind, values in entries if kind == 3 and len(values) > 2
    )
    for tag, kind, values in entries:
        there = (place_of_pixels,) if tag == 273 else values
        packed = struct.pack(f"{order}{len(there)}{'H' if kind == 3 else 'I'}", *there)
        if len(packed) > 4:
            place = after + len(tail)
            tail += packed
            packed = struct.pack(f"{order}I", place)
        table += struct.pack(f"{order}HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    start = b"MM\0*" if order == ">" else b"II*\0"
    return start + struct.pack(f"{order}I", 8) + table + bytes(4) + tail + pixels


def half(form: str, *values: float) -> bytes:
    return struct.pack(form, *values) * (SIZE[0] // 2)


def palette(*, alpha: bytes | int | None = None) -> bytes:
    image = halves("P", 3, 7)
    image.putpalette([0, 0, 0] * 3 + list(ORANGE[:3]) + [0, 0, 0] * 3 + list(GREY[:3]))
    return encoded(image, "PNG", **({} if alpha is None else {"transparency": alpha}))


def lab() -> bytes:
    return encoded(halves("LAB", (255, 128, 128), (0, 128, 128)), "TIFF")


BLACK, WHITE = (0, 0, 0, 255), (255, 255, 255, 255)
CASES: dict[str, tuple[Callable[[], bytes], Colour, Colour]] = {
    "1": (lambda: encoded(halves("1", 1, 0)), WHITE, BLACK),
    "1 with a transparent level": (
        lambda: png(1, 0, b"\xff", b"\xf0\x00", chunk(b"tRNS", b"\0\0")),
        WHITE,
        NOTHING,
    ),
    "L": (lambda: encoded(halves("L", 255, 90)), WHITE, GREY),
    "L of 2 bits, transparent": (
        lambda: png(2, 0, b"\xaa\xaa\xaa", b"\x55\x55\x55", chunk(b"tRNS", b"\0\1")),
        (170, 170, 170, 255),
        NOTHING,
    ),
    "L of 4 bits, transparent": (
        lambda: png(4, 0, b"\x66" * 6, b"\x55" * 6, chunk(b"tRNS", b"\0\5")),
        (102, 102, 102, 255),
        NOTHING,
    ),
    "LA": (lambda: encoded(halves("LA", (90, 255), (10, 0))), GREY, NOTHING),
    "P": (palette, ORANGE, GREY),
    "P with a transparent index": (lambda: palette(alpha=7), ORANGE, NOTHING),
    "P with alpha by index": (lambda: palette(alpha=bytes([9] * 7 + [0])), (255, 128, 0, 9), NOTHING),
    "GIF": (lambda: encoded(halves("RGB", ORANGE[:3], GREY[:3]), "GIF"), ORANGE, GREY),
    "PA": (
        lambda: encoded(halves("RGBA", ORANGE, (7, 7, 7, 0)).convert("PA").convert("RGBA")),
        ORANGE,
        NOTHING,
    ),
    "RGB": (lambda: encoded(halves("RGB", ORANGE[:3], GREY[:3])), ORANGE, GREY),
    "RGB of 16 bits": (
        lambda: png(16, 2, words(0xFFFF, 0x80FF, 0x0012), words(0x5AFF, 0x5A00, 0x5A80)),
        ORANGE,
        GREY,
    ),
    "RGB of 16 bits, transparent": (
        lambda: png(
            16,
            2,
            words(65535, 0x8080, 0),
            words(0x1234, 0x5678, 0x9ABC),
            chunk(b"tRNS", b"\x12\x34\x56\x78\x9a\xbc"),
        ),
        ORANGE,
        NOTHING,
    ),
    "LA of 16 bits": (lambda: png(16, 4, words(0x5AFF, 65535), words(12, 0)), GREY, NOTHING),
    "RGBA of 16 bits": (
        lambda: png(16, 6, words(65535, 0x80FF, 0, 65535), words(1, 2, 3, 0)),
        ORANGE,
        NOTHING,
    ),
    "RGBA": (lambda: encoded(halves("RGBA", ORANGE, (0, 0, 0, 0))), ORANGE, NOTHING),
    "RGBa": (
        lambda: encoded(halves("RGBA", ORANGE, (0, 0, 0, 0)).convert("RGBa").convert("RGBA"), "TIFF"),
        ORANGE,
        NOTHING,
    ),
    "YCbCr": (lambda: encoded(halves("YCbCr", (255, 128, 128), (90, 128, 128)), "TIFF"), WHITE, GREY),
    "CMYK": (lambda: encoded(halves("CMYK", (0, 127, 255, 0), (0, 0, 0, 165)), "TIFF"), ORANGE, GREY),
    "CMYK of a JPEG, inverted": (
        lambda: encoded(halves("CMYK", (0, 127, 255, 0), (0, 0, 0, 165)), "JPEG", quality=95),
        ORANGE,
        GREY,
    ),
    "LAB": (lab, WHITE, BLACK),
    "I;16": (lambda: encoded(halves("I;16", 65535, 90 * 257)), WHITE, GREY),
    "I;16 of a TIFF": (lambda: tiff((16,), 1, 1, half("<H", 65535), half("<H", 90 * 257)), WHITE, GREY),
    "I;16B": (lambda: tiff((16,), 1, 1, half(">H", 65535), half(">H", 90 * 257), big=True), WHITE, GREY),
    "I;16, white is zero": (lambda: tiff((16,), 1, 0, half("<H", 0), half("<H", 165 * 257)), WHITE, GREY),
    "I;16 with a transparent level": (
        lambda: png(
            16, 0, words(90 * 257), words(90 * 257 + 1), chunk(b"tRNS", struct.pack(">H", 90 * 257 + 1))
        ),
        GREY,
        NOTHING,
    ),
    "I of signed 16 bits": (lambda: tiff((16,), 2, 1, half("<h", 255), half("<h", 90)), WHITE, GREY),
    "I of signed 16 bits below 0": (
        lambda: tiff((16,), 2, 1, half("<h", 500), half("<h", -500)),
        WHITE,
        BLACK,
    ),
    "I of 32 bits": (lambda: tiff((32,), 2, 1, half("<i", 65535), half("<i", 90 * 257)), WHITE, GREY),
    "I of unsigned 32 bits": (
        lambda: tiff((32,), 1, 1, half("<I", 2**32 - 1), half("<I", 90 << 24)),
        WHITE,
        GREY,
    ),
    "F to 1": (lambda: tiff((32,), 3, 1, half("<f", 1.0), half("<f", 90 / 255)), WHITE, GREY),
    "F to 255": (lambda: tiff((32,), 3, 1, half("<f", 255.0), half("<f", 90.0)), WHITE, GREY),
    "JPEG": (lambda: encoded(halves("RGB", ORANGE[:3], GREY[:3]), "JPEG", quality=95), ORANGE, GREY),
    "WebP": (lambda: encoded(halves("RGBA", ORANGE, (9, 9, 9, 0)), "WEBP", lossless=True), ORANGE, NOTHING),
    "AVIF": (lambda: encoded(halves("RGBA", ORANGE, (9, 9, 9, 0)), "AVIF", quality=95), ORANGE, NOTHING),
    "BMP": (lambda: encoded(halves("RGB", ORANGE[:3], GREY[:3]), "BMP"), ORANGE, GREY),
    "BMP of 1 bit": (lambda: encoded(halves("1", 1, 0), "BMP"), WHITE, BLACK),
}


def levels(image: Image.Image) -> Image.Image:
    """The output as RGBA of 8 bits."""
    return (
        image.point(lambda value: value / 257).convert("L").convert("RGBA")
        if image.mode == "I;16"
        else image.convert("RGBA")
    )


def assert_shows(
    image: Image.Image, place: tuple[float, float], expected: Colour, where: str, tolerance: int
) -> None:
    found = levels(image).getpixel((int(place[0] * image.width), int(place[1] * image.height)))
    assert isinstance(found, tuple)
    if expected[3] < 128 and image.mode in ("RGB", "L"):
        part = expected[3] / 255
        expected = (*(round(255 + (value - 255) * part) for value in expected[:3]), 255)  # type: ignore[assignment]
    pairs = [(found[3], expected[3])] if expected[3] < 10 else list(zip(found, expected, strict=True))
    assert max(abs(one - other) for one, other in pairs) <= tolerance, f"{where}: {found}, not {expected}"


@pytest.mark.parametrize("output_format", FORMATS)
def test_every_mode_through_every_operation(tmp_path: Path, output_format: str) -> None:
    """Both halves of a picture keep their colours, whatever the pixels were, the format is and is done."""
    tolerance = {"png": 3, "tiff": 3}.get(output_format, 16)
    for name, (made, left, right) in CASES.items():
        content = made()
        for operation in [None, *OPERATIONS]:
            where = f"{name} as {output_format} after {operation}"
            image = edited(
                tmp_path, content, *([operation] if operation else []), output_format=output_format
            ).image
            assert_shows(image, (0.22, 0.5), left, where, tolerance)
            assert_shows(image, (0.78, 0.5), right, where, tolerance)
