"""Conditional reads: an answer has an ETag, and is not sent again to who has it (RFC 9110, section 13)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import Header
from pydantic import BaseModel
from starlette.responses import Response

from coordinator.edge.http.reading import POSITION_HEADER

MAX_TAGS_LENGTH: Final = 4096
_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e]*")')

IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match", description="ETags of answers that are there already: then 304, if it is one."
    ),
]
NOT_MODIFIED: Final[dict[int | str, dict[str, Any]]] = {
    304: {"description": "It is still what one of the ETags in `If-None-Match` stands for."}
}
"""For the `responses` of endpoints that answer so."""


def answer_with_tag(
    model: BaseModel | bytes, position: int, if_none_match: str | None, **headers: str
) -> Response:
    """The answer with its ETag, or 304 without a body. The tag does not stand for the position."""
    body = model if isinstance(model, bytes) else model.model_dump_json().encode()
    tag = tag_of(body)
    told = {POSITION_HEADER: str(position), **headers}
    return unchanged(tag, if_none_match, told) or Response(
        body, headers={**told, **_cached(tag)}, media_type="application/json"
    )


def unchanged(tag: str, if_none_match: str | None, headers: Mapping[str, str]) -> Response | None:
    """304 if the caller has it already."""
    if if_none_match is None or len(if_none_match) > MAX_TAGS_LENGTH:
        return None
    if if_none_match.strip() != "*" and tag not in _TAG.findall(if_none_match):
        return None
    return Response(status_code=304, headers={**headers, **_cached(tag)})


def tag_of(content: bytes) -> str:
    """The same for the same bytes."""
    return f'"{hashlib.blake2b(content, digest_size=15).hexdigest()}"'


def _cached(tag: str) -> dict[str, str]:
    # Whose it is, the key says: no cache in between may give it to another, and each use asks again.
    return {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "X-Api-Key"}
