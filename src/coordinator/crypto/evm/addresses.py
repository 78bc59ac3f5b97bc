"""Addresses of accounts and contracts, with the checksum in upper and lower case of ERC-55."""

from __future__ import annotations

import re
from typing import Final

from coordinator.crypto.evm.keccak import keccak256

ADDRESS_BYTES: Final = 20
ZERO_ADDRESS: Final = "0x" + "0" * 40
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")


class BadAddress(ValueError):
    """Not an address; the text says why."""


def read_address(text: str) -> str:
    """The address with its checksum. Raises BadAddress.

    An address all in lower or upper case has no checksum; any other must have the right one, so that most
    slips of the hand are seen. The zero address is refused: nobody has its key.
    """
    if not _ADDRESS.fullmatch(text):
        raise BadAddress("invalid address: 0x and 40 hex digits are expected")
    address = address_of(bytes.fromhex(text[2:]))
    digits = text[2:]
    if text != address and digits not in (digits.lower(), digits.upper()):
        raise BadAddress("invalid address: its checksum is wrong; copy it again, or write it in lower case")
    if address == ZERO_ADDRESS:
        raise BadAddress("invalid address: nobody has the key of the zero address")
    return address


def address_of(raw: bytes) -> str:
    """The text of 20 bytes."""
    digits = raw.hex()
    marks = keccak256(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if int(mark, 16) >= 8 else digit for digit, mark in zip(digits, marks, strict=False)
    )


def address_bytes(address: str) -> bytes:
    """The 20 bytes of an address."""
    return bytes.fromhex(address[2:])
