"""The page that verifies passports in a browser; see `passport_page`."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from coordinator.edge.pages.passport_page import passport_page

router = APIRouter(include_in_schema=False)

PATH: Final = "/proof"


@router.get(PATH)
async def show_proof_page() -> Response:
    """The page. It needs no key: it asks this server for nothing."""
    page = passport_page()
    policy = f"{page.policy}; form-action 'none'; frame-ancestors 'none'"
    return Response(page.html, 200, {"Content-Security-Policy": policy}, "text/html")
