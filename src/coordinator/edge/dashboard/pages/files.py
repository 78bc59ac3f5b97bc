"""The files that pages load."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.edge.dashboard.assets import FILES_PATH, assets, version
from coordinator.edge.dashboard.routing import page_router
from coordinator.edge.http.problems import Problem

router = page_router()


@router.get(FILES_PATH + "/{digest}/{name}")
async def get_file(request: Request, digest: str, name: str) -> Response:
    """A file that pages load. It needs no session: it is the same for everybody."""
    asset = assets().get(name)
    if asset is None or digest != version():
        raise Problem(Code.UNKNOWN_COMMAND, "no such file; load the page again")
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(asset.plain, 200, headers, asset.media_type)
    return Response(asset.packed, 200, {**headers, "Content-Encoding": "gzip"}, asset.media_type)
