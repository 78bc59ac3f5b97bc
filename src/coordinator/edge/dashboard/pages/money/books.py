"""The page Money: all accounts and their sum, open disputes, settlement batches, and an admin's transfers."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote, urlencode
from uuid import UUID

from fastapi import Path, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.dashboard.data.money import books as data
from coordinator.edge.dashboard.data.money import payouts
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.live import broadcasts_of
from coordinator.edge.dashboard.pages.money.own import (
    ALL_ACCOUNTS,
    Cursor,
    Day,
    Days,
    Form,
    account_page,
    statement_file,
)
from coordinator.edge.dashboard.rendering import render
from coordinator.edge.dashboard.routing import base_of, page_router, redirect
from coordinator.edge.dashboard.sign_in import Visited, Writing, form_of
from coordinator.edge.http.reads.reading import Position

router = page_router()

VERBS: Final = {"deposit": "Deposit", "withdrawal": "Withdraw"}
Text = Annotated[str, Query(max_length=4000)]


@router.get(ALL_ACCOUNTS)
async def show_books(
    request: Request, context: Context, visitor: Visited, cursor: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """The accounts, a page at a time."""
    found = await data.load(context, Viewer.of(visitor.principal), cursor or None)
    html = render(
        "money/books.html",
        base=base_of(request),
        visitor=visitor,
        title="Money",
        here=ALL_ACCOUNTS,
        found=found,
        cursor=cursor,
        older=f"{ALL_ACCOUNTS}?" + urlencode({"cursor": found.next_cursor}) if found.next_cursor else None,
    )
    return HTMLResponse(html)


@router.get("/money/accounts/{party}")
async def show_account(
    request: Request, context: Context, visitor: Visited, party: str, days: Days = 30, cursor: Cursor = ""
) -> Response:
    """One account."""
    data.check_party(party)
    path = _path(party)
    title = f"Account {party}"
    return await account_page(request, context, visitor, party, title, ALL_ACCOUNTS, path, days, cursor)


@router.get("/money/accounts/{party}/statement")
async def get_statement(
    context: Context,
    visitor: Visited,
    position: Position,
    party: str,
    since: Annotated[Day, Query(alias="from")] = "",
    until: Annotated[Day, Query(alias="to")] = "",
    form: Form = "json",
) -> Response:
    """Its statement, as a file."""
    data.check_party(party)
    return await statement_file(context, visitor, party, since, until, form, position)


@router.get("/money/transfer")
async def plan_transfer(
    request: Request,
    context: Context,
    visitor: Visited,
    kind: Text = "",
    party: Text = "",
    amount: Text = "",
    business_id: Text = "",
    reason: Text = "",
) -> Response:
    """What a deposit or a withdrawal would do. Nothing happens yet."""
    fields = {
        "kind": kind,
        "party": party,
        "amount": amount,
        "business_id": business_id,
        "reason": reason,
    }
    plan = await data.plan(context, Viewer.of(visitor.principal), fields)
    html = render(
        "money/transfer.html",
        base=base_of(request),
        visitor=visitor,
        title=VERBS[plan.kind],
        here=ALL_ACCOUNTS,
        plan=plan,
        verb=VERBS[plan.kind],
        fields={**fields, "party": plan.account.party, "amount": amount.strip()},
    )
    return HTMLResponse(html)


@router.get("/money/batches/{number}")
async def show_batch(
    request: Request, context: Context, visitor: Visited, number: Annotated[int, Path(ge=1, lt=payouts.LAST)]
) -> Response:
    """One settlement batch and its payouts."""
    html = render(
        "money/batch.html",
        base=base_of(request),
        visitor=visitor,
        title=f"Settlement batch {number}",
        here=ALL_ACCOUNTS,
        found=await payouts.one(context, Viewer.of(visitor.principal), number),
    )
    return HTMLResponse(html)


@router.post("/money/transfer")
async def make_transfer(request: Request, context: Context, visitor: Writing) -> Response:
    """Make it. A repeat of the form has no second effect."""
    form = await form_of(request, context)
    party = await data.transfer(context, Viewer.of(visitor.principal), form)
    return _changed(request, context, _path(party))


@router.post("/money/jobs/{job_id}/refund")
async def refund_payment(request: Request, context: Context, visitor: Writing, job_id: UUID) -> Response:
    """Give a job's client its money back."""
    form = await form_of(request, context)
    await data.refund(context, Viewer.of(visitor.principal), job_id, form.get("reason", ""))
    return _changed(request, context, ALL_ACCOUNTS)


@router.post("/money/jobs/{job_id}/dismiss")
async def dismiss_dispute(request: Request, context: Context, visitor: Writing, job_id: UUID) -> Response:
    """End a dispute; the miner keeps its credit."""
    form = await form_of(request, context)
    await data.dismiss(context, Viewer.of(visitor.principal), job_id, form.get("reason", ""))
    return _changed(request, context, ALL_ACCOUNTS)


def _changed(request: Request, context: EdgeContext, path: str) -> Response:
    context.shared.forget(("money-totals",))
    broadcasts_of(request).spoil()
    return redirect(request, path)


def _path(party: str) -> str:
    return f"/money/accounts/{quote(party, safe='@')}"
