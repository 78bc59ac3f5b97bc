"""Spans of a miner: an offer in hand, what is done for it, and the commands that it sends.

Without a tracer they cost a comparison.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from coordinator.domain.messages import read_traceparent
from coordinator.telemetry import names, tracing
from coordinator.telemetry.tracing import Kind, Span
from coordinator.wire.answers import AnswerJson
from coordinator.wire.offers import Offer
from coordinator.wire.topology import COMMANDS_EXCHANGE, WORK_EXCHANGE, work_queue_name

STOPPED = "stopped"
"""The error of an executor that was cancelled."""


def begin_attempt(offer: Offer, miner_id: str, *, over_http: bool) -> Span | None:
    """The span of an attempt, from the offer in hand to its report, below the span of the offer."""
    tracer, parent = tracing.tracer(), read_traceparent(offer.traceparent)
    if tracer is None or parent is None or not tracer.records(parent):
        return None
    attributes: dict[str, str | int] = {
        names.JOB_ID: str(offer.job_id),
        names.ATTEMPT: offer.attempt,
        names.SERVICE: offer.service,
        names.MINER_ID: miner_id,
    }
    if over_http:
        return tracer.begin(names.ATTEMPT_SPAN, Kind.INTERNAL, parent, attributes)
    template = f"{WORK_EXCHANGE}:{{profile}}:{work_queue_name('{profile}')}"
    attributes |= names.messaging(names.PROCESS, WORK_EXCHANGE, "")
    attributes[names.MESSAGING_DESTINATION_TEMPLATE] = template
    return tracer.begin(f"{names.PROCESS} {template}", Kind.CONSUMER, parent, attributes)


def begin_execution(service: str, traceparent: str | None) -> Span | None:
    """The span of an executor, below its attempt's."""
    tracer, parent = tracing.tracer(), read_traceparent(traceparent)
    if tracer is None or parent is None or not tracer.records(parent):
        return None
    return tracer.begin(names.executing(service), Kind.INTERNAL, parent, {names.SERVICE: service})


def end_span(span: Span | None, error: str | None = None) -> None:
    """End it, if there is one and it has not ended."""
    if span is not None:
        span.end(error)


class SentCommand:
    """A command that is being sent: its fields, and its answer once there is one."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self.answer: AnswerJson | None = None


@asynccontextmanager
async def sending(
    kind: str, fields: Mapping[str, Any], path: str | None = None
) -> AsyncIterator[SentCommand]:
    """Send a command in a span below its own trace context, until it is answered. `path`: the template
    of its path over HTTP."""
    sent = SentCommand(fields)
    tracer, parent = tracing.tracer(), read_traceparent(fields.get("traceparent"))
    if tracer is None or parent is None or not tracer.records(parent):
        yield sent
        return
    if path is None:
        attributes = names.messaging(names.SEND, COMMANDS_EXCHANGE, kind)
        name = f"{names.SEND} {attributes[names.MESSAGING_DESTINATION_NAME]}"
        span = tracer.begin(name, Kind.PRODUCER, parent, {**attributes, names.COMMAND: kind})
    else:
        given = {names.HTTP_REQUEST_METHOD: "POST", names.URL_TEMPLATE: path, names.COMMAND: kind}
        span = tracer.begin(f"POST {path}", Kind.CLIENT, parent, given)
    if span is None:
        yield sent
        return
    sent.fields = {**fields, "traceparent": span.traceparent}
    try:
        yield sent
    finally:
        answer = sent.answer or {"status": "refused", "code": "NO_ANSWER"}
        span.end(None if answer["status"] == "accepted" else str(answer.get("code")))
