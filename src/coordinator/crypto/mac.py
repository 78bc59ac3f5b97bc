"""How messages and requests prove who sent them: an HMAC under a secret, which itself is not sent with it."""

from __future__ import annotations

import hashlib
import hmac


def message_to_sign(kind: str, message_id: str, reply_to: str, correlation_id: str, body: bytes) -> bytes:
    """What a message's HMAC covers: these four properties a line each (empty where absent), then the body.

    Raises ValueError where a property has a line break: two messages could be signed alike.
    """
    if any("\n" in part for part in (kind, message_id, reply_to, correlation_id)):
        raise ValueError("type, message_id, reply_to and correlation_id can't have line breaks")
    return "\n".join((kind, message_id, reply_to, correlation_id, "")).encode() + body


def request_to_sign(method: str, path: str, query: str, timestamp: str, body_sha256: str) -> bytes:
    """What the HMAC of an HTTP request covers: five lines, the last without an end.

    `path` and `query` as they are sent, percent-encoded, without the question mark; `body_sha256` is 64
    lower-case hex digits, also of an empty body. Raises ValueError where one has a line break.
    """
    parts = (method, path, query, timestamp, body_sha256)
    if any("\n" in part for part in parts):
        raise ValueError("nothing that is signed can have line breaks")
    return "\n".join(parts).encode()


def sign_message(secret: str, message: bytes) -> str:
    """HMAC-SHA256, 64 hex digits: the header `signature` of a message, `X-Signature` of a request."""
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
