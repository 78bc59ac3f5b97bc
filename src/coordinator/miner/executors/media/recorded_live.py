"""Containers that are written while the recording runs, so that their headers may promise no length.

ffmpeg then takes what it finds in the file for the length, and half of such a file is a whole one to it.
Sources: ISO/IEC 14496-12 (fragments), and the specifications of FLV (Adobe), NUT, IVF and YUV4MPEG2.
"""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, NamedTuple

from coordinator.miner.executors.media.containers import Container

MAX_BOXES: Final = 200_000
"""Walked through at most: two a second of a day. The end of a file with more is not looked at."""
MAX_HEADER_BYTES: Final = 1 << 20
_STARTS_OF_MP4: Final = (b"ftyp", b"styp", b"moov", b"moof")
_BOXES_OF_FRAGMENTS: Final = (b"moof", b"mdat", b"mfra", b"sidx", b"styp", b"emsg", b"prft")
_OPEN: Final = Container(is_open=True)
_NUT_INDEX: Final = bytes.fromhex("4e58dd672f23e64e")
_STREAMED_FRAMES: Final = (0, 0xFFFF_FFFF)
"""Counts of frames that writers to pipes leave in an IVF."""
_CHROMA_OF_Y4M: Final = {"420": (2, 2), "411": (4, 1), "422": (2, 1), "444": (1, 1)}
"""Columns and rows of pixels that share a sample of each of the two colours."""


class _Box(NamedTuple):
    """`end` may lie behind the end of the file."""

    name: bytes
    body: int
    end: int


# --- fragmented mp4 -----------------------------------------------------------------------------------------
def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[_Box]:
    for _ in range(MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        if start + 8 > end or len(head) < 8:
            return
        size, name, body = int.from_bytes(head[:4], "big"), head[4:8], start + 8
        if size == 1:
            size, body = int.from_bytes(head[8:16], "big"), start + 16
        elif size == 0:  # until the file's end
            size = end - start
        if size < body - start:
            return
        yield _Box(name, body, start + size)
        start += size


def _mp4(file: BinaryIO, size: int) -> Container:
    """Fragments end anywhere; the header (`mehd`) or an index (`sidx`, `mfra`) says where they should."""
    promised, fragments, last = None, 0, b""
    indexed: Counter[int] = Counter()
    for box in _boxes(file, 0, size):
        if box.end > size:
            if fragments and box.name in _BOXES_OF_FRAGMENTS:
                missing = box.end - size
                cut = f"{missing} of the bytes of its last fragment are missing"
                return Container(promised, cut, is_open=promised is None)
            return Container()
        last = box.name
        if box.name == b"moov":
            promised = _promise(file, box)
        elif box.name == b"moof":
            fragments += 1
        elif box.name == b"sidx":
            file.seek(box.body + 4)
            indexed[int.from_bytes(file.read(4), "big")] += 1
    if not fragments:
        return Container()  # its index has the length
    # One index for several fragments is written before they are: ffmpeg reads the length in it.
    is_indexed = fragments > 1 and bool(indexed) and max(indexed.values()) == 1
    return Container(promised, is_whole=last == b"mfra", is_open=promised is None and not is_indexed)


def _promise(file: BinaryIO, moov: _Box) -> float | None:
    """The seconds of all fragments by `mehd`; None without it."""
    scale, length = 0, 0
    for box in _boxes(file, moov.body, moov.end):
        if box.name == b"mvhd":
            file.seek(box.body)
            header = file.read(24)
            scale = struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)[0]
        elif box.name == b"mvex":
            for inner in _boxes(file, box.body, box.end):
                if inner.name == b"mehd":
                    file.seek(inner.body)
                    header = file.read(12)
                    length = struct.unpack_from(">Q" if header[0] == 1 else ">I", header, 4)[0]
    return length / scale if length and scale else None


# --- others -------------------------------------------------------------------------------------------------
def _flv(file: BinaryIO, size: int) -> Container:
    """The script's member `duration`, an AMF number; live recorders leave it out, or leave a 0."""
    file.seek(0)
    header = file.read(min(size, 1 << 16))
    place = header.find(b"duration\x00")
    if place < 0 or struct.unpack_from(">d", header, place + 9)[0] <= 0:
        return _OPEN
    return Container()


def _nut(file: BinaryIO, size: int) -> Container:
    """A whole file ends in an index, which ends in its own length and a checksum."""
    file.seek(-12, os.SEEK_END)
    length = int.from_bytes(file.read(8), "big")
    if 0 < length <= size:
        file.seek(size - length)
        if file.read(8) == _NUT_INDEX:
            return Container(is_whole=True)
    return _OPEN


def _ivf(file: BinaryIO, _: int) -> Container:
    file.seek(24)
    return _OPEN if int.from_bytes(file.read(4), "little") in _STREAMED_FRAMES else Container()


def _y4m(file: BinaryIO, size: int) -> Container:
    """Frames of equal size, each behind a line; nothing counts them."""
    file.seek(0)
    line, newline, rest = file.read(1 << 10).partition(b"\n")
    words = {word[:1]: word[1:] for word in line.decode("ascii").split()[1:]}
    form = re.fullmatch(r"(420|411|422|444|mono)(?:jpeg|mpeg2|paldv)?(p?\d\d)?", words.get("C", "420"))
    if not newline or form is None or not rest.startswith(b"FRAME\n"):
        return _OPEN
    width, height = int(words["W"]), int(words["H"])
    samples = width * height
    if form[1] in _CHROMA_OF_Y4M:  # odd sides are rounded up
        columns, rows = _CHROMA_OF_Y4M[form[1]]
        samples += 2 * -(-width // columns) * -(-height // rows)
    frame = len(b"FRAME\n") + samples * (2 if form[2] else 1)
    whole = (size - len(line) - 1) % frame == 0
    return _OPEN if whole else Container(cut="its last frame is incomplete", is_open=True)


LOOKS: Final[tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], Container]], ...]] = (
    (lambda start: start[4:8] in _STARTS_OF_MP4, _mp4),
    (lambda start: start[:3] == b"FLV", _flv),
    (lambda start: start[:24] == b"nut/multimedia container", _nut),
    (lambda start: start[:4] == b"DKIF", _ivf),
    (lambda start: start[:10] == b"YUV4MPEG2 ", _y4m),
)
"""By the first 40 bytes of a file."""
