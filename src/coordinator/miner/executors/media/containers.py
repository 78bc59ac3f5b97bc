"""The size and length that some containers promise in their own headers.

ffmpeg takes a shorter file for the truth here: half a WAV is a WAV of half the length to it, and half an Ogg
or a transport stream is a whole one. Sources: RIFF (Microsoft, 1991), EBU Tech 3306 (RF64), Sony Wave64,
Apple's CAF, the AVI and ASF specifications, RFC 3533 (Ogg), ISO 13818-1 (transport streams).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Final, NamedTuple

MAX_CHUNKS: Final = 10_000
"""Walked through at most: a hostile file may consist of empty ones."""
SLACK_BYTES: Final = 64
"""Some writers count headers into the size of the sound."""
_STREAMED_LOW: Final = range(0x7FFF_0000, 0x8000_0100)
_STREAMED_HIGH: Final = range(0xFFFF_0000, 0x1_0000_0000)
"""Sizes that writers to pipes leave in a header that they can't correct; 0 is one more."""
_MAX_OGG_PAGE: Final = 27 + 255 + 255 * 255
_W64_RIFF: Final = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_FORM: Final = bytes.fromhex("666d7420f3acd3118cd100c04f8edb8a")
_W64_DATA: Final = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")
_ASF_HEADER: Final = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE: Final = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


@dataclass(frozen=True, slots=True)
class Container:
    """The promises of a header, and whether the file keeps them."""

    promised: float | None = None
    """Seconds; None if the header says none."""
    cut: str = ""
    """The reason why the file is certainly cut."""
    is_whole: bool = False
    """Whether all that the header promises is there."""
    remark: str = ""
    """For the client, about a file that can be read and is odd."""
    is_open: bool = False
    """Whether nothing promises a length: ffmpeg's duration is that of what it found."""


class _Chunk(NamedTuple):
    name: bytes
    start: int
    size: int


def _number(content: bytes, start: int, size: int) -> int:
    if len(content) < start + size:
        raise ValueError("too short")
    return int.from_bytes(content[start : start + size], "little")


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def _missing(end: int, size: int, what: str) -> str:
    lacks = end - size
    return f"{lacks} of the bytes of its {what} are missing" if lacks > SLACK_BYTES else ""


# --- sound in chunks: WAV, Wave64, CAF ----------------------------------------------------------------------
def _riff_chunks(file: BinaryIO, start: int, end: int) -> Iterator[_Chunk]:
    for _ in range(MAX_CHUNKS):
        head = _read(file, start, 8)
        if len(head) < 8 or start >= end:
            return
        chunk = _Chunk(head[:4], start + 8, _number(head, 4, 4))
        yield chunk
        start = chunk.start + chunk.size + chunk.size % 2


def _wav(file: BinaryIO, size: int) -> Container:
    rate, large = 0, 0
    for chunk in _riff_chunks(file, 12, size):
        if chunk.name == b"ds64":
            large = _number(_read(file, chunk.start, 16), 8, 8)
        elif chunk.name == b"fmt ":
            rate = _number(_read(file, chunk.start, 12), 8, 4)
        elif chunk.name == b"data":
            length = large if large and chunk.size == 0xFFFF_FFFF else chunk.size
            if not large and (not length or length in _STREAMED_LOW or length in _STREAMED_HIGH):
                return Container()
            container = _samples(chunk.start, length, size, rate)
            return replace(container, remark=_left_over(file, chunk.start + length, size))
    return Container()


def _left_over(file: BinaryIO, end: int, size: int) -> str:
    """A remark on bytes behind the sound that are no chunk: a header may promise too little."""
    end += end % 2
    name = _read(file, end, 4)
    if size - end <= SLACK_BYTES or all(0x20 <= byte < 0x7F for byte in name):
        return ""
    return f"{size - end} bytes behind the sound were not read: by its header the sound ends before them"


def _samples(start: int, length: int, size: int, bytes_a_second: int) -> Container:
    cut = _missing(start + length, size, "sound")
    return Container(length / bytes_a_second if bytes_a_second else None, cut, is_whole=not cut)


def _wave64(file: BinaryIO, size: int) -> Container:
    start, rate = 40, 0
    for _ in range(MAX_CHUNKS):
        head = _read(file, start, 24)
        length = _number(head, 16, 8)  # with its own header
        if length < 24:
            break
        if head[:16] == _W64_FORM:
            rate = _number(_read(file, start + 24, 12), 8, 4)
        elif head[:16] == _W64_DATA:
            return _samples(start + 24, length - 24, size, rate)
        start += (length + 7) // 8 * 8
    return Container()


def _caf(file: BinaryIO, size: int) -> Container:
    start = 8
    for _ in range(MAX_CHUNKS):
        head = _read(file, start, 12)
        length = int.from_bytes(head[4:12], "big", signed=True)
        if len(head) < 12 or (head[:4] == b"data" and length < 0):
            break
        if head[:4] == b"data":
            cut = _missing(start + 12 + length, size, "sound")
            return Container(None, cut, is_whole=not cut)
        start += 12 + length
    return Container()


# --- video: AVI, ASF, transport streams ---------------------------------------------------------------------
def _avi(file: BinaryIO, size: int) -> Container:
    promised, cut, has_index = None, "", False
    for part in _riff_chunks(file, 0, size):
        if part.name != b"RIFF":
            break
        for chunk in _riff_chunks(file, part.start + 4, min(size, part.start + part.size)):
            if chunk.name == b"idx1":
                has_index = True
            elif chunk.name == b"LIST" and (kind := _read(file, chunk.start, 4)) == b"hdrl":
                promised = _avi_seconds(_read(file, chunk.start, min(chunk.size, 1 << 16)))
            elif chunk.name == b"LIST" and kind == b"movi" and not _is_streamed(chunk.size):
                cut = cut or _missing(chunk.start + chunk.size, size, "streams")
        if _is_streamed(part.size):
            return Container()
        cut = cut or _missing(part.start + part.size, size, "file")
    return Container(promised, cut, is_whole=has_index and not cut)


def _is_streamed(size: int) -> bool:
    return size <= 4 or size in _STREAMED_LOW or size in _STREAMED_HIGH


def _avi_seconds(header: bytes) -> float | None:
    """The length of the first video by its stream's header; RIFF files in parts say it in `dmlh`."""
    start = header.find(b"strh")
    while start >= 0 and header[start + 8 : start + 12] != b"vids":
        start = header.find(b"strh", start + 4)
    if start < 0:
        return None
    scale, rate, length = (_number(header, start + 8 + offset, 4) for offset in (20, 24, 32))
    extended = header.find(b"dmlh")
    frames = max(length, _number(header, extended + 8, 4) if extended >= 0 else 0)
    return None if _is_streamed(frames) else frames * scale / rate


def _asf(file: BinaryIO, size: int) -> Container:
    header = _read(file, 0, 1 << 16)
    start = header.find(_ASF_FILE)
    if start < 0:
        return Container()
    length, play, preroll = (_number(header, start + offset, 8) for offset in (40, 64, 80))
    if _number(header, start + 88, 4) & 1:
        return Container()  # broadcast: these fields say nothing
    cut = _missing(length, size, "file")
    return Container(max(0.0, play / 1e7 - preroll / 1e3), cut, is_whole=not cut)


def _transport(file: BinaryIO, size: int) -> Container:
    """Packets of 188 bytes, or with a time in front or a checksum behind."""
    start = _read(file, 0, 5 * 204)
    for length, offset in ((188, 0), (192, 4), (204, 0)):
        if all(start[place] == 0x47 for place in range(offset, 5 * length, length)):
            rest = size % length
            return Container(cut=f"its last packet has {rest} of {length} bytes" if rest else "")
    return Container()


# --- Ogg ----------------------------------------------------------------------------------------------------
def _ogg(file: BinaryIO, size: int) -> Container:
    """Whether the last page is complete, and says that it is the last."""
    first = max(0, size - 2 * _MAX_OGG_PAGE)
    tail = _read(file, first, size - first)
    page = tail.rfind(b"OggS")
    if page < 0:
        return Container()
    head = tail[page : page + 27]
    segments = tail[page + 27 : page + 27 + head[26]] if len(head) == 27 else b""
    if len(head) < 27 or len(segments) < head[26] or len(tail) < page + 27 + len(segments) + sum(segments):
        return Container(cut="its last page is incomplete")
    return Container(is_whole=bool(head[5] & 4))


LOOKS: Final[tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], Container]], ...]] = (
    (lambda start: start[:4] in (b"RIFF", b"RF64", b"BW64") and start[8:12] == b"WAVE", _wav),
    (lambda start: start[:4] == b"RIFF" and start[8:12] == b"AVI ", _avi),
    (lambda start: start[:16] == _W64_RIFF, _wave64),
    (lambda start: start[:4] == b"caff", _caf),
    (lambda start: start[:16] == _ASF_HEADER, _asf),
    (lambda start: start[:4] == b"OggS", _ogg),
    (lambda start: start[:1] == b"\x47" or start[4:5] == b"\x47", _transport),
)
"""By the first 40 bytes of a file."""
