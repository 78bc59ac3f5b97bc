"""The coordinator's public keys, without a key and outside /v1: whoever verifies a receipt needs them."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from pydantic_core import to_json
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.edge.context import Context
from coordinator.edge.http.problems import refusals
from coordinator.edge.models.signing_keys import SigningKeysView, SigningKeyView

router = APIRouter(prefix="/.well-known/coordinator", tags=["health"])

_FRESH_SECONDS: Final = 60
"""How long a copy counts: after a rotation, verifiers ask again for a key that they do not know."""


@router.get(
    "/keys",
    response_model=SigningKeysView,
    name="signing_keys",
    summary="List the coordinator's public keys",
    description="The keys that sign receipts and promises, each with the positions of the log between which "
    "it was in force. Receipts of retired keys verify for ever; get the keys from somebody you trust.",
    responses=refusals(Code.UNAVAILABLE),
)
async def signing_keys(context: Context) -> Response:
    periods = await context.receipts.key_periods()
    view = SigningKeysView(
        keys=[
            SigningKeyView(
                key_id=period.key_id,
                state="current" if period.until is None else "retired",
                after=period.after,
                until=period.until,
            )
            for period in periods
        ],
        attestation_key_id=context.receipts.attestation_key_id,
    )
    return Response(
        to_json(view),
        media_type="application/json",
        headers={"Cache-Control": f"public, max-age={_FRESH_SECONDS}"},
    )
