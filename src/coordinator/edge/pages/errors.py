"""Public pages of the error codes: `/errors/<CODE>` is the `type` of the problems with that code."""

from __future__ import annotations

import html
import re
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Header
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.edge.http.error_pages import PATH, ErrorPage, error_page, path_of
from coordinator.edge.http.problems import STATUS_OF, Problem, refusals
from coordinator.edge.pages.assets import STYLE_PATH

router = APIRouter(prefix=PATH, tags=["errors"])

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'",
    "Cache-Control": "public, max-age=3600",
    "Vary": "Accept",
}
_AGAIN: Final = {
    "no": "Sending the same request again does not help.",
    "later": "Sending the same request again later helps.",
    "after a change": "Sending the request again helps after a correction.",
}
_CONTENT: Final = {
    "text/markdown": {"schema": {"type": "string"}},
    "text/html": {"schema": {"type": "string"}},
}
Accept = Annotated[
    str | None, Header(alias="Accept", description="`text/html` gives a page, everything else Markdown.")
]


@router.get(
    "",
    response_class=Response,
    summary="List the error codes",
    description="All codes, with their status, and whether it helps to send the same request again.",
    responses={200: {"description": "The list.", "content": _CONTENT}},
)
async def list_errors(accept: Accept = None) -> Response:
    rows = [
        f"- [{code}]({path_of(code)}) ({STATUS_OF[code]}): {page.title}. {_AGAIN[page.again]}"
        for code, page in ((code, error_page(code)) for code in Code)
    ]
    return _answer("Error codes", "\n".join(rows), accept)


@router.get(
    "/{code}",
    response_class=Response,
    summary="Explain an error code",
    description="Its meaning and causes, what to do, and whether it helps to send the same request again.",
    responses={
        200: {"description": "The page.", "content": _CONTENT},
        **refusals(Code.UNKNOWN_COMMAND),
    },
)
async def explain_error(code: str, accept: Accept = None) -> Response:
    try:
        page = error_page(Code(code))
    except ValueError:
        raise Problem(Code.UNKNOWN_COMMAND, f"no such code; {PATH} lists all codes") from None
    return _answer(f"{page.code}: {page.title}", markdown(page), accept)


def markdown(page: ErrorPage) -> str:
    """The page of a code, below its heading."""
    status = STATUS_OF[page.code]
    return (
        f"Status {status} {HTTPStatus(status).phrase}. {_AGAIN[page.again]}\n\n{page.meaning}\n\n"
        f"## When\n{page.when}\n\n## What to do\n{page.todo}\n\n[All codes]({PATH})"
    )


def _answer(title: str, text: str, accept: str | None) -> Response:
    # Browsers ask for HTML. Command-line tools do not, and show plain text better.
    if "text/html" not in (accept or "").lower():
        return Response(f"# {title}\n\n{text}\n", 200, _HEADERS, "text/markdown")
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="{STYLE_PATH}">\n'
        f"<h1>{html.escape(title)}</h1>\n{to_html(text)}\n</html>\n"
    )
    return Response(page, 200, _HEADERS, "text/html")


def to_html(text: str) -> str:
    """HTML of the little Markdown that the pages use: headings, paragraphs, lists, code marks and links."""
    blocks = re.split(r"\n{2,}", text.strip())
    return "\n".join(_block(block) for block in blocks if block.strip())


def _block(block: str) -> str:
    heading, text = "", block
    if block.startswith("## "):
        first, _, text = block.partition("\n")
        heading = f"<h2>{_inline(first[3:])}</h2>\n"
    if text.startswith("- "):
        items = re.split(r"\n- ", text[2:])
        return f"{heading}<ul>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</ul>"
    return f"{heading}<p>{_inline(text)}</p>" if text else heading


def _inline(text: str) -> str:
    escaped = html.escape(text.strip())
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\[([^\]]+)\]\((/[^)]*)\)", r'<a href="\2">\1</a>', marked)
