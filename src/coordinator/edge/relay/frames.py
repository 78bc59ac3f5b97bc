"""The frames between an edge process and the core: a kind, JSON about it, and bytes. All sizes are bounded.

Nine bytes come first: the length of the rest, the kind, and the length of the JSON. Then the JSON, and bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum, unique
from typing import Any, Final, NamedTuple

from coordinator.wire.limits import MAX_BODY_BYTES

MAX_FRAME_BYTES: Final = 4 * MAX_BODY_BYTES
"""Headers, a piece of a body, or a whole message of a WebSocket."""
ARRAY_BYTES: Final = MAX_BODY_BYTES
"""A longer array of questions or answers goes in several frames."""
PIECE_BYTES: Final = 256 * 1024
"""The most of a body in one frame."""
_HEAD: Final = struct.Struct(">IBI")


@unique
class Kind(IntEnum):
    """The kinds of frames."""

    SCOPE = 1
    """An exchange begins; the JSON is its scope."""
    REQUEST = 2
    """A piece of the request's body, with more to follow."""
    REQUEST_END = 3
    DISCONNECT = 4
    """The client of an HTTP request is gone."""
    SOCKET_CONNECT = 5
    SOCKET_TEXT = 6
    SOCKET_BYTES = 7
    SOCKET_GONE = 8

    START = 16
    """The answer's status and headers."""
    ANSWER = 17
    ANSWER_END = 18
    CUT = 19
    """The answer fails after its start: only a cut connection shows that."""
    ACCEPT = 20
    SEND_TEXT = 21
    SEND_BYTES = 22
    CLOSE = 23
    TRUST = 24
    """The client of a WebSocket has proved a key, and may send larger messages."""

    HELLO = 32
    """The first frame of a connection for questions."""
    ASK = 33
    """Questions of one turn of the event loop: an array of `[number, name, arguments…]`."""
    TELL = 34
    """Answers: an array of `[number, answer]`."""
    COUNTS = 35
    """From an edge process: its counters of requests since the last time."""


_KINDS: Final = {int(kind): kind for kind in Kind}


class BadFrame(Exception):
    """The bytes are not a frame; the connection must end."""


class Frame(NamedTuple):
    """One frame."""

    kind: Kind
    meta: bytes = b""
    """JSON; may be empty."""
    data: bytes = b""

    def json(self) -> Any:
        """The JSON's value. Raises BadFrame."""
        try:
            return json.loads(self.meta)
        except (ValueError, RecursionError):
            raise BadFrame(f"invalid JSON in a frame {self.kind.name}") from None


def encode(kind: Kind, meta: Any = None, data: bytes = b"") -> bytes:
    """One frame as bytes. `meta`: any JSON value; None for none."""
    text = b"" if meta is None else json.dumps(meta, separators=(",", ":")).encode()
    return encode_json(kind, text, data)


def encode_json(kind: Kind, text: bytes, data: bytes = b"") -> bytes:
    """Like `encode`, with JSON that is text already."""
    return b"".join((_HEAD.pack(len(text) + len(data), kind, len(text)), text, data))


def arrays(texts: Iterable[bytes]) -> Iterator[bytes]:
    """Arrays of these JSON texts, in order, which each fit into a frame as long as each text does."""
    gathered: list[bytes] = []
    size = 0
    for text in texts:
        if gathered and size + len(text) > ARRAY_BYTES:
            yield b"[" + b",".join(gathered) + b"]"
            gathered, size = [], 0
        gathered.append(text)
        size += len(text) + 1
    if gathered:
        yield b"[" + b",".join(gathered) + b"]"


class FrameReader:
    """Takes bytes as they arrive, and gives the complete frames."""

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete. Raises BadFrame."""
        buffer = self._rest + data if self._rest else data
        frames, at, end = [], 0, len(buffer)
        while end - at >= _HEAD.size:
            size, number, meta_size = _HEAD.unpack_from(buffer, at)
            kind = _KINDS.get(number)
            if kind is None or size > self._max_bytes or meta_size > size:
                raise BadFrame("not a frame of an edge process")
            begin = at + _HEAD.size
            if end - begin < size:
                break
            middle, at = begin + meta_size, begin + size
            frames.append(Frame(kind, buffer[begin:middle], buffer[middle:at]))
        self._rest = buffer[at:]
        return frames
