"""The tracer of this process, if there is one: the one thing that traced code knows of OpenTelemetry.

A trace context is text everywhere (W3C Trace Context: `traceparent`), as in messages, events and offers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

Attributes = Mapping[str, str | int]
"""Never a payload, a secret, or text of a client: our own names, ids that we checked, codes and counts."""


class Kind(Enum):
    """The kinds of spans, as OpenTelemetry numbers them."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    PRODUCER = 3
    CONSUMER = 4


class Span(Protocol):
    """Something that takes time, and was chosen to be recorded."""

    @property
    def traceparent(self) -> str:
        """The context for what follows from it."""

    def add(self, attributes: Attributes) -> None:
        """Add attributes that are known only now."""

    def rename(self, name: str) -> None:
        """Give it another name: what it was is known only now."""

    def end(self, error: str | None = None) -> None:
        """It is over. `error`: a code, if it failed. A second end does nothing."""


class Tracer(Protocol):
    """Begins spans. Used on the event loop only."""

    def records(self, parent: str) -> bool:
        """Whether spans below this context may be recorded: to be asked before anything is made for one."""

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
        """A span below `parent`, or one that begins a trace; None if it is not to be recorded.

        `parent` is a valid traceparent. `links`: contexts of other traces that it has to do with.
        `started_ns`: Unix nanoseconds; None is now.
        """


_tracer: Tracer | None = None


def tracer() -> Tracer | None:
    """The tracer of this process; None where nobody asked for traces."""
    return _tracer


def use(chosen: Tracer | None) -> None:
    """Make this the tracer of this process."""
    global _tracer  # noqa: PLW0603 - one process has one tracer, as it has one log
    _tracer = chosen
