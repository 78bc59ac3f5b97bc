"""Signed HTTP requests, for keys with a second secret; works with every `httpx` client.

httpx.Client(headers={"X-Api-Key": key}, auth=SignedRequests(hmac_secret))
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import AsyncGenerator, Generator
from typing import Final

import httpx

from coordinator.crypto.mac import request_to_sign, sign_message

VARIABLE: Final = "COORDINATOR_HMAC_SECRET"
SIGNATURE_HEADER: Final = "X-Signature"
TIMESTAMP_HEADER: Final = "X-Timestamp"
DIGEST_HEADER: Final = "Content-Digest"
_DIGEST: Final = re.compile(r"sha-256=:([A-Za-z0-9+/=]{44}):")


class SignedRequests(httpx.Auth):
    """Signs each request when it is sent; a repeat gets a new signature, as each is valid once.

    A body is read into memory for that, unless the request has its digest (see `content_digest`).
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if DIGEST_HEADER not in request.headers:
            request.read()
        yield self._sign(request)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        if DIGEST_HEADER not in request.headers:
            await request.aread()
        yield self._sign(request)

    def _sign(self, request: httpx.Request) -> httpx.Request:
        named = _DIGEST.search(request.headers.get(DIGEST_HEADER, ""))
        if named is not None:
            digest = base64.b64decode(named[1]).hex()
        else:
            digest = hashlib.sha256(request.content).hexdigest()
        path, _, query = request.url.raw_path.decode("ascii").partition("?")
        now = time.time_ns()
        # The fraction makes the signature of a second such request in the same second a different one.
        timestamp = f"{now // 10**9}.{now % 10**9:09d}"
        message = request_to_sign(request.method, path, query, timestamp, digest)
        request.headers[TIMESTAMP_HEADER] = timestamp
        request.headers[SIGNATURE_HEADER] = sign_message(self._secret, message)
        return request


def signing(secret: str | None = None) -> SignedRequests | None:
    """A client's `auth` with this secret, or with COORDINATOR_HMAC_SECRET; None without a secret."""
    secret = os.environ.get(VARIABLE) if secret is None else secret
    return SignedRequests(secret) if secret else None


def content_digest(sha256: str) -> str:
    """The header `Content-Digest` (RFC 9530) of a body with this SHA-256 in hex."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
