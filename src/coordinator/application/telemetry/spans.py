"""Spans of commands, commits and offers; without a tracer, nothing but a comparison.

The trace of a job: the client's span → its command → the offers of its attempts → the miner's attempt → the
miner's commands. An event keeps the span of its command as its trace context, so the offers of a job, also
those of later attempts and of other processes, are below the command that submitted it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from coordinator.application.ports import Intent, WorkQueues
from coordinator.domain.messages import Traceparent, read_traceparent
from coordinator.telemetry import names, tracing
from coordinator.telemetry.tracing import Attributes, Kind, Span, Tracer
from coordinator.wire.answers import Answer, Refused
from coordinator.wire.offers import Offer
from coordinator.wire.topology import COMMANDS_EXCHANGE, WORK_EXCHANGE

MAX_LINKS = 64
"""Links from a commit to the other commands of its batch."""
NOT_SENT = "not_sent"
"""The error of an offer that the broker did not take; it is made again."""


def begin_commands(tracer: Tracer, intents: Sequence[Intent]) -> tuple[list[Intent], list[Span | None]]:
    """These intents, in their spans, and the spans: one for each, None if it is not recorded."""
    spans = [_begin_command(tracer, intent) for intent in intents]
    within = [
        intent if span is None else intent._replace(span=span.traceparent)
        for intent, span in zip(intents, spans, strict=True)
    ]
    return within, spans


def _begin_command(tracer: Tracer, intent: Intent) -> Span | None:
    parent = read_traceparent(intent.command.traceparent) or intent.traceparent
    name, kind, attributes = _shape(intent.command.topic, intent.queue)
    return tracer.begin(name, kind, parent, attributes)


@cache
def _shape(topic: str, queue: str | None) -> tuple[str, Kind, Attributes]:
    """Name, kind and attributes of a command's span: the same for all of its type."""
    if queue is None:
        return names.deciding(topic), Kind.INTERNAL, {names.COMMAND: topic}
    attributes = names.messaging(names.PROCESS, COMMANDS_EXCHANGE, topic, queue=queue)
    name = f"{names.PROCESS} {attributes[names.MESSAGING_DESTINATION_NAME]}"
    return name, Kind.CONSUMER, {**attributes, names.COMMAND: topic}


def end_commands(spans: Sequence[Span | None], answers: Sequence[Answer]) -> None:
    """The commands are answered."""
    for span, answer in zip(spans, answers, strict=True):
        if span is not None:
            if isinstance(answer, Refused):
                span.end(answer.code.value)
                continue
            if isinstance(job_id := answer.body.get("job_id"), str):
                span.add({names.JOB_ID: job_id})
            span.end()


def record_commit(tracer: Tracer, intents: Sequence[Intent], events: int, began_ns: int) -> None:
    """The commands of one batch were decided and stored together, since `began_ns` (Unix nanoseconds).

    Each has a span for that in its own trace. The first one is linked to the commands of the others, and
    those to it.
    """
    within: list[Traceparent] = [intent.span for intent in intents if intent.span is not None]
    attributes = {names.BATCH_COMMANDS: len(intents), names.BATCH_EVENTS: events}
    first: Span | None = None
    for parent in within:
        links = within[1 : MAX_LINKS + 1] if first is None else [first.traceparent]
        span = tracer.begin(names.COMMIT, Kind.INTERNAL, parent, attributes, links=links, started_ns=began_ns)
        if span is not None:
            first = first or span
            span.end()


async def publish_offers(queues: WorkQueues, profile: str, bundles: Sequence[Sequence[Offer]]) -> list[Offer]:
    """Publish bundles of offers, each offer in a span of its own; returns those that did not arrive."""
    tracer = tracing.tracer()
    if tracer is None:
        return await queues.publish(profile, bundles)
    spans: dict[tuple[str, int], Span] = {}
    within = [[_begin_offer(tracer, offer, profile, queues.system, spans) for offer in b] for b in bundles]
    missed = set(spans)
    try:
        unsent = await queues.publish(profile, within)
        missed = {offer.key for offer in unsent}
    finally:
        for key, span in spans.items():
            span.end(NOT_SENT if key in missed else None)
    return unsent


def _begin_offer(
    tracer: Tracer, offer: Offer, profile: str, system: str, spans: dict[tuple[str, int], Span]
) -> Offer:
    """The offer with its span as its trace context; in the trace of its job. The span goes into `spans`."""
    parent = read_traceparent(offer.traceparent)
    if parent is None or not tracer.records(parent):
        return offer
    template = f"{WORK_EXCHANGE}:{{profile}}"
    attributes: dict[str, str | int] = {
        **names.messaging(names.SEND, WORK_EXCHANGE, profile, system=system),
        names.MESSAGING_DESTINATION_TEMPLATE: template,
        names.JOB_ID: str(offer.job_id),
        names.ATTEMPT: offer.attempt,
        names.SERVICE: offer.service,
    }
    span = tracer.begin(f"{names.SEND} {template}", Kind.PRODUCER, parent, attributes)
    if span is None:
        return offer
    spans[offer.key] = span
    return offer.model_copy(update={"traceparent": span.traceparent})
