"""How an AMQP message proves who sent it: an HMAC under the API key's secret, which itself is never sent."""

from __future__ import annotations

import hashlib
import hmac


def message_to_sign(kind: str, message_id: str, reply_to: str, correlation_id: str, body: bytes) -> bytes:
    """What the HMAC covers: these four properties a line each (empty where absent), then the body.

    Raises ValueError where a property has a line break: two messages could be signed alike.
    """
    if any("\n" in part for part in (kind, message_id, reply_to, correlation_id)):
        raise ValueError("type, message_id, reply_to and correlation_id can't have line breaks")
    return "\n".join((kind, message_id, reply_to, correlation_id, "")).encode() + body


def sign_message(secret: str, message: bytes) -> str:
    """The message header `signature`: HMAC-SHA256, 64 hex digits."""
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
