"""The rights of viewers and operators on the broker, beside those of clients, miners and admins."""

from __future__ import annotations

from uuid import UUID

from coordinator.broker.auth.rights import Facts, Question, allows
from coordinator.domain.messages import Principal, Role
from coordinator.wire.topology import COMMANDS_EXCHANGE, EVENTS_EXCHANGE, EVENTS_STREAM, own_queue_prefix
from tests.harness.cases import every


async def nothing(*_: str) -> bool:
    return False


async def holds(_: Principal, __: str, ___: UUID) -> bool:
    return False


def topic(permission: str, name: str, key: str) -> Question:
    return Question("topic", name, permission, key)


VIEWER, OPERATOR = Principal("x", Role.VIEWER), Principal("x", Role.OPERATOR)


@every(
    ("question", "viewer", "operator"),
    [
        (Question("exchange", EVENTS_EXCHANGE, "read"), True, True),
        (Question("exchange", COMMANDS_EXCHANGE, "write"), False, True),
        (topic("read", EVENTS_EXCHANGE, "#"), True, True),
        (Question("queue", EVENTS_STREAM, "read"), True, True),
        (Question("queue", EVENTS_STREAM, "write"), False, False),
        (Question("queue", f"{own_queue_prefix('x')}1", "configure"), True, True),
        (Question("queue", "work.0123", "read"), False, False),
        (topic("write", COMMANDS_EXCHANGE, "job.cancel"), False, True),
        (topic("write", COMMANDS_EXCHANGE, "job.submit_again"), False, True),
        (topic("write", COMMANDS_EXCHANGE, "standing.quarantine"), False, True),
        (topic("write", COMMANDS_EXCHANGE, "job.submit"), False, False),
        (topic("write", COMMANDS_EXCHANGE, "service.retire"), False, False),
        (topic("write", COMMANDS_EXCHANGE, "quota.set"), False, False),
    ],
)
async def test_viewers_read_and_operators_also_send(question: Question, viewer: bool, operator: bool) -> None:
    """All events and no command for the one; commands about jobs and miners for the other."""
    facts = Facts(registered=nothing, holds=holds)
    found = [await allows(principal, question, facts) for principal in (VIEWER, OPERATOR)]
    assert found == [viewer, operator]
