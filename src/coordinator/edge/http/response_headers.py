"""The headers of every answer: of endpoints, of errors, and of requests that the server itself refuses."""

from __future__ import annotations

from typing import Final

HEADERS_OF_EVERY_ANSWER: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""By name. An endpoint that sets one of them itself, as the pages for people do, keeps its own."""
