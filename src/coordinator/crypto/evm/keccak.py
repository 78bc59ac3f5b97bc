"""Keccak-256, the hash of Ethereum: SHA-3 before its padding changed, so that hashlib has it not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

KECCAK_BYTES: Final = 32


class NoKeccak(RuntimeError):
    """No library here computes Keccak-256: pip install 'coordinator[evm]'"""


def keccak256(content: bytes) -> bytes:
    """The 32 bytes of the hash. Raises NoKeccak."""
    return _library()(content)


@cache
def _library() -> Callable[[bytes], bytes]:
    # Imported with the first use: it is an extra, and slow to load.
    try:
        from eth_hash.auto import keccak

        keccak(b"")
    except ImportError:
        raise NoKeccak(NoKeccak.__doc__) from None
    return keccak
