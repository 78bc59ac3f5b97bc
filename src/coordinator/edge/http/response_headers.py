"""The headers of every answer: of endpoints, of errors, and of requests that the server itself refuses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.types import Message

HEADERS_OF_EVERY_ANSWER: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""By name. An endpoint that sets one of them itself, as the pages for people do, keeps its own."""

Header = tuple[bytes, bytes]
"""The name, in lower case, and the value."""
DEFAULT_HEADERS: Final[tuple[Header, ...]] = tuple(
    (name.lower().encode(), value.encode()) for name, value in HEADERS_OF_EVERY_ANSWER.items()
)
"""HEADERS_OF_EVERY_ANSWER, as the server takes them."""


def set_headers(start: Message, headers: Iterable[Header], defaults: Iterable[Header] = ()) -> None:
    """Give the start of an answer these headers, in place of any others of their names.

    `defaults`: those that it gets unless it has others of their names.
    """
    new = list(headers)
    replaced = {name for name, _ in new}
    kept = [header for header in start["headers"] if header[0] not in replaced]
    present = {name for name, _ in kept} | replaced
    start["headers"] = [*kept, *new, *(header for header in defaults if header[0] not in present)]
