"""Byte ranges of files (RFC 9110, section 14), so that players can seek."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from coordinator.blobs import BlobInfo
from coordinator.domain.messages import Principal
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.reads.stored_payloads import Pieces, begun

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
Range = tuple[int, int]
"""The first and the last byte, both included."""


class NotInFile(Exception):
    """The range begins after the end of the file."""


def range_of(text: str | None, size: int) -> Range | None:
    """The range that a header asks for; None for the whole, and for several ranges or what is no range.

    Raises NotInFile. A server may answer with the whole file where it is not asked for one range of bytes.
    """
    found = _RANGE.fullmatch(text or "")
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:  # the last so many bytes
        if int(found[2]) == 0 or size == 0:
            raise NotInFile
        return max(0, size - int(found[2])), size - 1
    first, last = int(found[1]), min(int(found[2]), size - 1) if found[2] else size - 1
    if found[2] and int(found[2]) < first:
        return None
    if first >= size:
        raise NotInFile
    return first, last


async def part_or_whole(
    request: Request, context: EdgeContext, principal: Principal, info: BlobInfo
) -> Response:
    """The file, or the range of it that the request asks for: 200, 206 or 416."""
    tag = f'"{info.sha256}"'
    headers = {"Accept-Ranges": "bytes", "ETag": tag}
    asked = request.headers.get("range")
    if request.headers.get("if-range", tag) != tag:
        asked = None
    try:
        part = range_of(asked, info.size)
    except NotInFile:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{info.size}"})
    counted = context.open_connections.stream(principal)
    if part is None:
        headers["Content-Length"] = str(info.size)
        return Pieces(await begun(context.blobs.get(info.sha256)), headers=headers, counted=counted)
    first, last = part
    headers |= {
        "Content-Length": str(last - first + 1),
        "Content-Range": f"bytes {first}-{last}/{info.size}",
    }
    pieces = await begun(context.blobs.get_part(info.sha256, first, last))
    return Pieces(pieces, 206, headers, counted=counted)
