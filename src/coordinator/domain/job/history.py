"""A job's events in sentences, for people who ask what became of it."""

from __future__ import annotations

from typing import assert_never

from coordinator.domain.job.events import (
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobEvent,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    error_of,
)
from coordinator.domain.matching.needs import Constraints


def sentence(event: JobEvent) -> str:
    """One line about this event, without its time. Names and messages in it come from strangers."""
    match event:
        case JobSubmitted():
            return _submitted(event)
        case JobStarted():
            paid = f", at {event.unit_price} a unit" if float(event.unit_price) else ""
            return f"{event.miner_id} began attempt {event.attempt}{paid}"
        case JobCompleted():
            size = f" ({event.result_bytes} bytes)" if event.result_bytes else ""
            return f"completed: {event.miner_id} delivered the result{size} of attempt {event.attempt}"
        case JobAttemptEnded():
            return _attempt_ended(event)
        case JobRequeued():
            return f"queued again, as attempt {event.attempt}"
        case JobFailed():
            return f"failed for good: {_error(*error_of(event))}"
        case JobCanceled():
            because = f": {event.reason}" if event.reason else ""
            return f"canceled by {event.by}{because}"
        case JobExpired():
            return "expired: its time to live was over"
        case _:
            assert_never(event)


def _submitted(event: JobSubmitted) -> str:
    attempts = "1 attempt" if event.max_attempts == 1 else f"up to {event.max_attempts} attempts"
    terms = [f"priority {event.priority}", f"{attempts} of {event.timeout_seconds} s"]
    if event.constraints != Constraints():
        terms.append(f"needs {event.constraints.model_dump_json(exclude_defaults=True)}")
    return f"{event.client} asked for {event.service} (version {event.service_version}): {', '.join(terms)}"


def _attempt_ended(event: JobAttemptEnded) -> str:
    match event.outcome:
        case "released":
            return f"{event.miner_id} gave attempt {event.attempt} back: {_error_of(event)}"
        case "lost":
            return f"attempt {event.attempt} was lost with {event.miner_id}: {_error_of(event)}"
        case "failed":
            final = "" if event.retryable else " (by its word, another attempt fails as well)"
            return f"attempt {event.attempt} failed on {event.miner_id}: {_error_of(event)}{final}"
        case _:
            assert_never(event.outcome)


def _error_of(event: JobAttemptEnded) -> str:
    return _error(event.error_code, event.error_message)


def _error(code: str, message: str) -> str:
    return f"{code}: {' '.join(message.split())}" if message else code
