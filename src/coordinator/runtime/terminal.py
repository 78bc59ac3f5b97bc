"""What programs print: data on stdout (a JSON document, JSON lines, or text), everything else on stderr."""

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
_UNLIMITED = 1000  # columns where nobody looks at a terminal: never wrap or cut what a program reads


class PipeClosed(Exception):
    """The reader of stdout has gone."""


def plain(text: object) -> str:
    """Text without control characters: what others wrote must not be able to steer the terminal."""
    return str(text).translate(_UNPRINTABLE)


def moment(millis: int) -> str:
    """Unix milliseconds in the form that the HTTP answers have: 2026-01-31T12:00:00.250Z."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=millis)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write(text: str) -> None:
    """A line of data, out at once: somebody may be following."""
    piece(text + "\n")


def piece(text: str) -> None:
    """Part of a line of data, out at once."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise PipeClosed from None


def document(value: Any) -> None:
    """One JSON document on stdout."""
    write(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def line(value: Any) -> None:
    """One JSON document on one line, of a stream of them."""
    write(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def note(text: str) -> None:
    """Something for the user that is not data, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table on stdout; `empty` is said (on stderr) where there are no rows."""
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
    """Names and values, one a line, on stdout; those without a value are left out."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in pairs.items():
        said = _said(value)
        if said not in (None, "", [], {}, ()):
            text = json.dumps(said, ensure_ascii=False) if isinstance(said, dict | list) else str(said)
            shown.add_row(name, Text(plain(text), style=_STYLES.get(text, "")))
    _print(shown)


def _said(value: Any) -> Any:
    """Without members that say nothing: for people, not for programs."""
    if isinstance(value, dict):
        kept = {name: _said(inner) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if inner not in (None, "", [], {})}
    return [_said(inner) for inner in value] if isinstance(value, list) else value


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
    # Rich fills cells up to their column's width, also the last ones.
    write("\n".join(text.rstrip() for text in captured.get().splitlines()))


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """Progress bars on stderr; invisible where that is no terminal, or when `quiet`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[said]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        # Where stdout is another terminal or none, it must stay what it is: data goes there.
        redirect_stdout=sys.stdout.isatty(),
        disable=quiet or not console.is_terminal,
    ) as shown:
        yield shown


def bar(bars: Progress, what: str, unit: str = "") -> Callable[[int, int], None]:
    """A new bar, as the function that is told (how many done, how many in all); bytes if `unit` is empty."""
    task = bars.add_task(what, total=None, said="")

    def moved(done: int, total: int) -> None:
        said = f"{done} of {total} {unit}" if unit else f"{size(done)} of {size(total)}"
        bars.update(task, completed=done, total=total, said=said)

    return moved


def size(count: float) -> str:
    """Bytes as people read them: decimal units, as disks and networks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
