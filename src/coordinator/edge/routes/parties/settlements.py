"""Settlement batches: admins see and close them; a party sees its payouts, and says where to pay it."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.account import AccountSetPayoutAddress
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import NAME, Principal, Role
from coordinator.domain.settlement import SettlementClose, SettlementConfirm, SettlementRefuse
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import fill, read_object
from coordinator.edge.http.command_route import command_route
from coordinator.edge.http.credentials import Admin, Anyone
from coordinator.edge.http.problems import Problem, refusals
from coordinator.edge.http.reads.reading import PageQuery, Position, cursor_after, read_cursor, reply
from coordinator.edge.models.parties.settlements import (
    ClaimView,
    PayoutAddressAnswer,
    PayoutAddressView,
    PayoutView,
    SettlementAnswer,
    SettlementDetail,
    SettlementPage,
    SettlementProofView,
    SettlementView,
    SinkSecretView,
)
from coordinator.edge.state.threads import in_thread
from coordinator.settlement.webhook import GENERATION, SINK_ID

router = APIRouter(tags=["accounts"])

_PLACE = (r"[0-9]{1,16}",)
_LAST = 2**53
Number = Annotated[int, Path(ge=1, lt=_LAST, description="The number of a batch.")]
_OFF = refusals(Code.FORBIDDEN, Code.CONFLICT_STATE)


async def _own_fields(request: Request, context: Context) -> dict[str, Any]:
    return await read_object(request, context.limits)


async def _part_fields(request: Request, context: Context, number: Number) -> dict[str, Any]:
    return fill(await read_object(request, context.limits), number=number)


@router.get(
    "/settlements",
    response_model=SettlementPage,
    summary="List settlement batches",
    description="The newest first. An admin sees all; others see those that pay them, with own amounts.",
    responses=_OFF,
)
async def list_settlements(
    context: Context, principal: Anyone, position: Position, query: Annotated[PageQuery, Query()]
) -> Response:
    await _check(context, position)
    [before] = read_cursor(query.cursor, *_PLACE) or [str(_LAST)]
    party = _party(principal)
    found = await context.settlement_reads.page(party, int(before), query.limit + 1)
    shown = found.batches[: query.limit]
    items = [
        SettlementView(**_view(row, None if party is None else found.payouts_of(row["number"])))
        for row in shown
    ]
    cursor = cursor_after(str(shown[-1]["number"])) if len(found.batches) > query.limit else None
    return reply(SettlementPage(items=items, next_cursor=cursor), position)


@router.get(
    "/settlements/{number}",
    response_model=SettlementDetail,
    summary="Show a settlement batch",
    description="With its payouts; for everybody but an admin, only its own.",
    responses=refusals(Code.FORBIDDEN, Code.CONFLICT_STATE, Code.BATCH_NOT_FOUND),
)
async def show_settlement(
    context: Context, principal: Anyone, position: Position, number: Number
) -> Response:
    await _check(context, position)
    party = _party(principal)
    found = await context.settlement_reads.one(party, number)
    if not found.batches:
        raise Refusal(Code.BATCH_NOT_FOUND, f"no settlement batch {number} pays you, or there is none")
    values = _view(found.batches[0], None if party is None else found.payouts)
    return reply(SettlementDetail(**values, lines=[PayoutView(**row) for row in found.payouts]), position)


command_route(
    router,
    "POST",
    "/admin/settlements",
    SettlementClose,
    SettlementAnswer,
    name="close_settlement",
    summary="Close a settlement batch now",
    description="Earned and available money of each payee is in transit, and the batch is sent. A repeat "
    "with its `number` has no second effect.",
    fields=_own_fields,
    example={},
    refused=(Code.CONFLICT_STATE,),
)
command_route(
    router,
    "POST",
    "/admin/settlements/{number}/confirm",
    SettlementConfirm,
    SettlementAnswer,
    name="confirm_settlement",
    summary="Say that a part of a batch was paid",
    description="For a sink that can't tell any more. The part's money has left for good.",
    fields=_part_fields,
    example={"part": 0},
    refused=(Code.BATCH_NOT_FOUND, Code.CONFLICT_STATE),
)
command_route(
    router,
    "POST",
    "/admin/settlements/{number}/refuse",
    SettlementRefuse,
    SettlementAnswer,
    name="refuse_settlement",
    summary="Say that a part of a batch was not paid",
    description="For a sink that can't tell any more. The part's money returns to its payees: make sure that "
    "nobody pays it later.",
    fields=_part_fields,
    example={"part": 0, "reason": "the bank lost the file"},
    refused=(Code.BATCH_NOT_FOUND, Code.CONFLICT_STATE),
)


@router.get(
    "/admin/settlements/secret",
    response_model=SinkSecretView,
    summary="Show the secret of the sink `webhook`",
    description="The receiver of batches verifies their signatures with it, by the Standard Webhooks "
    "specification.",
    responses=_OFF,
)
async def show_sink_secret(context: Context, _: Admin, position: Position) -> Response:
    keys = context.webhook_keys
    secret, public = keys.secret(SINK_ID, GENERATION), keys.public_key(SINK_ID, GENERATION)
    view = SinkSecretView(secret=secret, public_key=public)
    return reply(view, position, Cache_Control="no-store")


@router.get(
    "/accounts/me/payout_address",
    response_model=PayoutAddressView,
    summary="Show where you are paid",
    responses=_OFF,
)
async def show_payout_address(context: Context, principal: Anyone, position: Position) -> Response:
    await _check(context, position)
    sink, address = await context.settlement_reads.address(principal.name)
    return reply(PayoutAddressView(sink=sink, address=address), position)


command_route(
    router,
    "PUT",
    "/accounts/me/payout_address",
    AccountSetPayoutAddress,
    PayoutAddressAnswer,
    name="set_payout_address",
    summary="Say where you want to be paid",
    description="The coordinator's settlement sink says which addresses are valid. null removes it.",
    fields=_own_fields,
    example={"address": "account-17"},
    refused=(Code.CONFLICT_STATE,),
)


@router.get(
    "/accounts/me/settlement_proof",
    response_model=SettlementProofView,
    summary="Show what you need to claim your payouts",
    description="For the sink `evm`: the contract, your sum, and the proof of it under the root of the last "
    "batch that is paid. A batch that waits for confirmations has set the next root already: ask "
    "again if the contract says `invalid proof`.",
    responses=_OFF,
)
async def show_settlement_proof(context: Context, principal: Anyone, position: Position) -> Response:
    return await _proof(context, principal.name, position)


@router.get(
    "/admin/accounts/{party}/settlement_proof",
    response_model=SettlementProofView,
    summary="Show what a party needs to claim its payouts",
    description="As `/v1/accounts/me/settlement_proof`, of any party.",
    responses=_OFF,
)
async def show_settlement_proof_of(
    context: Context, _: Admin, position: Position, party: Annotated[str, Path(pattern=f"^{NAME}$")]
) -> Response:
    return await _proof(context, party, position)


async def _proof(context: EdgeContext, party: str, position: int) -> Response:
    await _check(context, position)
    book = context.claim_book
    if book is None:
        sink = context.settings.settlement_sink
        raise Refusal(Code.CONFLICT_STATE, f"the sink {sink} pays by itself: nothing is to be claimed")
    rows = await context.settlement_reads.paid("evm", party)
    root, claims = await in_thread(partial(book.claims, rows.batch, rows.paid, rows.addresses))
    view = SettlementProofView(
        chain_id=book.terms.chain_id,
        contract=book.terms.distributor,
        batch=rows.batch or None,
        root=_hex(root) if claims else None,
        claims=[
            ClaimView(
                account=claim.account,
                cumulative=str(claim.cumulative),
                proof=[_hex(node) for node in claim.proof],
                data=_hex(claim.data),
            )
            for claim in claims
        ],
    )
    return reply(view, position)


def _hex(content: bytes) -> str:
    return "0x" + content.hex()


async def _check(context: EdgeContext, position: int) -> None:
    """Raise Refusal unless batches are settled here and the tables are at this position."""
    if context.settings.settlement_sink == "none":
        raise Refusal(Code.CONFLICT_STATE, "no batches are settled here; the operator sets SETTLEMENT_SINK")
    if position and not await context.settlement_reads.reached(position, context.limits.at_least_seconds):
        raise Problem(Code.UNAVAILABLE, f"the tables of batches are not yet at position {position}")


def _party(principal: Principal) -> str | None:
    """The party whose payouts alone this principal sees; None for all."""
    return None if principal.role is Role.ADMIN else principal.name


def _view(row: dict[str, Any], own: list[dict[str, Any]] | None) -> dict[str, Any]:
    """The members of a view; with the amounts of these payouts alone, if they are given."""
    values = {
        **row,
        "after": row["after_position"],
        "until": row["until_position"],
        "in_transit": row["total"] - row["confirmed"] - row["refused"],
    }
    if own is None:
        return values

    def total(*states: str) -> int:
        return sum(payout["amount"] for payout in own if payout["state"] in states)

    return {
        **values,
        "payouts": len(own),
        "total": total("IN_TRANSIT", "PAID", "RETURNED"),
        "in_transit": total("IN_TRANSIT"),
        "confirmed": total("PAID"),
        "refused": total("RETURNED"),
        "reason": row["reason"] if total("RETURNED") else "",
    }
