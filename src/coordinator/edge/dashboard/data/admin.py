"""The page Admin: keys, quotas, dead letters, and settings without secrets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog

from coordinator.application.ports import DeadLetter
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.key import KeyCreate, KeyRevoke, KeyRotate
from coordinator.domain.messages import NAME, Command
from coordinator.edge.context import EdgeContext, ShownSetting
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.effects import take_effect
from coordinator.edge.dashboard.form_fields import command_of_form
from coordinator.edge.http.reads.reading import cursor_after, read_cursor
from coordinator.edge.models.keys import KeyView
from coordinator.wire.answers import Accepted, Refused

__all__ = [
    "DeadLetterLine",
    "DeadLetterPage",
    "KeyList",
    "QuotaLine",
    "ReplayOutcome",
    "ShownSecret",
    "ShownSetting",
    "create_key",
    "dead_letters",
    "keys",
    "quotas",
    "replay",
    "revoke_key",
    "rotate_key",
    "settings",
]

SHOWN_BYTES: Final = 2000
"""Of a dead letter's body."""
_CURSOR: Final = (NAME, r"[0-9a-f-]{36}")
_OUT_OF_REACH: Final = "the broker is out of reach; look again in a moment"

log = structlog.get_logger("dashboard")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyList:
    keys: tuple[KeyView, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSecret:
    """A key's secret, which is shown once."""

    key_id: UUID
    key: str | None
    """`name:secret`; None for a repeat."""
    hmac_secret: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLine:
    """What one name uses, and its limits; a limit of None is none."""

    name: str
    used: dict[str, int]
    limits: dict[str, int | None]
    own: bool
    """Whether the name has limits of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterLine:
    """A message that could not be handled."""

    id: str
    type: str
    code: str
    reason: str
    principal: str
    proved: bool
    """Whether the sender proved its name; only then can it be sent again."""
    size: int
    """Bytes of the body."""
    body: str
    """The begin of the body, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    letters: tuple[DeadLetterLine, ...]
    """The oldest of them."""
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOutcome:
    """The answers to a dead letter's commands."""

    accepted: int
    refused: dict[str, int]
    """By code."""
    dropped: bool
    """Whether the letter is gone; it stays unless all of its commands were accepted."""


async def keys(
    context: EdgeContext, viewer: Viewer, cursor: str | None = None, limit: int = 50, *, revoked: bool = False
) -> KeyList:
    """A page of keys by name, without those in the settings. Raises Refusal."""
    viewer.require_admin("see keys")
    after_name, after_id = read_cursor(cursor, *_CURSOR) or ("", "")
    rows = await context.reads.keys(
        (after_name, after_id), name="", role="", revoked=revoked, page_size=limit + 1
    )
    shown = rows[:limit]
    following = cursor_after(shown[-1].name, shown[-1].key_id) if len(rows) > len(shown) else None
    return KeyList(keys=tuple(row.view() for row in shown), next_cursor=following)


async def create_key(context: EdgeContext, viewer: Viewer, fields: dict[str, Any]) -> ShownSecret:
    """Create a key: the fields of `key.create`. Raises Refusal."""
    viewer.require_admin("create keys")
    return await _secret(context, viewer, command_of_form(KeyCreate.topic, fields))


async def rotate_key(
    context: EdgeContext, viewer: Viewer, key_id: UUID, grace_seconds: int = 0
) -> ShownSecret:
    """Give a key a new secret. Raises Refusal."""
    viewer.require_admin("rotate keys")
    fields = {"key_id": str(key_id), "grace_seconds": grace_seconds}
    return await _secret(context, viewer, command_of_form(KeyRotate.topic, fields))


async def revoke_key(context: EdgeContext, viewer: Viewer, key_id: UUID, reason: str = "") -> int:
    """End a key for good; the position of the effect. Raises Refusal."""
    viewer.require_admin("revoke keys")
    command = command_of_form(KeyRevoke.topic, {"key_id": str(key_id), "reason": reason})
    return (await take_effect(context, viewer, command)).position


async def quotas(context: EdgeContext, viewer: Viewer) -> tuple[QuotaLine, ...]:
    """The names that use anything, or have limits of their own. Raises Refusal."""
    viewer.require_admin("see quotas")
    known = context.quotas
    if known is None:
        return ()
    lines = []
    for name in known.names():
        used = known.usage_of(name)
        lines.append(
            QuotaLine(
                name=name,
                used={**used._asdict(), "stored_bytes": used.stored_bytes},
                limits=known.limits_of(name)._asdict(),
                own=name in known.own_limits(),
            )
        )
    return tuple(lines)


async def settings(context: EdgeContext, viewer: Viewer) -> tuple[ShownSetting, ...]:
    """The settings without secrets. Raises Refusal."""
    viewer.require_admin("see settings")
    return tuple(context.shown_settings())


# --- dead letters ------------------------------------------------------------------------------------------
async def dead_letters(context: EdgeContext, viewer: Viewer, limit: int = 50) -> DeadLetterPage | None:
    """The oldest dead letters; None in a mode without a broker. Raises Refusal."""
    viewer.require_admin("see dead letters")
    if context.dead_letters is None:
        return None
    try:
        letters, total = await context.dead_letters.oldest(limit)
    except ConnectionError:
        raise Refusal(Code.UNAVAILABLE, _OUT_OF_REACH) from None
    return DeadLetterPage(letters=tuple(_letter(letter) for letter in letters), total=total)


async def replay(context: EdgeContext, viewer: Viewer, letter_id: str) -> ReplayOutcome | None:
    """Send a dead letter's commands again, as its sender; None if the letter is gone. Raises Refusal.

    Its sender must have proved its name, and still have a key that may send such commands.
    """
    viewer.require_admin("send dead letters again")
    if context.dead_letters is None:
        return None
    try:
        replayed = await context.dead_letters.replay([letter_id], 1, unproven=False)
    except ConnectionError:
        raise Refusal(Code.UNAVAILABLE, _OUT_OF_REACH) from None
    if not replayed:
        return None
    answers = [answer for one in replayed for answer in one.answers]
    refused = Counter(answer.code.value for answer in answers if isinstance(answer, Refused))
    log.info("replay", admin=viewer.name, letter=letter_id, refused=dict(refused))
    accepted_ones = sum(isinstance(answer, Accepted) for answer in answers)
    return ReplayOutcome(accepted=accepted_ones, refused=dict(refused), dropped=not refused)


async def _secret(context: EdgeContext, viewer: Viewer, command: Command) -> ShownSecret:
    body = (await take_effect(context, viewer, command)).body
    return ShownSecret(
        key_id=UUID(str(body["key_id"])), key=body.get("key"), hmac_secret=body.get("hmac_secret")
    )


def _letter(letter: DeadLetter) -> DeadLetterLine:
    return DeadLetterLine(
        id=letter.id,
        type=letter.type,
        code=letter.code,
        reason=letter.reason,
        principal=letter.principal,
        proved=letter.proven,
        size=len(letter.body),
        body=letter.body[:SHOWN_BYTES].decode(errors="replace"),
    )
