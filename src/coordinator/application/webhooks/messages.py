"""Messages to receivers: which event is told to whom, under which id, and in which form. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

from coordinator.application.ports import Recorded
from coordinator.domain.alarm import AlarmRaised, is_alarm_event
from coordinator.domain.job import (
    JobCanceled,
    JobCompleted,
    JobExpired,
    JobFailed,
    ends_job,
    state_after,
)
from coordinator.domain.messages import Millis, principal_of
from coordinator.domain.miner import MinerLost
from coordinator.domain.webhook import WebhookTested

_IDS: Final = UUID("5f1c8f0e-8d2b-5a55-9a1c-6f0a6f3e7b10")


class Notice(NamedTuple):
    """What an event is to receivers."""

    type: str
    subject: str
    """The job, the miner, or the fault."""
    owner: str | None
    """The name whose job or miner it is; None for what concerns admins only."""
    role: str
    """The role of such owners' webhooks."""
    data: Mapping[str, Any] | None
    """None for a job: the API's view of it is sent."""


ENDS: Final[frozenset[type]] = frozenset((JobCompleted, JobFailed, JobCanceled, JobExpired))
"""The events that end a job: asked of every event, so by its class alone."""
TOLD: Final = ENDS | {MinerLost, AlarmRaised}
"""The events that receivers may be told of."""


def notice_of(recorded: Recorded) -> Notice | None:
    """What this event is to receivers; None for nothing."""
    event = recorded.event
    if type(event) not in TOLD:
        return None  # most events
    if ends_job(event):
        state = state_after(event)
        assert state is not None
        return Notice(f"job.{state.lower()}", recorded.key, event.client, "client", None)
    if isinstance(event, MinerLost):
        lost: dict[str, Any] = {
            "miner_id": event.miner_id,
            "session_id": event.session_id,
            "reason": event.reason,
            "lost_at": rfc3339(event.at),
        }
        return Notice("miner.lost", event.miner_id, principal_of(event.miner_id), "miner", lost)
    if is_alarm_event(event):
        data: dict[str, Any] = {
            "subject": event.subject,
            "fault_position": event.fault_position,
            "detail": event.detail,
            "raised_at": rfc3339(event.at),
        }
        return Notice(event.type, event.subject, None, "admin", data)
    return None


def test_data(event: WebhookTested) -> Mapping[str, Any]:
    """The data of a test message."""
    return {"webhook_id": str(event.webhook_id), "text": "It works."}


def delivery_id(recorded: Recorded, webhook_id: UUID) -> str:
    """The id of the message about this event to this receiver: the same whenever it is made.

    Receivers tell repeats by it.
    """
    return f"msg_{uuid5(_IDS, f'{recorded.key}/{recorded.version}/{webhook_id}').hex}"


def body_of(type_: str, at: Millis, data: Mapping[str, Any]) -> bytes:
    """The body of a message: `type`, `timestamp` (of the event) and `data`; for a job, `links` to the rest.

    A job's payload and result are never in it: they may be large, and may be erased.
    """
    body: dict[str, Any] = {"type": type_, "timestamp": rfc3339(at), "data": data}
    if type_.startswith("job."):
        job = f"/v1/jobs/{data['job_id']}"
        body["links"] = {"job": job, "history": f"{job}/history"}
        if type_ == "job.completed":
            body["links"] |= {"result": f"{job}/result", "receipt": f"{job}/receipt"}
    return json_text(body).encode()


def json_text(value: Mapping[str, Any]) -> str:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def rfc3339(at: Millis) -> str:
    """RFC 3339 text such as 2026-01-31T12:00:00.250Z."""
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
