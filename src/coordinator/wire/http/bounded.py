"""Answers of servers that nobody vouches for: bounded in bytes and in time, and never decompressed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

import httpx

SLOWEST: Final = 64 * 1024
"""Bytes per second; a slower server is given up."""
PATIENCE_SECONDS: Final = 30.0
LONGEST_WAIT: Final = 65.0
"""Seconds; the coordinator's rate limits count by the minute."""


class OutOfBounds(Exception):
    """No answer within the bounds; the text says why."""


class BoundedAnswer(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes
    wait: float
    """The seconds after which to ask again, if the server is busy."""


def get(
    client: httpx.Client, url: str, most: int, monotonic: Callable[[], float] = time.monotonic
) -> BoundedAnswer:
    """The answer to GET, of at most so many bytes. Redirects are answers like others. Raises OutOfBounds."""
    until = monotonic() + PATIENCE_SECONDS + most / SLOWEST
    body = bytearray()
    try:
        # A few bytes may unpack to gigabytes, and several times over.
        with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise OutOfBounds(f"{url}: compressed, which was not asked for")
            for piece in response.iter_raw():
                body += piece
                if len(body) > most:
                    raise OutOfBounds(f"{url}: more than {most} bytes")
                if monotonic() > until:
                    raise OutOfBounds(f"{url}: too slow")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OutOfBounds(f"{url}: {type(error).__name__}: {error}") from None
    return BoundedAnswer(response.status_code, bytes(body), _wait(response.headers.get("Retry-After", "")))


def _wait(text: str) -> float:
    # Not isdigit: other scripts have digits, and int() refuses very long numbers.
    plain = text.isascii() and text.isdigit()
    return min(float(text[:6]), LONGEST_WAIT) if plain else 1.0
