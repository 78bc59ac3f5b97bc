"""Traces: off unless they are asked for, sampled as the variables say, named as the conventions do."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import messaging_attributes, url_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes
from opentelemetry.semconv.attributes import url_attributes as stable_url_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanContext

from coordinator.application.ports import Intent
from coordinator.domain.errors import Code
from coordinator.domain.job import JobStart
from coordinator.domain.messages import SYSTEM
from coordinator.domain.service import ServiceRegister
from coordinator.edge import create_app
from coordinator.telemetry import export, names, tracing
from coordinator.telemetry.export import BadTelemetry, asked_for
from coordinator.telemetry.opentelemetry_tracer import (
    ChosenIds,
    OpenTelemetryTracer,
    Sampling,
    WatchedExporter,
)
from coordinator.telemetry.tracing import Kind
from tests.harness.bus import ALICE, Bench, WatchedLog, codes, submit
from tests.harness.cases import every
from tests.harness.deciding import a_spec
from tests.unit.edge_fakes import ALICE as ALICE_KEY
from tests.unit.edge_fakes import a_context, browsing

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
A_CLAIM = {"job_id": UUID(int=1), "attempt": 1, "miner_id": "rig", "session_id": "session-1"}
UNSAMPLED = f"00-{'a' * 32}-{'b' * 16}-00"


class Recorder:
    """A tracer whose spans stay in memory."""

    def __init__(self, sampling: Sampling) -> None:
        self.exporter = InMemorySpanExporter()
        ids = ChosenIds()
        provider = TracerProvider(sampler=sampling.sampler, id_generator=ids, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = OpenTelemetryTracer(provider.get_tracer("test"), sampling, ids)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """In use as this process's tracer; it records everything that is sampled or begins a trace."""
    recorder = Recorder(Sampling())
    tracing.use(recorder.tracer)
    yield recorder
    tracing.use(None)


def context_of(context: SpanContext | None) -> str:
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


@every(
    ("variables", "asked"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, False),
    ],
)
def test_traces_are_off_unless_a_receiver_is_named(variables: dict[str, str], asked: bool) -> None:
    """The standard variables turn them on and off."""
    assert asked == asked_for(variables)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "use otlp or none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "only http/protobuf is supported"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "use one of always_off, always_on"),
        ("OTEL_TRACES_SAMPLER_ARG", "1%", "a share of all traces, from 0 to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "5", "a share of all traces, from 0 to 1"),
    ],
)
def test_a_variable_that_cannot_be_followed_is_refused(variable: str, value: str, told: str) -> None:
    """The SDK would fall back to recording everything; we name the variable instead."""
    given = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "traceidratio", variable: value}
    with pytest.raises(BadTelemetry, match=f"^invalid {variable}: ") as refused:
        asked_for(given)
    assert told in str(refused.value)


def test_a_span_is_below_its_parent_and_passes_itself_on(recorder: Recorder) -> None:
    """What a span passes on is its own id, in its parent's trace."""
    span = recorder.tracer.begin("outer", Kind.SERVER, PARENT, {"a": 1})
    assert span is not None
    inner = recorder.tracer.begin("inner", Kind.INTERNAL, span.traceparent, links=[UNSAMPLED])
    assert inner is not None
    inner.end("STALE_ATTEMPT")
    inner.end()
    span.end()
    first, second = recorder.exporter.get_finished_spans()
    assert ("inner", "STALE_ATTEMPT") == (first.name, (first.attributes or {})["error.type"])
    assert (span.traceparent, PARENT) == (context_of(first.parent), context_of(second.parent))
    assert span.traceparent == context_of(second.context)
    assert [int("a" * 32, 16)] == [link.context.trace_id for link in first.links]


def test_a_trace_that_was_not_chosen_stays_so(recorder: Recorder) -> None:
    """The sender has decided: below an unsampled context nothing is recorded."""
    assert recorder.tracer.begin("any", Kind.INTERNAL, UNSAMPLED) is None
    assert () == recorder.exporter.get_finished_spans()


def test_a_share_of_the_traces_that_begin_here_is_recorded() -> None:
    """The id that the sampler has chosen is the one that the trace gets."""
    recorder = Recorder(Sampling("parentbased_traceidratio", 0.25))
    spans = [recorder.tracer.begin("root", Kind.INTERNAL, None) for _ in range(2000)]
    for span in spans:
        if span is not None:
            span.end()
    recorded = recorder.exporter.get_finished_spans()
    assert 400 < len(recorded) < 600
    traces = {span.context.trace_id for span in recorded if span.context is not None}
    assert len(recorded) == len(traces)
    assert all(trace & (2**64 - 1) < 2**62 for trace in traces)


async def test_a_batch_is_linked_to_the_commands_of_other_traces(recorder: Recorder) -> None:
    """A group commit belongs to all its commands: each has its share, and the links lead to the others."""
    bench = Bench(WatchedLog())
    await bench.bus.start()
    await bench.send(ServiceRegister(spec=a_spec()), by=SYSTEM)
    parents = [f"00-{str(n) * 32}-{'b' * 16}-01" for n in (1, 2, 3)]
    intents = [Intent(submit(f"n{n}"), ALICE, traceparent=parent) for n, parent in enumerate(parents)]
    answers = await bench.gateway.handle([*intents, Intent(submit("n4", traceparent=UNSAMPLED), ALICE)])
    refused = await bench.gateway.handle([Intent(JobStart(**A_CLAIM), ALICE, traceparent=PARENT)])
    await bench.bus.stop()
    assert ["accepted"] * 4 == codes(answers)
    assert [Code.FORBIDDEN] == codes(refused)

    spans = recorder.exporter.get_finished_spans()
    commands = [context_of(s.context) for s in spans if s.name == "decide job.submit"]
    assert [parent[3:35] for parent in parents] == [context[3:35] for context in commands]
    commits = [span for span in spans if span.name == names.COMMIT]
    assert commands == [context_of(span.parent) for span in commits]
    assert {4} == {(span.attributes or {})[names.BATCH_COMMANDS] for span in commits}
    first, *others = commits
    assert commands[1:] == [context_of(link.context) for link in first.links]
    assert [[context_of(first.context)]] * 2 == [
        [context_of(link.context) for link in o.links] for o in others
    ]
    # The events pass the command's span on, so that offers are below it.
    stored = [e.metadata.traceparent for appended in bench.committed[1:] for e in appended.events]
    assert [*commands, UNSAMPLED] == stored
    [claim] = [span for span in spans if span.name == "decide job.start"]
    assert {"coordinator.command": "job.start", "error.type": "FORBIDDEN"} == dict(claim.attributes or {})


def test_the_names_are_those_of_the_pinned_conventions() -> None:
    """Each of our names is one of the conventions' package, and the version is one that it knows."""
    known = {
        value
        for module in (
            messaging_attributes,
            url_attributes,
            stable_url_attributes,
            http_attributes,
            error_attributes,
        )
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    ours = {
        value
        for name, value in vars(names).items()
        if name.isupper()
        and isinstance(value, str)
        and value.startswith(("messaging.", "http.", "url.", "error."))
    }
    assert set() == ours - known
    assert names.SCHEMA_URL in {schema.value for schema in Schemas}
    assert (names.SEND, names.PROCESS) == (
        messaging_attributes.MessagingOperationTypeValues.SEND.value,
        messaging_attributes.MessagingOperationTypeValues.PROCESS.value,
    )


def test_a_destination_is_named_as_the_conventions_ask() -> None:
    """Exchange and routing key, and the queue for a consumer unless it has the key's name."""
    sent = names.messaging(names.SEND, "coordinator.work", "p1")
    assert "coordinator.work:p1" == sent["messaging.destination.name"]
    taken = names.messaging(names.PROCESS, "coordinator.commands", "job.submit", queue="coordinator.commands")
    assert "coordinator.commands:job.submit:coordinator.commands" == taken["messaging.destination.name"]
    assert "messaging.rabbitmq.destination.routing_key" not in names.messaging(
        names.SEND, "coordinator.work", "p1", system=names.IN_PROCESS
    )


def test_variables_of_a_file_count_where_the_environment_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """OpenTelemetry reads the environment alone, and operators write `.env`."""
    file = tmp_path / ".env"
    file.write_text("OTEL_SERVICE_NAME=east\nOTEL_TRACES_EXPORTER=otlp\nAPP_PORT=1\n")
    for name in ("OTEL_SERVICE_NAME", "APP_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setattr(os, "environ", environment := dict(os.environ))
    export.take_from_file(file)
    named = [environment.get(name) for name in ("OTEL_SERVICE_NAME", "OTEL_TRACES_EXPORTER", "APP_PORT")]
    assert ["east", "none", None] == named


def test_an_outage_of_the_receiver_is_two_lines(recorder: Recorder) -> None:
    """One when exports begin to fail, and one when they work again, with what was lost."""

    class Receiver(InMemorySpanExporter):
        outcomes = iter([True, False, False, False, True, True])

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS if next(self.outcomes) else SpanExportResult.FAILURE

    span = recorder.tracer.begin("any", Kind.INTERNAL, None)
    assert span is not None
    span.end()
    spans = recorder.exporter.get_finished_spans()
    watched = WatchedExporter(Receiver())
    with structlog.testing.capture_logs() as lines:
        for _ in range(6):
            watched.export(spans * 2)
    assert [("telemetry.receiver_away", None), ("telemetry.works_again", 6)] == [
        (line["event"], line.get("lost_spans")) for line in lines
    ]


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces are asked for, and the library is not there: the start says what to install."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(BadTelemetry, match=re.escape("pip install 'coordinator[telemetry]'")):
        export.start("coordinator")


@every(
    ("name", "roots", "sampled", "unsampled"),
    [
        ("always_on", True, True, True),
        ("always_off", False, False, False),
        ("parentbased_always_on", True, True, False),
        ("parentbased_always_off", False, True, False),
        ("traceidratio", False, False, False),
        ("parentbased_traceidratio", False, True, False),
    ],
)
def test_the_samplers_do_what_their_names_say(name: str, roots: bool, sampled: bool, unsampled: bool) -> None:
    """Of a trace that begins here, below a recorded span, and below one that is not (a ratio of nothing)."""
    tracer = Recorder(Sampling(name, 0.0)).tracer
    spans = [tracer.begin("any", Kind.INTERNAL, parent) for parent in (None, PARENT, UNSAMPLED)]
    assert [roots, sampled, unsampled] == [span is not None for span in spans]


async def test_a_request_is_named_by_its_endpoint(recorder: Recorder) -> None:
    """Template, method and status, below the sender's span; nothing that a stranger has made up."""
    app = create_app(a_context())
    async with browsing(app, ALICE_KEY) as http:
        await http.get("/v1/jobs/made-up-by-a-stranger", headers={"traceparent": PARENT})
        await http.request("MADEUP", "/health", headers={"traceparent": PARENT})
        await http.post("/made/up", headers={"traceparent": "made-up"})
        await http.get("/v1/jobs")
        await http.post("/v1/miners/poll", json={})
    spans = recorder.exporter.get_finished_spans()
    assert [
        ("GET /v1/jobs/{job_id}", 422, PARENT[3:35]),
        ("_OTHER /health", 405, PARENT[3:35]),
        ("POST", 404, None),
    ] == [
        (
            span.name,
            (span.attributes or {})["http.response.status_code"],
            None if span.parent is None else f"{span.parent.trace_id:032x}",
        )
        for span in spans
    ]
    assert "made" not in "".join(span.to_json() for span in spans).lower()
