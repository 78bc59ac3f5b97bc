"""Spans of the OpenTelemetry SDK. Imported by `export` alone, once traces are asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan
from opentelemetry.trace import Tracer as SdkTracer

from coordinator.telemetry import names
from coordinator.telemetry.tracing import Attributes, Kind, Span

_KINDS = {kind: SpanKind(kind.value) for kind in Kind}


log = structlog.get_logger("telemetry")


class WatchedExporter(SpanExporter):
    """Another exporter, whose failures are two lines in our log: one as they begin, and one as they end."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing_since: float | None = None
        self._lost = 0
        """Spans that did not arrive since then."""
        # The library has a line for each try.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._failing_since is not None:
                seconds = round(time.monotonic() - self._failing_since, 1)
                log.info("telemetry.works_again", after_seconds=seconds, lost_spans=self._lost)
                self._failing_since, self._lost = None, 0
            return result
        self._lost += len(spans)
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            log.warning("telemetry.receiver_away", variable="OTEL_EXPORTER_OTLP_ENDPOINT")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class ChosenIds(RandomIdGenerator):
    """Random ids; the next trace id may be chosen, as the sampler has decided by it."""

    chosen: int | None = None

    def generate_trace_id(self) -> int:
        chosen, self.chosen = self.chosen, None
        return super().generate_trace_id() if chosen is None else chosen


class Sampling:
    """A sampler of the SDK, by the name that OTEL_TRACES_SAMPLER has for it."""

    def __init__(self, name: str = "parentbased_always_on", share: float = 1.0) -> None:
        """`share`: of the traces that begin here, for the samplers with a ratio."""
        fixed = {"always_on": 1.0, "always_off": 0.0}
        root = TraceIdRatioBased(fixed.get(name.removeprefix("parentbased_"), share))
        self.sampler: Sampler = ParentBased(root) if name.startswith("parentbased_") else root
        self._bound = root.bound
        self._limit = root.TRACE_ID_LIMIT

    def begins(self, trace_id: int) -> bool:
        """Whether a trace that begins here with this id is recorded: what the sampler says, at no cost."""
        return trace_id & self._limit < self._bound


class OpenTelemetrySpan:
    """A recorded span (a `tracing.Span`)."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: SdkSpan) -> None:
        context = span.get_span_context()
        self._span = span
        # The flag "sampled" alone: other versions of the flags are not ours to pass on.
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def add(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def end(self, error: str | None = None) -> None:
        if self._span.is_recording():
            if error is not None:
                self._span.set_attribute(names.ERROR_TYPE, error)
                self._span.set_status(Status(StatusCode.ERROR))
            self._span.end()


class OpenTelemetryTracer:
    """A `tracing.Tracer`. A span that is not recorded costs a few comparisons."""

    def __init__(self, tracer: SdkTracer, sampling: Sampling, ids: ChosenIds) -> None:
        self._tracer = tracer
        self._sampling = sampling
        self._ids = ids
        self._by_parent = isinstance(sampling.sampler, ParentBased)

    def records(self, parent: str) -> bool:
        return not self._by_parent or bool(int(parent[53:55], 16) & TraceFlags.SAMPLED)

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: str | None,
        attributes: Attributes | None = None,
        *,
        links: Sequence[str] = (),
        started_ns: int | None = None,
    ) -> Span | None:
        context = None
        if parent is not None:
            if not self.records(parent):
                return None
            context = set_span_in_context(NonRecordingSpan(_context(parent)))
        else:
            trace_id = self._ids.generate_trace_id()
            if not self._sampling.begins(trace_id):
                return None
            self._ids.chosen = trace_id
        span = self._tracer.start_span(
            name,
            context,
            _KINDS[kind],
            attributes,
            [Link(_context(link)) for link in links],
            started_ns or time.time_ns(),
        )
        self._ids.chosen = None
        return OpenTelemetrySpan(span) if span.is_recording() else None


def _context(traceparent: str) -> SpanContext:
    return SpanContext(
        int(traceparent[3:35], 16),
        int(traceparent[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(traceparent[53:55], 16)),
    )
