"""The pages Spending and Earnings: the account of the key's own name. And statements, and receipts."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Query
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.domain.errors import Code
from coordinator.domain.messages import Millis
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.dashboard.data.money import account as data
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.pages.downloads import POLICY
from coordinator.edge.dashboard.rendering import part, render
from coordinator.edge.dashboard.routing import base_of, page_router, redirect
from coordinator.edge.dashboard.sign_in import Anybody, Visitor
from coordinator.edge.http.problems import Problem
from coordinator.edge.http.reads.accounts import DAY_MILLIS, statement_answer
from coordinator.edge.http.reads.reading import Position

router = page_router()

PAGES: Final = {"client": "/spending", "miner": "/earnings"}
"""By role: the page about its own money; all others see everybody's."""
ALL_ACCOUNTS: Final = "/money"
Days = Annotated[int, Query(ge=1, le=366)]
Cursor = Annotated[str, Query(max_length=100)]
Day = Annotated[str, Query(max_length=10)]
Form = Annotated[Literal["json", "csv"], Query(alias="format")]


@router.get("/spending")
async def show_spending(
    request: Request, context: Context, visitor: Anybody, days: Days = 30, cursor: Cursor = ""
) -> Response:
    """What a client has, and on which service it spent how much."""
    return await _own(request, context, visitor, "/spending", days, cursor)


@router.get("/earnings")
async def show_earnings(
    request: Request, context: Context, visitor: Anybody, days: Days = 30, cursor: Cursor = ""
) -> Response:
    """What a miner's key was paid, what of it is pending, and until when."""
    return await _own(request, context, visitor, "/earnings", days, cursor)


@router.get("/spending/statement")
@router.get("/earnings/statement")
async def get_own_statement(
    context: Context,
    visitor: Anybody,
    position: Position,
    since: Annotated[Day, Query(alias="from")] = "",
    until: Annotated[Day, Query(alias="to")] = "",
    form: Form = "json",
) -> Response:
    """The statement of whole days of UTC, as a file."""
    return await statement_file(context, visitor, visitor.name, since, until, form, position)


@router.get("/earnings/receipts/{job_id}")
async def get_own_receipt(context: Context, visitor: Anybody, job_id: UUID) -> Response:
    """The receipt of a job that the viewer was paid for: its miner does not see the job itself."""
    found = await data.receipt(context, Viewer.of(visitor.principal), job_id)
    headers = {
        "Content-Security-Policy": POLICY,
        "Content-Disposition": f'attachment; filename="receipt-{job_id}.json"',
    }
    return Response(to_json(found), 200, headers, "application/json")


async def _own(
    request: Request, context: EdgeContext, visitor: Visitor, here: str, days: int, cursor: str
) -> Response:
    own = PAGES.get(visitor.role, ALL_ACCOUNTS)
    if own != here:
        return redirect(request, own)
    title = "Spending" if here == "/spending" else "Earnings"
    return await account_page(request, context, visitor, visitor.name, title, here, here, days, cursor)


async def account_page(
    request: Request,
    context: EdgeContext,
    visitor: Visitor,
    party: str,
    title: str,
    here: str,
    path: str,
    days: int,
    cursor: str,
) -> Response:
    """The page of an account at `path`, below the entry `here` of the navigation."""
    found = await data.load(context, Viewer.of(visitor.principal), party, days, cursor or None)
    flows: dict[str, Any] = {"spent": found.spent, "earned": found.earned}
    # An account has both if its name has keys of both roles; an empty side is left out.
    first = "earned" if here == "/earnings" else "spent"
    shown = [name for name in flows if flows[name].services or name == first]
    html = render(
        "money/account.html",
        base=base_of(request),
        visitor=visitor,
        title=title,
        here=here,
        path=path,
        found=found,
        account=found.account,
        flows=[(name, flows[name], part("money/rows.html", rows=flows[name].days)) for name in shown],
        periods=data.PERIODS,
        cursor=cursor,
        older=f"{path}?" + urlencode({"days": days, "cursor": found.next_cursor})
        if found.next_cursor
        else None,
    )
    return HTMLResponse(html)


async def statement_file(
    context: EdgeContext, visitor: Visitor, party: str, since: str, until: str, form: str, position: int
) -> Response:
    """The statement from the begin of one day to the end of another, or to now."""
    now = time.time_ns() // 1_000_000
    begin = _begin_of("from", since) if since else 0
    end = min(now, _begin_of("to", until) + DAY_MILLIS) if until else now
    if begin >= end:
        raise Problem(Code.INVALID_PAYLOAD, "invalid period: it ends before it begins, or begins tomorrow")
    found = await data.statement(context, Viewer.of(visitor.principal), party, begin, end, position)
    answer = statement_answer(found, form, position)
    answer.headers["Content-Security-Policy"] = POLICY
    name = f"statement-{party.lstrip('@')}.{form}"
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


def _begin_of(field: str, day: str) -> Millis:
    try:
        at = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
    except ValueError:
        raise Problem(Code.INVALID_PAYLOAD, f"invalid day {field!r}: write one as 2026-01-31") from None
    return max(0, int(at.timestamp()) * 1000)
