"""The payments that no batch covers yet.

Without a sink these are all payments, and a batch may end at any of them: so their leaves are kept, in a
temporary file once they are many.
"""

from __future__ import annotations

import base64
import struct
import tempfile
import weakref
from typing import IO, Any, Final, cast

from coordinator.crypto.log.tiles import TreeEdge

MEMORY_BYTES: Final = 4_000_000
"""More are in a file: those of 100,000 payments, as many as a batch of the coordinator covers."""
_RECORD: Final = struct.Struct(">Q32s")
"""The position of a payment, and its leaf."""
_READ: Final = 1024
"""Records of one read."""


class Payments:
    """Positions and leaves, in the order of the log.

    Raises OSError where a temporary file can't be written.
    """

    def __init__(self) -> None:
        self._use(_new_file())
        self._first = 0
        """The record of the first payment that is not covered; those before it are."""
        self._end = 0

    def add(self, position: int, leaf: bytes) -> None:
        """One more payment, after all others."""
        self._file.seek(self._end * _RECORD.size)
        self._file.write(_RECORD.pack(position, leaf))
        self._end += 1

    def up_to(self, until: int) -> tuple[int, str]:
        """How many payments there are up to this position, and the root over their leaves (RFC 6962, hex)."""
        tree = TreeEdge()
        for start in range(self._first, self._end, _READ):
            records = self._read(start, min(_READ, self._end - start))
            leaves = [leaf for position, leaf in _RECORD.iter_unpack(records) if position <= until]
            tree.extend(leaves)
            if len(leaves) * _RECORD.size < len(records):
                break
        return tree.size, tree.root().hex()

    def cover(self, count: int) -> None:
        """Forget the first ones."""
        self._first += count
        # The rest is copied if it is shorter than the covered part, so that each is copied once on average.
        if self._first * 2 > self._end:
            left = _new_file()
            for start in range(self._first, self._end, _READ):
                left.write(self._read(start, min(_READ, self._end - start)))
            self._close()
            self._use(left)
            self._first, self._end = 0, self._end - self._first

    def dump(self) -> str:
        """For a file; see `load`."""
        return base64.b64encode(self._read(self._first, self._end - self._first)).decode()

    @classmethod
    def load(cls, dumped: str) -> Payments:
        """The payments of `dump`. Raises ValueError."""
        records = base64.b64decode(dumped, validate=True)
        if len(records) % _RECORD.size:
            raise ValueError("no payments of an audit")
        payments = cls()
        payments._file.write(records)
        payments._end = len(records) // _RECORD.size
        return payments

    def _use(self, file: IO[bytes]) -> None:
        self._file = file
        self._close = weakref.finalize(self, file.close)

    def _read(self, first: int, count: int) -> bytes:
        self._file.seek(first * _RECORD.size)
        return self._file.read(count * _RECORD.size)


def _new_file() -> IO[bytes]:
    file: Any = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115 (closed with its payments)
    return cast("IO[bytes]", file)
