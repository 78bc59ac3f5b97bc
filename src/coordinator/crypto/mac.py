"""HMACs that prove the sender of a message or request, under a secret that is not sent with it."""

from __future__ import annotations

import hashlib
import hmac


def message_to_sign(
    kind: str, message_id: str, reply_to: str, correlation_id: str, body: bytes, issued_at: int | None = None
) -> bytes:
    """The bytes under a message's HMAC: a line per property (empty if absent), then the body.

    `issued_at` (Unix milliseconds) has a line only where it is given; no JSON begins as that line does and
    goes on. Raises ValueError for a property with a line break: two messages could have the same bytes.
    """
    if any("\n" in part for part in (kind, message_id, reply_to, correlation_id)):
        raise ValueError("type, message_id, reply_to and correlation_id can't have line breaks")
    moment = () if issued_at is None else (str(issued_at),)
    return "\n".join((kind, message_id, reply_to, correlation_id, *moment, "")).encode() + body


def request_to_sign(method: str, path: str, query: str, timestamp: str, body_sha256: str) -> bytes:
    """The bytes under the HMAC of an HTTP request: five lines, the last one without a line break.

    `path` and `query` are percent-encoded as sent, without the question mark; `body_sha256` is 64 lower-case
    hex digits, also for an empty body. Raises ValueError for a part with a line break.
    """
    parts = (method, path, query, timestamp, body_sha256)
    if any("\n" in part for part in parts):
        raise ValueError("signed parts can't have line breaks")
    return "\n".join(parts).encode()


def sign_message(secret: str, message: bytes) -> str:
    """HMAC-SHA256 in 64 hex digits: the header `signature` of a message, `X-Signature` of a request."""
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
