"""Logs: structlog, one line per fact that an operator needs, on stderr. No payloads, no secrets."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from typing import Any, Literal, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from coordinator.runtime import terminal

_OURS = frozenset({"event", "level", "timestamp", "exception", "stack"})
_QUOTED = frozenset(" \t=\r\n\"'")
LogFormat = Literal["console", "json"]

# At level info these libraries log every step of theirs; our own lines cover the facts that matter.
QUIET = (
    "aio_pika",
    "aiormq",
    "uvicorn",
    "uvicorn.access",
    "uvicorn.error",
    "httpx",
    "httpcore",
    "faststream",
)


class _Surviving:
    """A stream whose faults end no work: on a full disk a line is lost, and commands are still answered."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class _OneLine(logging.Formatter):
    """Other libraries' messages: one line each, their tracebacks behind a margin."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{record.levelname} {record.name}: {terminal.plain(record.getMessage())}"
        if record.exc_info:
            text += "\n" + terminal.quoted(self.formatException(record.exc_info))
        return text


class _JsonLine(logging.Formatter):
    """Other libraries' messages as JSON, with the members that our own lines have."""

    def format(self, record: logging.LogRecord) -> str:
        facts: EventDict = {
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return _json(facts, repr)


def _escape_texts(_: Any, __: str, facts: EventDict) -> EventDict:
    """Escapes in texts that would act on a terminal. The renderer quotes and escapes those with spaces."""
    for name, value in facts.items():
        if isinstance(value, str) and name not in _OURS and _QUOTED.isdisjoint(value):
            facts[name] = terminal.plain(value)
    return facts


def _write_traceback(to: TextIO, exc_info: ExcInfo) -> None:
    """A traceback without local variables, which hold payloads and keys; behind a margin."""
    traceback = StringIO()
    structlog.dev.plain_traceback(traceback, exc_info)
    to.write("\n" + terminal.quoted(traceback.getvalue().strip("\n")))


def _json(facts: EventDict, default: Callable[[Any], Any]) -> str:
    try:
        return orjson.dumps(facts, default).decode()
    except TypeError:  # texts that are not UTF-8, and large numbers
        return json.dumps(facts, default=default)


def configure_logs(log_format: LogFormat = "console", level: str = "info") -> None:
    """Set up logging for this process; `level` is debug, info, warning or error."""
    number = getattr(logging, level.upper())
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if log_format == "json":
        # Tracebacks without local variables, here and below: the variables hold payloads and keys.
        plain = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        processors += [
            structlog.processors.ExceptionRenderer(plain),
            structlog.processors.JSONRenderer(_json),
        ]
    else:
        colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        processors += [
            _escape_texts,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_write_traceback),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # A line is one write: `print` would make two of it.
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Surviving(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine() if log_format == "json" else _OneLine())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL if name.startswith("aio") else logging.WARNING)
