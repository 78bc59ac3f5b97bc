"""The AsyncAPI 3 document of what travels over RabbitMQ, for `schemas/`.

It is generated from the same models that the inbox and the publishers use, by a broker object that never
connects: the inbox itself takes undecoded messages, so that FastStream knows nothing of their shape.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from faststream.rabbit import ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.specification import AsyncAPI
from pydantic import BaseModel, ConfigDict, create_model

from coordinator import __version__
from coordinator.application.ports import Heartbeat, Offer
from coordinator.broker.envelope import HEARTBEAT
from coordinator.broker.publisher import MANY
from coordinator.broker.topology import (
    COMMANDS,
    COMMANDS_QUEUE,
    CONTROL,
    EVENTS,
    HEARTBEATS_QUEUE,
    WORK,
    ExchangeSpec,
)
from coordinator.domain.aggregates import COMMANDS as COMMAND_TYPES
from coordinator.domain.aggregates import EVENTS as EVENT_TYPES
from coordinator.domain.errors import Code
from coordinator.domain.messages import Event, Role

EventType = TypeVar("EventType", bound=Event)


class AcceptedReply(BaseModel):
    """The command's effect is in the log at `position`; what else is told depends on the command."""

    model_config = ConfigDict(extra="allow")

    status: Literal["accepted"]
    position: int


class RefusedReply(BaseModel):
    """The command did nothing, and this is why."""

    status: Literal["refused"]
    code: Code
    detail: str


class Hint(BaseModel):
    """A nudge to one miner; the next heartbeat's answer says the same."""

    hint: Literal["cancel", "drain", "register"]
    job_id: UUID | None = None
    attempt: int | None = None


class PublishedEvent(BaseModel, Generic[EventType]):
    """An event and its place in the log. An array has events of one type and one client."""

    position: int
    stream: UUID
    version: int
    topic: str
    event: EventType


def asyncapi() -> dict[str, Any]:
    """The document, as JSON-compatible data. The same code gives the same document."""
    broker = RabbitBroker("amqp://localhost:5672/", specification_url="amqp://localhost:5672", logger=None)
    for topic, command in sorted(COMMAND_TYPES.items()):
        if command.senders == {Role.SYSTEM}:
            continue  # nobody can send it
        queue = RabbitQueue(COMMANDS_QUEUE, queue_type=QueueType.QUORUM, durable=True, routing_key=topic)
        subscriber = broker.subscriber(
            queue, _exchange(COMMANDS), title=topic, description=command.__doc__ or ""
        )
        subscriber(_handler(topic, command))
    heartbeats = RabbitQueue(HEARTBEATS_QUEUE, durable=True)
    broker.subscriber(heartbeats, title=HEARTBEAT, description=Heartbeat.__doc__)(
        _handler(HEARTBEAT, Heartbeat)
    )

    def publishes(
        title: str, exchange: ExchangeSpec | None, key: str, schema: Any, about: str | None
    ) -> None:
        broker.publisher(
            RabbitQueue(key),
            _exchange(exchange) if exchange else None,
            title=title,
            description=about,
            schema=schema,
        )

    replies = AcceptedReply | RefusedReply
    publishes("reply", None, "reply_to", replies | list[replies], "An array for an array, in its order.")
    publishes("offer", WORK, "profile", list[Offer], Offer.__doc__)
    publishes("hint", CONTROL, "miner_id", Hint, Hint.__doc__)
    for topic, event in sorted(EVENT_TYPES.items()):
        published = create_model(f"Published{event.__name__}", __base__=PublishedEvent[event])  # type: ignore[valid-type]
        key = f"{topic.rpartition('.')[0]}.*.*"
        about = f"{event.__doc__ or ''} The key's last words: the client, and the job or `{MANY}`.".strip()
        publishes(topic, EVENTS, key, list[published], about)
    specification = AsyncAPI(
        broker,
        title="coordinator",
        version=__version__,
        description="Commands, heartbeats, offers, hints and events; the protocol page explains them.",
    )
    document: dict[str, Any] = specification.to_specification().to_jsonable()
    # FastStream keeps its subscribers in sets, so the order is another one each time.
    for part in (document, document["components"]):
        for name, members in part.items():
            if isinstance(members, dict) and name in ("channels", "operations", "messages", "schemas"):
                part[name] = dict(sorted(members.items()))
    return document


def _exchange(spec: ExchangeSpec) -> RabbitExchange:
    return RabbitExchange(spec.name, type=ExchangeType(spec.kind), durable=True)


def _handler(topic: str, model: type[BaseModel]) -> Callable[[Any], Awaitable[None]]:
    """A function whose parameter has the payload's type, which is all that the document needs of it."""

    async def handler(body: Any) -> None:
        raise NotImplementedError

    handler.__name__ = topic.replace(".", "_")
    handler.__annotations__["body"] = model | list[model]  # type: ignore[valid-type]
    return handler
