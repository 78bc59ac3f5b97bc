"""Publishes events: arrays on the events exchange, under routing keys that name client and subject."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from pamqp.commands import Basic

from coordinator.application.ports import Recorded
from coordinator.broker.connection import Broker, PublishFailed
from coordinator.domain.account import PaymentsSettled, is_account_event, is_payment_event
from coordinator.domain.content import is_content_event
from coordinator.domain.job import is_job_event
from coordinator.domain.key import is_key_event
from coordinator.domain.miner import is_miner_event
from coordinator.domain.quota import is_quota_event
from coordinator.domain.service import ServiceRetired, is_service_event
from coordinator.domain.standing import is_standing_event
from coordinator.domain.webhook import is_webhook_event
from coordinator.wire.limits import MAX_ARRAY_LENGTH
from coordinator.wire.topology import EVENTS_EXCHANGE, event_key

MAX_ARRAY_BYTES = 2**20 - 1
NOBODY = "-"
"""The client's word in the routing key of an event without a client."""
MONEY = "money"
"""The subject's word in the routing key of an event of an account."""
MANY = "many"
"""The subject's word in the routing key of an array, or an event, about several subjects."""


def owner_and_subject(recorded: Recorded) -> tuple[str, str]:
    """The event's client, and its job, miner, principal, key or service: its routing key's last words."""
    event = recorded.event
    if is_job_event(event):
        return event.client, recorded.key
    if is_miner_event(event):
        return NOBODY, event.miner_id
    if is_account_event(event):
        # The coordinator's own accounts are nobody's.
        owner = NOBODY if event.party.startswith("@") else event.party
        return owner, MONEY
    if is_payment_event(event):
        return event.client, str(event.job_id)
    if isinstance(event, PaymentsSettled):
        return NOBODY, MONEY  # of many clients: each has an entry of its account
    if is_standing_event(event):
        return NOBODY, event.principal
    if is_key_event(event):
        return NOBODY, str(event.key_id)
    if is_quota_event(event):
        return NOBODY, event.name
    if is_webhook_event(event):
        return event.owner, str(event.webhook_id)
    if is_content_event(event):
        subject = str(event.jobs[0]) if len(event.jobs) == 1 else MANY
        return event.client or NOBODY, subject
    if is_service_event(event):
        return NOBODY, event.service if isinstance(event, ServiceRetired) else event.spec.id
    return NOBODY, NOBODY


class _Array:
    """Events of one type and client, as one message's body."""

    def __init__(self, topic: str, owner: str, subject: str, first: Recorded) -> None:
        self.topic = topic
        self.owner = owner
        self.subject = subject
        self.message_id = f"{first.key}-{first.version}"
        self.parts: list[bytes] = []
        self.size = 1

    def fits(self, part: bytes) -> bool:
        room = MAX_ARRAY_BYTES - self.size - 1
        return not self.parts or (len(self.parts) < MAX_ARRAY_LENGTH and len(part) <= room)

    def add(self, part: bytes, subject: str) -> None:
        self.parts.append(part)
        self.size += len(part) + 1
        if subject != self.subject:
            self.subject = MANY

    @property
    def routing_key(self) -> str:
        # The version stays out of the key: a reader of `job.completed.*.*` gets the next version too.
        fact = self.topic.rpartition(".")[0]
        return event_key(fact, self.owner, self.subject)

    @property
    def body(self) -> bytes:
        return b"[" + b",".join(self.parts) + b"]"


def arrays_of(events: Sequence[Recorded]) -> Iterator[_Array]:
    """The events in arrays per type and client, in log order within each."""
    open_arrays: dict[tuple[str, str], _Array] = {}
    for recorded in events:
        topic = recorded.event.topic
        owner, subject = owner_and_subject(recorded)
        part = _element(recorded)
        array = open_arrays.get((topic, owner))
        if array is not None and not array.fits(part):
            yield array
            array = None
        if array is None:
            array = open_arrays[topic, owner] = _Array(topic, owner, subject, recorded)
        array.add(part, subject)
    yield from open_arrays.values()


def _element(recorded: Recorded) -> bytes:
    # The members before the event are plain ASCII, and the event is JSON already.
    start = (
        f'{{"position":{recorded.position},"stream":"{recorded.key}","version":{recorded.version},'
        f'"topic":"{recorded.event.topic}","event":'
    )
    return start.encode() + recorded.data + b',"metadata":' + recorded.metadata_json + b"}"


class RabbitEventSink:
    """`EventSink` over RabbitMQ."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def publish(self, events: Sequence[Recorded]) -> None:
        """Raises PublishFailed unless the broker confirmed every array."""
        arrays = list(arrays_of(events))
        if len(arrays) == 1:  # the events of a lone command need no task of their own
            outcomes = [await self._send(arrays[0])]
        else:
            outcomes = await asyncio.gather(*(self._send(array) for array in arrays))
        failed = outcomes.count(False)
        if failed:
            raise PublishFailed(f"RabbitMQ did not confirm {failed} of {len(arrays)} arrays of events")

    async def _send(self, array: _Array) -> bool:
        properties = Basic.Properties(
            content_type="application/json",
            message_type=array.topic,
            message_id=array.message_id,
            delivery_mode=2,
        )
        # An event without a subscriber is not an error, so the message is not mandatory.
        outcome = await self._broker.publish(EVENTS_EXCHANGE, array.routing_key, array.body, properties)
        return outcome == "confirmed"
