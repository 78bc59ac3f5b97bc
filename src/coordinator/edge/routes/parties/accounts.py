"""Accounts: everybody sees its own; an admin sees all, deposits, withdraws, and ends disputes. And quotes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.account import (
    FEES,
    OUTSIDE,
    SETTLEMENT,
    AccountDeposit,
    AccountDismiss,
    AccountDispute,
    AccountRefund,
    AccountWithdraw,
)
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobSubmit
from coordinator.domain.messages import NAME
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import fill, read_object, request_body
from coordinator.edge.http.command_route import command_route
from coordinator.edge.http.credentials import Admin, Anyone, Client
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads import accounts as reads
from coordinator.edge.http.reads.reading import (
    POSITION_HEADER,
    AtLeast,
    PageQuery,
    Position,
    cursor_after,
    read_cursor,
    reply,
)
from coordinator.edge.models.parties.accounts import (
    AccountPage,
    AccountServices,
    AccountView,
    EntryPage,
    PaymentAnswer,
    QuoteView,
    Statement,
    TransferAnswer,
)

router = APIRouter(tags=["accounts"])

_PARTY = f"({FEES}|{OUTSIDE}|{SETTLEMENT}|{NAME})"
_CURSOR = (_PARTY,)
Party = Annotated[
    str,
    Path(
        pattern=f"^{_PARTY}$",
        description=f"A name; or {FEES}, {OUTSIDE} or {SETTLEMENT}, the coordinator's own.",
    ),
]
Days = Annotated[int, Query(ge=1, le=366, description="Days of UTC, today included.")]
_OFF = refusals(Code.FORBIDDEN, Code.CONFLICT_STATE)


class StatementQuery(BaseModel):
    """The parameters of a statement. An unknown one is refused."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[
        AwareDatetime | None,
        Field(alias="from", description="The first moment; without it, the beginning."),
    ] = None
    until: Annotated[
        AwareDatetime | None, Field(alias="to", description="The first moment after it; the default is now.")
    ] = None
    format: Annotated[Literal["json", "csv"], Field(description="A table is not signed.")] = "json"
    at_least: AtLeast = None


async def _party_fields(request: Request, context: Context, party: Party) -> dict[str, Any]:
    return fill(await read_object(request, context.limits), party=party)


async def _job_fields(request: Request, context: Context, job_id: UUID) -> dict[str, Any]:
    return fill(await read_object(request, context.limits), job_id=str(job_id))


# --- one's own ---------------------------------------------------------------------------------------------
@router.get(
    "/accounts/me",
    response_model=AccountView,
    summary="Show your own account",
    description="What is available, set aside for jobs, pending or disputed.",
    responses=_OFF,
)
async def show_own_account(context: Context, principal: Anyone, position: Position) -> Response:
    return await _show(context, principal.name, position)


@router.get(
    "/accounts/me/entries",
    response_model=EntryPage,
    summary="List the entries of your own account",
    description="The newest first.",
    responses=_OFF,
)
async def list_own_entries(
    context: Context, principal: Anyone, position: Position, query: Annotated[PageQuery, Query()]
) -> Response:
    return await _entries(context, principal.name, query, position)


@router.get(
    "/accounts/me/statements",
    response_model=Statement,
    summary="A statement of your own account",
    description="All entries of a period, with opening, closing and holds, signed by the coordinator.",
    responses=_OFF,
)
async def show_own_statement(
    context: Context, principal: Anyone, position: Position, query: Annotated[StatementQuery, Query()]
) -> Response:
    return await _statement(context, principal.name, query, position)


@router.get(
    "/accounts/me/services",
    response_model=AccountServices,
    summary="What your own account spent and earned on which service",
    description="Payments, less the refunds of the period.",
    responses=_OFF,
)
async def show_own_services(
    context: Context, principal: Anyone, position: Position, days: Days = 30
) -> Response:
    return await _services(context, principal.name, days, position)


@router.post(
    "/quote",
    response_model=QuoteView,
    summary="Ask what a job would cost at most",
    description="The body is that of a submit. Nothing is submitted; the payload is checked as in a submit. "
    "It says what would be set aside, and how many miners online would run the job at which price.",
    responses=refusals(Code.FORBIDDEN, Code.SERVICE_NOT_FOUND, Code.TOO_LARGE),
    openapi_extra=request_body(
        JobSubmit,
        example={
            "service": "checksum",
            "payload": {"text": "hello"},
            "constraints": {"max_price": "0.01"},
        },
    ),
)
async def quote(request: Request, context: Context, principal: Client, position: Position) -> Response:
    return reply(await reads.quote_of(context, await read_object(request, context.limits)), position)


command_route(
    router,
    "POST",
    "/jobs/{job_id}/dispute",
    AccountDispute,
    PaymentAnswer,
    name="dispute_payment",
    summary="Dispute the payment of a job",
    description="While the miner's credit is pending: it is frozen until an admin refunds it or dismisses "
    "the dispute.",
    fields=_job_fields,
    example={"reason": "the result is silent"},
    refused=(Code.JOB_NOT_FOUND, Code.CONFLICT_STATE),
)


# --- admins ------------------------------------------------------------------------------------------------
@router.get(
    "/admin/accounts",
    response_model=AccountPage,
    summary="List all accounts",
    description=f"By party; {FEES}, {OUTSIDE} and {SETTLEMENT} are the coordinator's own.",
    responses=_OFF,
)
async def list_accounts(
    context: Context, _: Admin, position: Position, query: Annotated[PageQuery, Query()]
) -> Response:
    reads.check_kept(context)
    [after] = read_cursor(query.cursor, *_CURSOR) or [""]
    rows = await context.reads.accounts(after, reads.now(), query.limit + 1)
    shown = rows[: query.limit]
    items = [reads.account_view(context, row["party"], row) for row in shown]
    cursor = cursor_after(shown[-1]["party"]) if len(rows) > query.limit else None
    return reply(AccountPage(items=items, next_cursor=cursor), position)


@router.get("/admin/accounts/{party}", response_model=AccountView, summary="Show an account", responses=_OFF)
async def show_account(context: Context, _: Admin, position: Position, party: Party) -> Response:
    return await _show(context, party, position)


@router.get(
    "/admin/accounts/{party}/entries",
    response_model=EntryPage,
    summary="List the entries of an account",
    description="The newest first.",
    responses=_OFF,
)
async def list_entries(
    context: Context, _: Admin, position: Position, party: Party, query: Annotated[PageQuery, Query()]
) -> Response:
    return await _entries(context, party, query, position)


@router.get(
    "/admin/accounts/{party}/statements",
    response_model=Statement,
    summary="A statement of an account",
    description="As `/v1/accounts/me/statements`, of any party.",
    responses=_OFF,
)
async def show_statement(
    context: Context, _: Admin, position: Position, party: Party, query: Annotated[StatementQuery, Query()]
) -> Response:
    return await _statement(context, party, query, position)


@router.get(
    "/admin/accounts/{party}/services",
    response_model=AccountServices,
    summary="What an account spent and earned on which service",
    description="As `/v1/accounts/me/services`, of any party.",
    responses=_OFF,
)
async def show_account_services(
    context: Context, _: Admin, position: Position, party: Party, days: Days = 30
) -> Response:
    return await _services(context, party, days, position)


command_route(
    router,
    "POST",
    "/admin/accounts/{party}/deposits",
    AccountDeposit,
    TransferAnswer,
    name="deposit",
    summary="Deposit money",
    description="A repeat with the same `business_id` has no second effect; another amount is refused.",
    fields=_party_fields,
    example={"amount": 5_000_000, "business_id": "invoice-17"},
    refused=(Code.IDEMPOTENCY_MISMATCH, Code.CONFLICT_STATE),
)
command_route(
    router,
    "POST",
    "/admin/accounts/{party}/withdrawals",
    AccountWithdraw,
    TransferAnswer,
    name="withdraw",
    summary="Withdraw money",
    description="What is available only. A repeat with the same `business_id` has no second effect.",
    fields=_party_fields,
    example={"amount": 5_000_000, "business_id": "payout-3"},
    refused=(Code.IDEMPOTENCY_MISMATCH, Code.INSUFFICIENT_FUNDS, Code.CONFLICT_STATE),
)
command_route(
    router,
    "POST",
    "/admin/jobs/{job_id}/refund",
    AccountRefund,
    PaymentAnswer,
    name="refund_payment",
    summary="Refund the payment of a job",
    description="The whole price returns to the client, from the miner and from the fees.",
    fields=_job_fields,
    example={"reason": "the dispute is right"},
    refused=(Code.JOB_NOT_FOUND, Code.CONFLICT_STATE, Code.INSUFFICIENT_FUNDS),
)
command_route(
    router,
    "POST",
    "/admin/jobs/{job_id}/dismiss",
    AccountDismiss,
    PaymentAnswer,
    name="dismiss_dispute",
    summary="Dismiss a dispute",
    description="The miner keeps its credit, and the client can't dispute it again.",
    fields=_job_fields,
    example={"reason": "the result is as asked"},
    refused=(Code.JOB_NOT_FOUND, Code.CONFLICT_STATE),
)


async def _show(context: EdgeContext, party: str, position: int) -> Response:
    reads.check_kept(context)
    row = await context.reads.account(party, reads.now())
    return reply(reads.account_view(context, party, row), position)


async def _entries(context: EdgeContext, party: str, query: PageQuery, position: int) -> Response:
    reads.check_kept(context)
    rows = await context.reads.lines(party, reads.lines_before(query.cursor), query.limit + 1)
    shown = rows[: query.limit]
    cursor = reads.lines_after(shown[-1]) if len(rows) > query.limit else None
    items = [reads.entry_view(row) for row in shown]
    return reply(EntryPage(items=items, next_cursor=cursor), position)


async def _statement(context: EdgeContext, party: str, query: StatementQuery, position: int) -> Response:
    reads.check_kept(context)
    now = reads.now()
    since = 0 if query.since is None else _millis(query.since)
    # What is not over may still get entries.
    until = now if query.until is None else min(now, _millis(query.until))
    if since > until:
        raise Refusal(Code.INVALID_PAYLOAD, "from: must be before `to`, and not in the future")
    statement = await reads.statement_of(context, party, since, until, position)
    return reads.statement_answer(statement, query.format, position)


async def _services(context: EdgeContext, party: str, days: int, position: int) -> Response:
    reads.check_kept(context)
    found = await reads.services_of(context, party, days)
    return Response(
        found.model_dump_json(by_alias=True), 200, {POSITION_HEADER: str(position)}, "application/json"
    )


def _millis(at: datetime) -> int:
    return max(0, int(at.timestamp() * 1000))
