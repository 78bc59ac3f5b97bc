"""An answer goes out in one write, and a head whose body comes later is not held back."""

from __future__ import annotations

import asyncio
from typing import cast

from coordinator.edge.server.gathered_writes import GatheredWrites


class Transport:
    """What was written, write by write."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def close(self) -> None:
        self.closed = True


def gathered() -> tuple[GatheredWrites, Transport]:
    transport = Transport()
    return GatheredWrites(cast(asyncio.Transport, transport), asyncio.get_running_loop()), transport


async def test_head_and_body_go_together() -> None:
    writes, transport = gathered()
    writes.write(b"head ")
    assert transport.written == []
    writes.write(b"body")
    assert transport.written == [b"head body"]
    await asyncio.sleep(0)
    assert transport.written == [b"head body"]


async def test_a_head_alone_goes_when_the_loop_has_turned() -> None:
    """A stream may say nothing for long: its reader has the head at once."""
    writes, transport = gathered()
    writes.write(b"head ")
    await asyncio.sleep(0)
    assert transport.written == [b"head "]
    writes.write(b"first")
    await asyncio.sleep(0)
    writes.write(b"second")
    writes.write(b"")
    assert transport.written == [b"head ", b"first", b"second"]


async def test_nothing_is_lost_by_a_close() -> None:
    """Nor by the end of an answer that has no body."""
    writes, transport = gathered()
    writes.write(b"head ")
    writes.flush()
    writes.flush()
    writes.write(b"next ")
    writes.close()
    assert (transport.written, transport.closed) == ([b"head ", b"next "], True)
