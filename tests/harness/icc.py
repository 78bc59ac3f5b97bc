"""Small ICC profiles (ICC.1:2001-04) with known colours, to see whether a picture went through one."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_D50 = (0.9642, 1.0, 0.8249)


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"wtpt": _xyz(_D50),
    } | tags
    start = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(data), bytes(4), 0x02100000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    return head.ljust(68, b"\0") + _fixed(*_D50) + bytes(48) + table + data


def display_p3() -> bytes:
    """The primaries of Display P3 with a gamma of 2.2."""
    columns = {
        b"r": (0.51512, 0.24120, -0.00105),
        b"g": (0.29198, 0.69225, 0.04189),
        b"b": (0.15710, 0.06657, 0.78407),
    }
    tags = {name + b"XYZ": _xyz(column) for name, column in columns.items()}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | {name + b"TRC": _curve(2.2) for name in columns})


def grey(gamma: float) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk_of_red_cyan() -> bytes:
    """A printer whose cyan is red (Lab 54, 81, 70), and whose other inks do nothing to white paper."""
    ramp = bytes(range(256))
    grid = b"".join(
        bytes([138, 128 + 81, 128 + 70]) if cyan else bytes([255, 128, 128])
        for cyan in (0, 1)
        for _ in range(8)
    )
    table = (
        b"mft1"
        + bytes(4)
        + bytes([4, 3, 2, 0])
        + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
        + ramp * 4
        + grid
        + ramp * 3
    )
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table, b"A2B1": table})
