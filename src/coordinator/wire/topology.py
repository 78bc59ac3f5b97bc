"""Names on RabbitMQ that coordinators, miners and clients share: a public contract (see the protocol page).

`broker/topology.py` declares them.
"""

from __future__ import annotations

from typing import Final

COMMANDS_EXCHANGE: Final = "coordinator.commands"
WORK_EXCHANGE: Final = "coordinator.work"
CONTROL_EXCHANGE: Final = "coordinator.control"
EVENTS_EXCHANGE: Final = "coordinator.events"
PROGRESS_EXCHANGE: Final = "coordinator.progress"
DEAD_EXCHANGE: Final = "coordinator.dead"
OWNER_EXCHANGE: Final = "coordinator.owner"
"""Carries the id of the log that the virtual host belongs to; nothing is published to it."""

HEARTBEATS_EXCHANGE: Final = "coordinator.heartbeats"

COMMANDS_QUEUE: Final = "coordinator.commands"
HEARTBEATS_QUEUE: Final = "coordinator.heartbeats"
EVENTS_STREAM: Final = "coordinator.events.log"
DEAD_QUEUE: Final = "coordinator.dead"

_WORK, _MINER = "work.", "miner."
RESERVED_PREFIXES: Final = ("coordinator.", _WORK, _MINER)
"""The coordinator's queue names begin with these; no reply goes to such a queue."""
DIRECT_REPLY: Final = "amq.rabbitmq.reply-to"
"""RabbitMQ's pseudo-queue: replies go straight to the channel that asked, and need no queue."""

HEARTBEAT_TYPE: Final = "miner.heartbeat"
PROGRESS_TYPE: Final = "job.progress"
OFFER_TYPE: Final = "offer"
HINT_TYPE: Final = "hint"
"""Types of messages that are neither commands nor events."""


def work_queue_name(profile: str) -> str:
    """The queue of a profile's offers, bound to the work exchange by the profile."""
    return _WORK + profile


def control_queue_name(miner_id: str) -> str:
    """The queue of one miner's hints, bound to the control exchange by the miner's id."""
    return _MINER + miner_id


def work_queue_profile(queue: str) -> str | None:
    """The profile of a work queue; None for another queue."""
    return queue.removeprefix(_WORK) if queue.startswith(_WORK) else None


def control_queue_miner(queue: str) -> str | None:
    """The miner of a control queue; None for another queue."""
    return queue.removeprefix(_MINER) if queue.startswith(_MINER) else None


def own_queue_prefix(principal: str) -> str:
    """How the queues begin that a reader of events may declare where API keys are users of the broker.

    A name has no dots, so that no principal's queues begin like another's.
    """
    return f"events.{principal}."


def event_key(event_type: str, client: str, subject: str) -> str:
    """The routing key of an event. `event_type` has no version: `job.completed`."""
    return f"{event_type}.{client}.{subject}"


def progress_key(client: object, job_id: object) -> str:
    """The routing key of a job's progress; in a binding, `*` stands for any client or job."""
    return f"{client}.{job_id}"
