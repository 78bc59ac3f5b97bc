"""Whether a picture's file is whole, and how many pictures it holds, by the marks of its container.

Pillow decodes one frame and looks no further: a file that was cut behind its first frame, or whose rows are
damaged and still unpack, would pass. Each format is walked once; bytes after its end are allowed.
Sources: PNG (ISO/IEC 15948), JPEG (ITU-T T.81), GIF89a, the WebP container, TIFF 6.0 and BigTIFF, ISO/IEC
14496-12 (AVIF).
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

MAX_PAGES: Final = 100_000
_PNG_START: Final = 8
_CHUNK_BYTES: Final = 1 << 20
_KINDS: Final = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    *((mark, "TIFF") for mark in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)
_BOXES: Final = frozenset({b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"uuid", b"idat"})
_FEWEST_ZEROS: Final = 64
_JPEG_END: Final = 0xD9
_JPEG_SCAN: Final = 0xDA
_JPEG_MARK: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The next mark behind the pixels of a scan, among which are only restarts."""
_TYPE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value by its type in TIFF; only those that offsets and lengths may have."""
_PLACES: Final = {273: "strip", 324: "tile"}
"""Tags with the places of the pixels; the tag of their lengths is `_LENGTHS`."""
_LENGTHS: Final = {273: 279, 324: 325}


class Cut(Exception):
    """The file ends early or is damaged; the text is for the client."""


def kind_of(path: Path) -> str | None:
    """Pillow's name of the file's format, by its first bytes; None for a file of none of ours."""
    with path.open("rb") as file:
        start = file.read(64)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp" and (b"avif" in start or b"avis" in start):
        return "AVIF"
    return next((kind for mark, kind in _KINDS if start.startswith(mark)), None)


def _named(chunk: bytes) -> str:
    return f"its chunk {chunk.decode('ascii')}" if chunk.isalnum() and chunk.isascii() else "a chunk"


def pictures_in(path: Path, kind: str | None) -> int:
    """The number of frames or pages of a file of Pillow's format `kind`. Raises Cut.

    1 for formats with one picture, which Pillow's decoder checks by itself.
    """
    walk = _WALKS.get(kind or "")
    if walk is None:
        return 1
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            return walk(file, size)
        except struct.error:
            raise Cut("its end is missing") from None


def _png(file: BinaryIO, size: int) -> int:
    file.seek(_PNG_START)
    frames = 1
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        if file.tell() + length + 4 > size:
            raise Cut(f"it ends inside of {_named(kind)}")
        checksum = zlib.crc32(kind)
        first = file.read(min(length, 4)) if kind == b"acTL" else b""
        checksum, left = zlib.crc32(first, checksum), length - len(first)
        while left:
            part = file.read(min(left, _CHUNK_BYTES))
            checksum, left = zlib.crc32(part, checksum), left - len(part)
        stored = struct.unpack(">I", file.read(4))[0]
        # As libpng does: damage in a chunk that is not critical (a note) costs no picture.
        if kind[:1].isupper() and stored != checksum:
            raise Cut(f"{_named(kind)} is damaged (checksum)")
        if len(first) == 4:
            frames = max(1, struct.unpack(">I", first)[0])
        if kind == b"IEND":
            return frames


def _gif(file: BinaryIO, size: int) -> int:
    _, flags = struct.unpack("<10sB", file.read(11))
    file.seek(2 + _colours(flags), 1)
    frames = 0
    while mark := file.read(1):
        if mark == b";":
            break
        if mark == b",":
            file.seek(8, 1)
            [flags] = file.read(1) or struct.unpack("B", b"")
            file.seek(_colours(flags) + 1, 1)
            frames += 1
        elif mark == b"!":
            file.seek(1, 1)
        else:
            raise Cut("a frame is followed by something else")
        while True:
            [length] = struct.unpack("B", file.read(1))
            if not length:
                break
            if file.seek(length, 1) > size:
                raise Cut("it ends inside of a frame")
    return frames


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(file: BinaryIO, size: int) -> int:
    _, length, _ = struct.unpack("<4sI4s", file.read(12))
    # Some programs leave out the last byte, which only pads.
    if length + 8 > size + 1:
        raise Cut(f"{length + 8 - size} of its {length + 8} bytes are missing")
    end, frames, kind = min(length + 8, size), 0, b""
    while file.tell() + 8 <= end:
        kind, part = struct.unpack("<4sI", file.read(8))
        frames += kind == b"ANMF"
        if file.seek(part + (part & 1), 1) > end + 1:
            raise Cut(f"it ends inside of {_named(kind)}")
    if kind == b"VP8L":  # lossy pixels of one colour may end in zeros
        _check_end(file, end)
    return max(1, frames)


def _avif(file: BinaryIO, size: int) -> int:
    place = 0
    while place + 8 <= size:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind not in _BOXES or length == 0:
            break  # the last box, or bytes after the end
        if length == 1:
            [length] = struct.unpack(">Q", file.read(8))
        if length < 8:
            raise Cut("a box of the file is damaged")
        place += length
        if place > size:
            raise Cut(f"{place - size} bytes are missing at its end")
        if kind == b"mdat":
            _check_end(file, place)
    return 1  # Pillow knows the frames


def _check_end(file: BinaryIO, end: int) -> None:
    """Raise Cut for compressed pixels that end in zeros: so does a file that was set up and never filled."""
    length = max(_FEWEST_ZEROS, end // 4)
    file.seek(max(0, end - length))
    if end > length and not file.read(length).strip(b"\0"):
        raise Cut("its end is nothing but zeros, as of a download that was not finished")


def _jpeg(file: BinaryIO, size: int) -> int:
    """Looks for the end of the picture: behind missing pixels, and zeros in their place, there is none."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = 2
        while place + 4 <= size:
            if content[place] != 0xFF:
                return 1  # a strange file: Pillow decides
            mark = content[place + 1]
            if mark == 0xFF:
                place += 1
                continue
            if mark == _JPEG_END:
                return 1
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
            if mark == _JPEG_SCAN:
                found = _JPEG_MARK.search(content, place)
                if found is None:
                    break
                place = found.start()
        if content[place : place + 2] == bytes([0xFF, _JPEG_END]):
            return 1
    raise Cut("its pixels end early")


def _tiff(file: BinaryIO, size: int) -> int:
    order = "<" if file.read(2) == b"II" else ">"
    big = struct.unpack(f"{order}H", file.read(2))[0] == 43
    if big:
        file.seek(4, 1)
    count_of, place_of = (f"{order}Q", f"{order}Q") if big else (f"{order}H", f"{order}I")

    def one(form: str) -> int:
        value: int = struct.unpack(form, file.read(struct.calcsize(form)))[0]
        return value

    place, seen = one(place_of), set[int]()
    while place and len(seen) < MAX_PAGES:
        if place in seen:
            raise Cut("its pages lead in a circle")
        seen.add(place)
        if place >= size:
            raise Cut(f"page {len(seen)} is missing")
        file.seek(place)
        entries: dict[int, tuple[int, ...]] = {}
        for _ in range(one(count_of)):
            tag, kind, count = one(f"{order}H"), one(f"{order}H"), one(place_of)
            value = file.read(8 if big else 4)
            if tag in (*_PLACES, *_LENGTHS.values()) and kind in _TYPE_BYTES:
                entries[tag] = _values(file, value, kind, count, order, size)
        place = one(place_of)
        for tag, name in _PLACES.items():
            lengths = entries.get(_LENGTHS[tag], ())
            for start, length in zip(entries.get(tag, ()), lengths, strict=False):
                if start + length > size:
                    raise Cut(f"page {len(seen)}: a {name} of pixels ends behind the end of the file")
    return max(1, len(seen))


def _values(file: BinaryIO, value: bytes, kind: int, count: int, order: str, size: int) -> tuple[int, ...]:
    """The values of an entry: in it, or at the place that it names."""
    width = _TYPE_BYTES[kind]
    if width * count > size:
        raise Cut("a page's list of pixels is longer than the file")
    if width * count > len(value):
        back = file.tell()
        file.seek(struct.unpack(f"{order}{'Q' if len(value) == 8 else 'I'}", value)[0])
        value = file.read(width * count)
        file.seek(back)
    return struct.unpack(f"{order}{count}{ {1: 'B', 2: 'H', 4: 'I', 8: 'Q'}[width] }", value[: width * count])


_WALKS: Final[dict[str, Callable[[BinaryIO, int], int]]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "GIF": _gif,
    "WEBP": _webp,
    "AVIF": _avif,
    "TIFF": _tiff,
}
