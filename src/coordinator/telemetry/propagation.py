"""The trace of a program that uses OpenTelemetry itself, such as one that uses our SDK."""

from __future__ import annotations

import sys


def current_traceparent() -> str | None:
    """The span in which the caller runs, as a trace context; None without one.

    Asks a library that is there already, and loads none.
    """
    library = sys.modules.get("opentelemetry.trace")
    if library is None:
        return None
    context = library.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"
