"""Traces: spans of requests, commands, commits, offers and attempts, exported by OpenTelemetry.

    if (tracer := tracing.tracer()) is not None:
        span = tracer.begin(names.PROCESS_COMMAND, Kind.CONSUMER, traceparent, {…})

Without the standard variables `OTEL_*` there is no tracer, and nothing of OpenTelemetry is imported.
"""
