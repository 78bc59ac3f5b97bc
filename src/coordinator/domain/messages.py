"""What travels: base classes of commands and events, and the value types they share.

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
from pydantic_core import to_json

Millis = int
"""A moment: whole milliseconds since the Unix epoch, UTC. Integers keep events canonical."""

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
Name = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
"""Who: a principal's name. No dots, so that it is one word of a routing key."""
MinerId = Annotated[str, StringConstraints(pattern=rf"^({NAME}@)?{NAME}$")]
"""A miner: its principal's name, or `node@principal` where one principal runs several."""
SessionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
"""One life of a miner process; chosen by the miner, never used twice."""
ServiceId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,62}$")]
"""A registry entry's id: lower-case words joined by underscores."""
Decimal = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,9})?$")]
"""A non-negative decimal number as text, such as "0.25": exact, and the same bytes everywhere."""
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, 64 lower-case hex digits."""
PublicKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]
"""An Ed25519 public key: 32 bytes, base64url without padding."""
Text = Annotated[str, StringConstraints(max_length=2000)]
IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]

_NAMESPACE = uuid5(NAMESPACE_URL, "coordinator")


def stream_id(kind: str, *names: str) -> UUID:
    """The id of the stream that belongs to these names: the same names give the same stream, always."""
    return uuid5(_NAMESPACE, "\n".join((kind, *names)))


class Role(StrEnum):
    """What a principal may be. SYSTEM is the coordinator itself (timers, seeding); no key gives it."""

    CLIENT = "client"
    MINER = "miner"
    ADMIN = "admin"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a command, as the edge proved it."""

    name: str
    role: Role

    def owns_miner(self, miner_id: str) -> bool:
        """Whether this principal may speak for `miner_id` (its own name, or a node of its own)."""
        if self.role is not Role.MINER:
            return False
        return miner_id == self.name or miner_id.endswith(f"@{self.name}")


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
    """The traceparent that this text is; None for anything else, as the W3C asks for."""
    return text if isinstance(text, str) and _TRACEPARENT.fullmatch(text) else None


_PLAIN = re.compile(r"[A-Za-z0-9 _.:/@#+-]*")
"""Text that JSON writes as it is."""


class Metadata(NamedTuple):
    """What every event carries besides its facts; stored and hashed with it, and part of no topic's model."""

    command_id: str
    """The command that the event followed from: the id of its message, or one that was made for it."""
    traceparent: Traceparent
    """The trace that the command belongs to; a job's offers carry it on, and its results bring it back."""

    def to_json(self) -> bytes:
        """As it is stored, hashed and published: its members in this order."""
        if _PLAIN.fullmatch(self.command_id):  # nearly always; for each event of each command
            return f'{{"command_id":"{self.command_id}","traceparent":"{self.traceparent}"}}'.encode()
        return to_json(self._asdict())


class Command(Message):
    """An intent; it may be refused. Its topic is its AMQP type and routing key, such as `job.submit`."""

    traceparent: Annotated[str, Field(max_length=128)] | None = None
    """The W3C trace context of this command alone; without it, that of the message or request applies."""
    senders: ClassVar[frozenset[Role]] = frozenset()
    """The roles that may send this command at all; `decide` checks what is whose."""
    noun: ClassVar[str] = ""
    """What it is about: the first word of its topic."""
    discloses: ClassVar[bool] = False
    """Whether its answer holds a secret: such a command goes over HTTP only, never through a queue."""

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
    """What it happened to: the first word of its topic."""
    at: Millis
    """When it was decided."""
    by: str
    """The name of the principal whose command it followed from."""

    def __init_subclass__(cls, topic: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.topic = topic
        cls.noun = topic.partition(".")[0]
        if topic:
            if not re.fullmatch(r"[a-z]+\.[a-z_]+\.v[0-9]+", topic):
                raise ValueError(f"an event's topic is noun.fact.vN, not {topic!r}")
            _register(EVENTS, topic, cls)


class CannotFollow(ValueError):
    """An event that can't follow this state: the log is not one that the decisions wrote."""

    def __init__(self, state: object, event: Event) -> None:
        super().__init__(f"{event.topic} can't follow {type(state).__name__}")


COMMANDS: dict[str, type[Command]] = {}
"""Every command by topic; filled by importing `coordinator.domain.registry`."""
EVENTS: dict[str, type[Event]] = {}
"""Every event by topic, of every version that was ever written."""


def _register(registry: dict[str, Any], topic: str, cls: type[Message]) -> None:
    if topic in registry:
        raise ValueError(f"topic {topic!r} is taken by {registry[topic].__name__}")
    registry[topic] = cls


# Strict: JSON has numbers and truth values of its own, and "5" or true for a number is a mistake.
TtlSeconds = Annotated[int, Field(strict=True, ge=1, le=604_800)]
Priority = Annotated[int, Field(strict=True, ge=0, le=9)]
MaxAttempts = Annotated[int, Field(strict=True, ge=1, le=10)]
Attempt = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
