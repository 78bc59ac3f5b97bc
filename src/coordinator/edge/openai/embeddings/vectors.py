"""Vectors of a job's result, from lists or from a NumPy file (.npy), as JSON."""

from __future__ import annotations

import json
import re
import struct
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any, Final

from coordinator.domain.errors import Code
from coordinator.edge.http.problems import Problem
from coordinator.edge.openai.errors import NO_RETRY

_MAGIC: Final = b"\x93NUMPY"
_SHAPE: Final = re.compile(r"'shape':\s*\(\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,?\s*\)")
_FLOAT32: Final = re.compile(r"'descr':\s*'<f4'")
_IN_ROWS: Final = re.compile(r"'fortran_order':\s*False")


class Vectors:
    """Rows of little-endian 32-bit floats; `lists` has them in full precision, if they are known so."""

    def __init__(
        self, packed: memoryview, width: int, lists: Sequence[Sequence[float]] | None = None
    ) -> None:
        self.packed = packed
        self.width = width
        self.lists = lists


def vectors_of_lists(rows: Sequence[Sequence[float]]) -> Vectors:
    """Vectors in a result itself. Raises Problem."""
    if len({len(row) for row in rows}) != 1:
        raise _invalid("the miner's vectors are not all of one length")
    packed = b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
    return Vectors(memoryview(packed), len(rows[0]), rows)


def vectors_of_file(content: bytes) -> Vectors:
    """Vectors in a NumPy file, of the format 1.0 to 3.0. Raises Problem."""
    sizes = {1: ("<H", 10), 2: ("<I", 12), 3: ("<I", 12)}
    if not content.startswith(_MAGIC) or len(content) < 12 or content[6] not in sizes:
        raise _invalid()
    form, start = sizes[content[6]]
    begin = start + struct.unpack_from(form, content, start - struct.calcsize(form))[0]
    header = content[start:begin].decode("latin-1")
    shape = _SHAPE.search(header)
    if shape is None or not _FLOAT32.search(header) or not _IN_ROWS.search(header):
        raise _invalid()
    rows, width = int(shape[1]), int(shape[2])
    if not width or len(content) - begin != 4 * rows * width:
        raise _invalid()
    return Vectors(memoryview(content)[begin:], width)


def encoded_rows(vectors: Vectors, *, base64: bool) -> Iterator[str]:
    """Each vector as JSON: an array of numbers, or the base64 of its 32-bit floats."""
    size = 4 * vectors.width
    for number, start in enumerate(range(0, len(vectors.packed), size)):
        row = vectors.packed[start : start + size]
        if base64:
            yield f'"{b64encode(row).decode()}"'
        elif vectors.lists is not None:
            yield json.dumps(vectors.lists[number], separators=(",", ":"))
        else:
            # Nine digits tell any two 32-bit floats apart.
            numbers: tuple[Any, ...] = struct.unpack(f"<{vectors.width}f", row)
            yield "[" + ",".join([f"{one:.9g}" for one in numbers]) + "]"


def check_count(vectors: Vectors, texts: int, dimensions: int | None) -> None:
    """Raise Problem unless there is one vector for each text, of the dimensions that were asked for."""
    found = len(vectors.packed) // (4 * vectors.width)
    if found != texts:
        raise _invalid(f"the miner made {found} vectors for {texts} texts")
    if dimensions is not None and vectors.width != dimensions:
        raise _invalid(f"the miner's vectors have {vectors.width} dimensions instead of {dimensions}")


def _invalid(detail: str = "the miner's file has no rows of 32-bit floats") -> Problem:
    return Problem(Code.INTERNAL, detail, headers=NO_RETRY)
