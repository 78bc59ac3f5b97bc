"""Whose commands dead letters are when they are sent again."""

from __future__ import annotations

from typing import Any

from coordinator.application.keys.keyring import Keyring
from coordinator.application.ports import DeadLetter
from coordinator.broker.dead_letters.letters import sender_of
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal, Role
from tests.harness.cases import every

KEYS = Keyring(
    {
        Role.CLIENT: ["alice:a-secret-of-hers", "bob:a-secret-of-his"],
        Role.ADMIN: ["alice:another-secret-of-hers"],
    }
)
LETTER: dict[str, Any] = {
    "id": "0" * 20,
    "routing_key": "",
    "code": "FORBIDDEN",
    "reason": "",
    "at": None,
    "message_id": "m",
    "body": b"{}",
    "proven": True,
}


@every(
    ("fields", "expected"),
    [
        ({"principal": "alice", "role": "client", "type": "quota.set"}, Principal("alice", Role.CLIENT)),
        ({"principal": "alice", "role": "admin", "type": "quota.set"}, Principal("alice", Role.ADMIN)),
        ({"principal": "alice", "role": "client", "type": "job.submit"}, Principal("alice", Role.CLIENT)),
        ({"principal": "bob", "role": "admin", "type": "quota.set"}, Code.UNAUTHORIZED_KEY),
        ({"principal": "eve", "role": "client", "type": "job.submit"}, Code.UNAUTHORIZED_KEY),
        ({"principal": "bob", "role": "client", "type": "no.such"}, Code.UNKNOWN_COMMAND),
        (
            {"principal": "alice", "role": "", "type": "quota.set", "proven": False},
            Principal("alice", Role.ADMIN),
        ),
    ],
)
def test_a_letter_is_sent_again_in_the_role_of_its_sender(
    fields: dict[str, Any], expected: Principal | Code
) -> None:
    """A client's letter stays a client's, though its name has an admin's key, too; a revoked key ends it."""
    try:
        found: Principal | Code = sender_of(DeadLetter(**{**LETTER, **fields}), KEYS)
    except Refusal as refusal:
        found = refusal.code
    assert expected == found
