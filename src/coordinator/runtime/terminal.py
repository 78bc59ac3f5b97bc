"""Output of programs: data on stdout (a JSON document, JSON lines, or text), everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

_UNPRINTABLE = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)}
_UNLIMITED = 1000  # columns if stdout is not a terminal: never wrap or cut text for a program


class PipeClosed(Exception):
    """The reader of stdout is gone."""


def plain(text: object) -> str:
    """Text without control characters: other people's text must not control the terminal."""
    return str(text).translate(_UNPRINTABLE)


def moment(millis: int) -> str:
    """Unix milliseconds in the form of the HTTP answers: 2026-01-31T12:00:00.250Z."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=millis)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write(text: str) -> None:
    """A line of data, flushed at once for a reader that follows."""
    piece(text + "\n")


def piece(text: str) -> None:
    """Part of a line of data, flushed at once."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise PipeClosed from None


def document(value: Any) -> None:
    """One JSON document on stdout."""
    write(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def line(value: Any) -> None:
    """One line of JSON lines."""
    write(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def note(text: str) -> None:
    """A message for the user that is not data, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table on stdout; without rows, the text `empty` on stderr."""
    listed = [[plain("" if cell is None else cell) for cell in row] for row in rows]
    if not listed:
        note(empty)
        return
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in listed:
        shown.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    _print(shown)


def fields(pairs: Mapping[str, object]) -> None:
    """Names and values, one per line, on stdout; empty values are left out."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in pairs.items():
        kept = _without_empty(value)
        if kept not in (None, "", [], {}, ()):
            text = json.dumps(kept, ensure_ascii=False) if isinstance(kept, dict | list) else str(kept)
            shown.add_row(name, Text(plain(text), style=_STYLES.get(text, "")))
    _print(shown)


def _without_empty(value: Any) -> Any:
    """Without empty members: for people, not for programs."""
    if isinstance(value, dict):
        kept = {name: _without_empty(inner) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if inner not in (None, "", [], {})}
    return [_without_empty(inner) for inner in value] if isinstance(value, list) else value


_STYLES = {
    "COMPLETED": "green",
    "ONLINE": "green",
    "ok": "green",
    "RUNNING": "cyan",
    "QUEUED": "yellow",
    "DRAINING": "yellow",
    "warning": "yellow",
    "FAILED": "red",
    "EXPIRED": "red",
    "failed": "red",
    "CANCELED": "magenta",
    "OFFLINE": "dim",
}


def _print(shown: Any) -> None:
    from rich.console import Console

    wide = None if sys.stdout.isatty() else _UNLIMITED
    console = Console(file=sys.stdout, width=wide, highlight=False, soft_wrap=False)
    with console.capture() as captured:
        console.print(shown)
    # Rich pads every cell to its column's width, also the last one of a row.
    write("\n".join(text.rstrip() for text in captured.get().splitlines()))


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """Progress bars on stderr; invisible if that is not a terminal, or with `quiet`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        # If stdout is not this terminal, leave it alone: data goes there.
        redirect_stdout=sys.stdout.isatty(),
        disable=quiet or not console.is_terminal,
    ) as shown:
        yield shown


def bar(bars: Progress, label: str, unit: str = "") -> Callable[[int, int], None]:
    """A new bar, as a function that takes (done, total); these are bytes if `unit` is empty."""
    task = bars.add_task(label, total=None, detail="")

    def moved(done: int, total: int) -> None:
        amount = f"{done} of {total} {unit}" if unit else f"{size(done)} of {size(total)}"
        bars.update(task, completed=done, total=total, detail=amount)

    return moved


def size(count: float) -> str:
    """Bytes for people, in decimal units, as for disks and networks."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
