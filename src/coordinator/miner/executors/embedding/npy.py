"""Writes vectors to a NumPy file (.npy, format 1.0), row by row and without NumPy."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from coordinator.miner.executors.errors import EXECUTOR_FAILED, OUTPUT_TOO_LARGE, ExecutorError

_HEADER_BYTES: Final = 128
_MAGIC: Final = b"\x93NUMPY\x01\x00"


class VectorFile:
    """A float32 array of `rows` × `width`, little endian; the header is written when it is closed."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self.rows = 0
        self.width = 0

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        self._file.write(bytes(_HEADER_BYTES))
        return self

    def __exit__(self, *_: object) -> None:
        shape = f"({self.rows}, {self.width})"
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        room = _HEADER_BYTES - len(_MAGIC) - 2
        self._file.seek(0)
        self._file.write(_MAGIC + struct.pack("<H", room) + text.ljust(room - 1).encode("ascii") + b"\n")
        self._file.close()

    def write(self, vectors: Sequence[Sequence[float]]) -> None:
        """Add rows. Raises ExecutorError: OUTPUT_TOO_LARGE, or if their width differs from the previous."""
        for vector in vectors:
            self.width = self.width or len(vector)
            if len(vector) != self.width:
                raise ExecutorError(EXECUTOR_FAILED, "the vectors differ in length", retryable=True)
            if 4 * self.width * (self.rows + 1) > self._max_bytes:
                raise ExecutorError(
                    OUTPUT_TOO_LARGE, f"the vectors take more than {self._max_bytes} bytes; send fewer texts"
                )
            self._file.write(struct.pack(f"<{self.width}f", *vector))
            self.rows += 1
