"""Messages: base classes of commands and events, and the value types that they share.

Commands and events are frozen pydantic models with a stable topic, never a module path. Events are never
edited: a changed shape is a new topic version with an upcaster (see `coordinator.storage.log.upcasters`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import from_json, to_json

Millis = int
"""A moment: whole milliseconds since the Unix epoch, UTC. Integers keep events canonical."""

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
Name = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
"""A principal's name. No dots, so that it is one word of a routing key."""
MinerId = Annotated[str, StringConstraints(pattern=rf"^({NAME}@)?{NAME}$")]
"""A miner's id: its principal's name, or `node@principal` if one principal runs several miners."""
SessionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
"""The id of one life of a miner process; the miner chooses it and never uses it twice."""
ServiceId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,62}$")]
"""A registry entry's id: lower-case words joined by underscores."""
Decimal = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,9})?$")]
"""A non-negative decimal number as text, such as "0.25": exact, and the same bytes everywhere."""
Amount = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?$")]
"""The same for products of two of them."""
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, 64 lower-case hex digits."""
PublicKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]
"""An Ed25519 public key: 32 bytes, base64url without padding."""
Text = Annotated[str, StringConstraints(max_length=2000)]
IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]

_NAMESPACE = uuid5(NAMESPACE_URL, "coordinator")


def stream_id(kind: str, *names: str) -> UUID:
    """The id of the stream with these names: the same names always give the same stream."""
    return uuid5(_NAMESPACE, "\n".join((kind, *names)))


class Role(StrEnum):
    """The role of a principal. SYSTEM is the coordinator itself (timers, seeding); no key has it."""

    CLIENT = "client"
    MINER = "miner"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    SYSTEM = "system"


READS_ALL = frozenset({Role.VIEWER, Role.OPERATOR, Role.ADMIN})
"""Roles that may read every job and every miner."""
ACTS_ON_ALL = frozenset({Role.OPERATOR, Role.ADMIN})
"""Roles that may act on other people's jobs, and on miners."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The sender of a command, as the edge authenticated it."""

    name: str
    role: Role

    def owns_miner(self, miner_id: str) -> bool:
        """Whether this principal may speak for `miner_id` (its own name, or a node of its own)."""
        if self.role is not Role.MINER:
            return False
        return miner_id == self.name or miner_id.endswith(f"@{self.name}")


def principal_of(miner_id: str) -> str:
    """The name of the principal that speaks for this miner."""
    return miner_id.rpartition("@")[2]


SYSTEM = Principal("coordinator", Role.SYSTEM)


class Message(BaseModel):
    """Frozen, and strict about unknown fields: a misspelt field is refused, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    topic: ClassVar[str] = ""


TRACEPARENT = r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
Traceparent = str
"""The trace that a message belongs to, and the span that sent it (W3C Trace Context)."""
_TRACEPARENT = re.compile(TRACEPARENT)


def read_traceparent(text: object) -> Traceparent | None:
    """This text as a traceparent; None if it is invalid, as the W3C asks for."""
    return text if isinstance(text, str) and _TRACEPARENT.fullmatch(text) else None


_PLAIN = re.compile(r"[A-Za-z0-9 _.:/@#+-]*")
"""Text that JSON writes without escapes."""


class Metadata(NamedTuple):
    """The context of an event besides its facts; stored and hashed with it, part of no topic's model."""

    command_id: str
    """The id of the command that led to the event: that of its message, or a new one."""
    traceparent: Traceparent
    """The trace of the command; the job's offers pass it on, and its results bring it back."""

    def to_json(self) -> bytes:
        """The stored, hashed and published form: the members in this order."""
        if _PLAIN.fullmatch(self.command_id):  # nearly always, and every event of every command needs it
            return f'{{"command_id":"{self.command_id}","traceparent":"{self.traceparent}"}}'.encode()
        return to_json(self._asdict())

    @classmethod
    def from_json(cls, stored: bytes) -> Metadata:
        """Raises ValueError for anything but such a form."""
        try:
            return cls(**from_json(stored))
        except TypeError:
            raise ValueError("invalid metadata") from None


class Command(Message):
    """An intent; it may be refused. Its topic is its AMQP type and routing key, such as `job.submit`."""

    traceparent: Annotated[str, Field(max_length=128)] | None = None
    """The W3C trace context of this command alone; the default is that of the message or request."""
    senders: ClassVar[frozenset[Role]] = frozenset()
    """The roles that may send this command at all; `decide` checks ownership."""
    noun: ClassVar[str] = ""
    """The subject of the command: the first word of its topic."""
    discloses: ClassVar[bool] = False
    """Whether the answer holds a secret; such a command goes over HTTP only, never through a queue."""

    def __init_subclass__(
        cls, topic: str = "", senders: set[Role] | None = None, *, discloses: bool = False, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.topic = topic
        cls.noun = topic.partition(".")[0]
        cls.senders = frozenset(senders or ())
        cls.discloses = discloses
        if topic:
            _register(COMMANDS, topic, cls)


class Event(Message):
    """A fact in the past tense; it is never refused. Its topic ends in a version: `job.submitted.v1`."""

    noun: ClassVar[str] = ""
    """The subject of the event: the first word of its topic."""
    at: Millis
    """The moment of the decision."""
    by: str
    """The name of the command's principal."""

    def __init_subclass__(cls, topic: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.topic = topic
        cls.noun = topic.partition(".")[0]
        if topic:
            if not re.fullmatch(r"[a-z_]+\.[a-z_]+\.v[0-9]+", topic):
                raise ValueError(f"an event's topic is noun.fact.vN, not {topic!r}")
            _register(EVENTS, topic, cls)


class CannotFollow(ValueError):
    """An event that can't follow this state: the decisions did not write this log."""

    def __init__(self, state: object, event: Event) -> None:
        super().__init__(f"{event.topic} can't follow {type(state).__name__}")


COMMANDS: dict[str, type[Command]] = {}
"""Every command by topic; importing `coordinator.domain.registry` fills it."""
EVENTS: dict[str, type[Event]] = {}
"""Every event by topic, in every version ever written."""


def _register(registry: dict[str, Any], topic: str, cls: type[Message]) -> None:
    if topic in registry:
        raise ValueError(f"topic {topic!r} is taken by {registry[topic].__name__}")
    registry[topic] = cls


# Strict: JSON has its own numbers and booleans, and "5" or true for a number is a mistake.
TtlSeconds = Annotated[int, Field(strict=True, ge=1, le=604_800)]
Priority = Annotated[int, Field(strict=True, ge=0, le=9)]
MaxAttempts = Annotated[int, Field(strict=True, ge=1, le=10)]
Attempt = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
