"""The page Admin: keys, quotas, dead letters, and settings without secrets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from coordinator.domain.messages import Millis
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.models.keys import KeyView


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyList:
    keys: tuple[KeyView, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSecret:
    """A key's secret, which is shown once."""

    key_id: UUID
    key: str | None
    """`name:secret`; None for a repeat."""
    hmac_secret: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLine:
    """What one name uses, and its limits; a limit of None is none."""

    name: str
    queued_jobs: int
    stored_bytes: int
    limits: dict[str, int | None]
    own: bool
    """Whether the name has limits of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that could not be handled."""

    number: int
    """Its place in the queue, from 1; it changes as others are replayed."""
    id: str
    type: str
    reason: str
    principal: str
    at: Millis | None
    size: int
    body: str
    """The begin of the body, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetters:
    letters: tuple[DeadLetter, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingLine:
    """A setting. Secrets are `set` or `not set`."""

    name: str
    value: str
    secret: bool
    default: bool


async def keys(
    context: EdgeContext, viewer: Viewer, cursor: str | None = None, limit: int = 50, *, revoked: bool = False
) -> KeyList:
    """A page of keys by name. Raises Refusal."""
    raise NotImplementedError


async def create_key(context: EdgeContext, viewer: Viewer, fields: dict[str, Any]) -> NewSecret:
    """Create a key: the fields of `key.create`. Raises Refusal."""
    raise NotImplementedError


async def rotate_key(context: EdgeContext, viewer: Viewer, key_id: UUID, grace_seconds: int = 0) -> NewSecret:
    """Give a key a new secret. Raises Refusal."""
    raise NotImplementedError


async def revoke_key(context: EdgeContext, viewer: Viewer, key_id: UUID, reason: str = "") -> int:
    """End a key for good; the position of the effect. Raises Refusal."""
    raise NotImplementedError


async def quotas(context: EdgeContext, viewer: Viewer) -> tuple[QuotaLine, ...]:
    """The names that use anything. Raises Refusal."""
    raise NotImplementedError


async def dead_letters(context: EdgeContext, viewer: Viewer, limit: int = 50) -> DeadLetters | None:
    """The dead letters; None in a mode without a broker. Raises Refusal."""
    raise NotImplementedError


async def replay(context: EdgeContext, viewer: Viewer, letter_id: str) -> bool:
    """Send a dead letter again, as its first sender; False if it is gone. Raises Refusal."""
    raise NotImplementedError


async def settings(context: EdgeContext, viewer: Viewer) -> tuple[SettingLine, ...]:
    """The settings without secrets. Raises Refusal."""
    raise NotImplementedError
