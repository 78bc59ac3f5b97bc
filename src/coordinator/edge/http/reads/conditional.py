"""Conditional reads: answers have ETags, and an unchanged answer is not sent again (RFC 9110, section 13)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import Header
from pydantic import BaseModel
from starlette.responses import Response

from coordinator.edge.http.reads.reading import POSITION_HEADER

MAX_TAGS_LENGTH: Final = 4096
_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e]*")')

IfNoneMatch = Annotated[
    str | None,
    Header(alias="If-None-Match", description="ETags of known answers: 304 if the answer has one of them."),
]
NOT_MODIFIED: Final[dict[int | str, dict[str, Any]]] = {
    304: {"description": "The answer has one of the ETags in `If-None-Match`."}
}
"""Of the `responses` of endpoints with ETags."""


def answer_with_tag(
    model: BaseModel | bytes, position: int, if_none_match: str | None, **headers: str
) -> Response:
    """The answer with its ETag, or 304 without a body. The ETag does not cover the position."""
    body = model if isinstance(model, bytes) else model.model_dump_json().encode()
    tag = _tag_of(body)
    headers = {POSITION_HEADER: str(position), **headers}
    return _not_modified(tag, if_none_match, headers) or Response(
        body, headers={**headers, **_cached(tag)}, media_type="application/json"
    )


def _not_modified(tag: str, if_none_match: str | None, headers: Mapping[str, str]) -> Response | None:
    """304 if the caller has the answer already."""
    if if_none_match is None or len(if_none_match) > MAX_TAGS_LENGTH:
        return None
    if if_none_match.strip() != "*" and tag not in _TAG.findall(if_none_match):
        return None
    return Response(status_code=304, headers={**headers, **_cached(tag)})


def _tag_of(content: bytes) -> str:
    return f'"{hashlib.blake2b(content, digest_size=15).hexdigest()}"'


def _cached(tag: str) -> dict[str, str]:
    # The answer depends on the key: no shared cache may keep it, and each use must ask again.
    return {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "X-Api-Key"}
