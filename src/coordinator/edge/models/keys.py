"""API keys that were made at run time."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from coordinator.edge.models.base import CommandAnswer, Moment, View


class KeyAnswer(CommandAnswer):
    key_id: UUID
    name: str
    role: str
    state: Literal["ACTIVE", "REVOKED"]
    generation: int
    expires_at: Moment | None
    signed: bool


class NewSecretAnswer(KeyAnswer):
    """`key` is shown only once: it is stored nowhere, and a repeat does not show it again."""

    key: str | None = Field(None, description="`name:secret`, as `X-Api-Key` takes it.")
    hmac_secret: str | None = Field(
        None, description="The secret that signs requests, if they must be signed."
    )


class KeyView(View):
    """An API key that was made at run time; `old_until` is the end of its secrets before the newest."""

    key_id: UUID
    name: str
    role: str
    label: str
    state: Literal["ACTIVE", "EXPIRED", "REVOKED"]
    signed: bool
    generation: int
    created_at: Moment
    created_by: str
    expires_at: Moment | None
    rotated_at: Moment | None
    old_until: Moment | None
    revoked_at: Moment | None
    revoked_by: str | None
    reason: str | None
    position: int


class KeyPage(View):
    items: list[KeyView]
    next_cursor: str | None
