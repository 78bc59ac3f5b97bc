"""The rights of API keys on the broker: pure rules over one question of RabbitMQ.

Everything is denied unless a rule allows it. RabbitMQ names a resource and one of three permissions:

- `configure`: declare or delete;
- `write`: publish to an exchange, or bind a queue;
- `read`: consume from or purge a queue, or bind to an exchange.

For a topic exchange it asks once more, with the routing key (`write`) or the binding key (`read`). The
default exchange reaches every queue without such a question, so only the coordinator may publish there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from coordinator.application.keys.keyring import Grant
from coordinator.domain.messages import READS_ALL, Principal, Role
from coordinator.domain.registry import COMMANDS
from coordinator.wire.topology import (
    COMMANDS_EXCHANGE,
    EVENTS_EXCHANGE,
    EVENTS_STREAM,
    HEARTBEATS_EXCHANGE,
    PROGRESS_EXCHANGE,
    control_queue_miner,
    own_queue_prefix,
    work_queue_profile,
)

EXCHANGES: Final[dict[Role, dict[str, frozenset[str]]]] = {
    Role.CLIENT: {
        "write": frozenset({COMMANDS_EXCHANGE}),
        "read": frozenset({EVENTS_EXCHANGE, PROGRESS_EXCHANGE}),
    },
    Role.MINER: {"write": frozenset({COMMANDS_EXCHANGE, HEARTBEATS_EXCHANGE, PROGRESS_EXCHANGE})},
    Role.VIEWER: {"read": frozenset({EVENTS_EXCHANGE, PROGRESS_EXCHANGE})},
    Role.OPERATOR: {
        "write": frozenset({COMMANDS_EXCHANGE}),
        "read": frozenset({EVENTS_EXCHANGE, PROGRESS_EXCHANGE}),
    },
    Role.ADMIN: {
        "write": frozenset({COMMANDS_EXCHANGE}),
        "read": frozenset({EVENTS_EXCHANGE, PROGRESS_EXCHANGE}),
    },
}
"""By role and permission; nobody may declare or delete an exchange."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a resource of our virtual host."""

    kind: str
    """`exchange`, `queue` or `topic`."""
    name: str
    permission: str
    key: str = ""
    """The routing or binding key, for a topic."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Lookups in the log. They may raise LogError: then there is no answer, and RabbitMQ asks again."""

    registered: Callable[[str, str], Awaitable[bool]]
    """(principal, profile): whether one of the principal's miners registered last with this profile."""
    holds: Callable[[Principal, str, UUID], Awaitable[bool]]
    """(miner, client, job): whether one of the miner's sessions holds this client's job."""


def mark_of(grant: Grant) -> str:
    """The grant as a tag of a RabbitMQ connection: later questions bring it back."""
    return f"{grant.principal.role.value}.{grant.key_id or 'settings'}.{grant.generation}"


async def allows(principal: Principal, question: Question, facts: Facts) -> bool:
    """Whether this principal may do that."""
    match question.kind:
        case "exchange":
            return question.name in EXCHANGES.get(principal.role, {}).get(question.permission, ())
        case "queue":
            return await _queue(principal, question, facts)
        case "topic":
            return await _topic(principal, question, facts)
    return False


async def _queue(principal: Principal, question: Question, facts: Facts) -> bool:
    name = question.name
    if principal.role in (Role.CLIENT, *READS_ALL) and name.startswith(own_queue_prefix(principal.name)):
        return True
    if question.permission != "read":
        return False
    if principal.role in READS_ALL:
        return name == EVENTS_STREAM
    if principal.role is Role.MINER:
        if (miner_id := control_queue_miner(name)) is not None:
            return principal.owns_miner(miner_id)
        if (profile := work_queue_profile(name)) is not None:
            return await facts.registered(principal.name, profile)
    return False


async def _topic(principal: Principal, question: Question, facts: Facts) -> bool:
    match question.permission, question.name:
        case "write", name if name == COMMANDS_EXCHANGE:
            command = COMMANDS.get(question.key)
            return command is not None and principal.role in command.senders
        case "write", name if name == PROGRESS_EXCHANGE and principal.role is Role.MINER:
            return await _own_progress(principal, question.key, facts)
        case "read", name if name in (EVENTS_EXCHANGE, PROGRESS_EXCHANGE):
            if principal.role in READS_ALL:
                return True
            if principal.role is not Role.CLIENT:
                return False
            # Word by word: `#` stands for any number of words, and would reach beyond the own ones.
            words = question.key.split(".")
            place, count = (2, 4) if name == EVENTS_EXCHANGE else (0, 2)
            return "#" not in words and len(words) == count and words[place] == principal.name
    return False


async def _own_progress(principal: Principal, key: str, facts: Facts) -> bool:
    client, _, job = key.partition(".")
    try:
        job_id = UUID(job)
    except ValueError:
        return False
    return str(job_id) == job and await facts.holds(principal, client, job_id)
