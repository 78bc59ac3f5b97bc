"""The reference page of the API: Swagger UI, served by us, so that it needs no internet.

Its files are in `assets`. The page has a content security policy of its own: scripts and data from this
server only.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Final

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.edge.http.problems import Problem
from coordinator.edge.pages.assets import PATH, asset
from coordinator.edge.state.threads import in_thread

router = APIRouter(include_in_schema=False)

DOCUMENT_PATH: Final = "/openapi.json"
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # Its icons are data: URLs in its style sheet.
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_PAGE: Final = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>coordinator: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{PATH}/swagger-ui.css">
<noscript>This page needs scripts; <a href="{DOCUMENT_PATH}">{DOCUMENT_PATH}</a> does not.</noscript>
<div id="swagger-ui"></div>
<script src="{PATH}/swagger-ui-bundle.js"></script>
<script src="{PATH}/start.js"></script>
</html>
"""


@router.get(DOCUMENT_PATH)
async def get_document(request: Request) -> Response:
    """The OpenAPI document."""
    app: FastAPI = request.app
    # In a thread: making the document takes some tenths of a second, once.
    return Response(await in_thread(lambda: _document_of(app)), media_type="application/json")


@lru_cache(maxsize=1)
def _document_of(app: FastAPI) -> bytes:
    return json.dumps(app.openapi(), separators=(",", ":")).encode()


@router.get(PATH)
async def show_docs() -> Response:
    """The page."""
    return Response(_PAGE, 200, {"Content-Security-Policy": _POLICY}, "text/html")


@router.get(PATH + "/{name}")
async def get_asset(request: Request, name: str) -> Response:
    """A file that the page loads."""
    found = asset(name)
    if found is None:
        raise Problem(Code.UNKNOWN_COMMAND, f"no such file; the page is at {PATH}")
    # An upgrade changes files under the same names, so browsers must ask whether theirs is current.
    headers = {"Cache-Control": "no-cache", "ETag": found.etag, "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(found.plain(), 200, headers, found.media_type)
    return Response(found.packed, 200, {**headers, "Content-Encoding": "gzip"}, found.media_type)
