"""Signed requests, for keys with a second secret: an HMAC in `X-Signature`, its time in `X-Timestamp`.

`coordinator.crypto.mac.request_to_sign` has the signed bytes. They include the body's digest: a request that
declares it (`Content-Digest`, RFC 9530) is passed on at once, and its body is checked while it streams in.
Any other body is read first, up to a MiB.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from coordinator.application.keys.keyring import Grant
from coordinator.crypto.mac import request_to_sign, sign_message
from coordinator.domain.errors import Code
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.bodies import has_body
from coordinator.edge.http.problems import Problem
from coordinator.wire.limits import MAX_BODY_BYTES

SIGNATURE_HEADER: Final = "X-Signature"
TIMESTAMP_HEADER: Final = "X-Timestamp"
DIGEST_HEADER: Final = "Content-Digest"
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
_SIGNATURE: Final = re.compile(r"[0-9a-fA-F]{64}")
_DIGEST: Final = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]{44}):\s*(?=,|$)")


async def check_signature(
    scope: Scope, receive: Receive, context: EdgeContext, grants: Sequence[Grant]
) -> tuple[tuple[Grant, ...], Receive]:
    """The grants that need no signature or have a valid one, and where to read the request's body from.

    Raises Problem if none is left.
    """
    if not any(grant.hmac_secret or grant.locked for grant in grants):
        return tuple(grants), receive
    free = tuple(grant for grant in grants if not grant.hmac_secret and not grant.locked)
    headers = Headers(scope=scope)
    signature, timestamp = headers.get(SIGNATURE_HEADER), headers.get(TIMESTAMP_HEADER)
    if signature is None or timestamp is None:
        if free:
            return free, receive
        raise _unsigned(
            f"requests with this key must be signed: send {SIGNATURE_HEADER} and {TIMESTAMP_HEADER}"
        )
    moment = _check_form(headers, signature, timestamp, context.settings.hmac_window_seconds)
    declared = _declared_digest(headers)
    if declared is not None:
        digest, receive = declared, _checking(receive, declared)
    elif scope["type"] == "http" and has_body(headers):
        body = await _read(receive, context)
        digest, receive = hashlib.sha256(body).hexdigest(), _replaying(receive, body)
    else:
        digest = hashlib.sha256().hexdigest()
    message = request_to_sign(
        scope.get("method", "GET"),  # the handshake of a WebSocket
        scope["raw_path"].partition(b"?")[0].decode("latin-1"),
        scope["query_string"].decode("latin-1"),
        timestamp,
        digest,
    )
    signed = tuple(g for g in grants if g.hmac_secret and _fits(g.hmac_secret, message, signature))
    if not signed:
        raise _unsigned("invalid signature; check the secret and the signed bytes")
    await _check_replay(context, signed[0].principal.name, moment, signature.lower())
    return (*signed, *free), receive


def _check_form(headers: Headers, signature: str, timestamp: str, window: int) -> float:
    """The time of the request, in Unix seconds. Raises Problem."""
    if len(headers.getlist(SIGNATURE_HEADER)) > 1 or len(headers.getlist(TIMESTAMP_HEADER)) > 1:
        raise _unsigned(f"{SIGNATURE_HEADER} or {TIMESTAMP_HEADER} was sent more than once")
    if not _SIGNATURE.fullmatch(signature):
        raise _unsigned(f"{SIGNATURE_HEADER} should be 64 hex digits")
    if not _TIMESTAMP.fullmatch(timestamp):
        raise _unsigned(f"{TIMESTAMP_HEADER} should be Unix seconds, with or without a fraction")
    moment, now = float(timestamp), time.time()
    if abs(now - moment) > window:
        raise _unsigned(f"{TIMESTAMP_HEADER} is more than {window} seconds from our clock, {int(now)}")
    return moment


async def _check_replay(context: EdgeContext, name: str, moment: float, signature: str) -> None:
    window = context.settings.hmac_window_seconds
    first = context.used_signatures.use(name, moment, window, signature)
    if first and context.rates is not None:
        first = await context.rates.is_first_use(signature, 2 * window) is not False
    if not first:
        raise _unsigned(f"this signature was used already: sign anew, with another {TIMESTAMP_HEADER}")


def _fits(secret: str, message: bytes, signature: str) -> bool:
    return hmac.compare_digest(sign_message(secret, message), signature.lower())


def _declared_digest(headers: Headers) -> str | None:
    """The SHA-256 in `Content-Digest`, in hex; None without one. Raises Problem."""
    given = headers.getlist(DIGEST_HEADER)
    found = _DIGEST.findall(", ".join(given))
    if not found:
        return None
    try:
        digest = base64.b64decode(found[0], validate=True)
    except binascii.Error:
        digest = b""
    if len(found) > 1 or len(digest) != hashlib.sha256().digest_size:
        raise _unsigned(f"{DIGEST_HEADER} should be sha-256=:…:, as in RFC 9530")
    return digest.hex()


async def _read(receive: Receive, context: EdgeContext) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(context.limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise Problem(
                        Code.TOO_LARGE,
                        f"a body over {MAX_BODY_BYTES} bytes needs a signed {DIGEST_HEADER}",
                    )
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Problem(
            Code.INVALID_PAYLOAD, "the body did not arrive in time; send it again", status=408
        ) from None


def _replaying(receive: Receive, body: bytes) -> Receive:
    """The body that was read already, then the connection's further messages."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _checking(receive: Receive, digest: str) -> Receive:
    """The body as it streams in. Raises Problem in place of its end unless it has this digest."""
    hashed = hashlib.sha256()
    over = False

    async def checked() -> Message:
        nonlocal over
        message = await receive()
        if message["type"] == "http.request" and not over:
            hashed.update(message.get("body", b""))
            if not message.get("more_body", False):
                over = True
                if hashed.hexdigest() != digest:
                    raise _unsigned(f"the body does not have the signed {DIGEST_HEADER}")
        return message

    return checked


def _unsigned(detail: str) -> Problem:
    return Problem(Code.UNAUTHORIZED_KEY, detail)
