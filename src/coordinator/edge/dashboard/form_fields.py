"""Commands from the fields of forms: a refusal names the field as the form does, and says what to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from coordinator.application.commands.parsing import parse_command
from coordinator.domain.errors import Refusal
from coordinator.domain.messages import Command

_REASON: Final = "invalid reason: write 2,000 characters at most"
RULES: Final[Mapping[str, str]] = {
    "name": "invalid name: write 1 to 63 letters, digits, - and _, and begin with a letter or a digit",
    "party": "invalid account: write the name of a key, the part before the colon",
    "label": "invalid purpose: write 200 characters at most, in one line",
    "role": "invalid role: choose one of the list",
    "expires_in_seconds": "invalid days: write a whole number from 1, or nothing for a key that lasts",
    "reason": _REASON,
    "service": "invalid service: choose one of the list",
    "principal": "invalid miner: open its page again",
    "amount": "invalid amount: write a number of units from 0.000001 to 1,000,000,000",
    "business_id": (
        "invalid id: write 1 to 128 letters, digits and . _ : / -, and begin with a letter or a digit"
    ),
    "deliveries": "invalid message: use the button beside it",
    "webhook_id": "invalid webhook: open its page again",
    "idempotency_key": "invalid form: load the page again",
}
"""By field: what a person should do instead."""


def command_of_form(topic: str, fields: Mapping[str, Any]) -> Command:
    """The command with these fields of a form. Raises Refusal, whose text quotes no pattern."""
    try:
        return parse_command(topic, dict(fields))
    except Refusal as refusal:
        field = refusal.detail.partition(":")[0].partition(".")[0]
        raise Refusal(refusal.code, RULES.get(field, refusal.detail)) from None
