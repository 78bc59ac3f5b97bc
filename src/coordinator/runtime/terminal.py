"""Output of programs: data on stdout (a JSON document, JSON lines, or text), everything else on stderr.

Names, errors and results come from strangers. `plain` shows them on one line, `quoted` behind a margin. So
they neither steer the terminal nor look like lines of ours. Characters that the terminal's encoding lacks are
escapes as well: `escape_what_is_missing`.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

MARGIN = "| "
"""Before each line that somebody else wrote; no line of ours begins so."""
_INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Letters and marks without a shape; Python counts them as printable."""
_SUSPECT = re.compile(f"[{_INVISIBLE}]")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
TAB = "\t"
_UNLIMITED = 1000  # columns if stdout is not a terminal: never wrap or cut text for a program


class PipeClosed(Exception):
    """The reader of stdout is gone."""


def escape_what_is_missing() -> None:
    """Let both outputs write characters that their encoding lacks as escapes: `\\u2026` in ASCII.

    Python's default is an error in the middle of the output. Call it before the first output.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def plain(text: object, *, keep: str = "") -> str:
    """Text on one line; what has no shape, or acts on a terminal, is written as an escape.

    That is control characters, line ends, marks of direction, joiners, invisible letters: `\\x1b`, `\\u202e`.
    Characters in `keep` stay.
    """
    text = str(text)
    if text.isprintable() and _SUSPECT.search(text) is None:
        return text
    return "".join(one if one in keep or _has_shape(one) else _escape(one) for one in text)


def _has_shape(one: str) -> bool:
    return (one.isprintable() and one not in _INVISIBLE) or unicodedata.category(one) == "Zs"


def _escape(one: str) -> str:
    code = ord(one)
    if code < 0x100:
        return _NAMED.get(one, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quoted(text: str) -> str:
    """Lines of text from somebody else, each behind the margin."""
    return "\n".join(f"{MARGIN}{plain(one, keep=TAB)}".rstrip() for one in text.splitlines())


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
    write(_json(value, indent=2 if sys.stdout.isatty() else None))


def line(value: Any) -> None:
    """One line of JSON lines."""
    write(_json(value, separators=(",", ":")))


def _json(value: Any, **options: Any) -> str:
    """JSON of exactly this value, with JSON's own escapes for all that a terminal could act upon."""
    text = json.dumps(value, ensure_ascii=_lacks_letters(sys.stdout), **options)
    if text.isprintable() and _SUSPECT.search(text) is None:
        return text
    # Line ends are the document's own here: those within a text are escapes already.
    return "".join(one if one == "\n" or _has_shape(one) else json.dumps(one)[1:-1] for one in text)


def _lacks_letters(stream: TextIO) -> bool:
    """Whether there are characters that the stream can't write, and for which JSON has escapes of its own."""
    try:
        return not codecs.lookup(stream.encoding or "utf-8").name.startswith("utf")
    except (AttributeError, LookupError):
        return False


def note(text: str) -> None:
    """A message for the user that is not data, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str, numbers: Collection[str] = ()
) -> None:
    """A table on stdout; without rows, the text `empty` on stderr. `numbers`: columns set to the right."""
    listed = [[plain("" if cell is None else cell) for cell in row] for row in rows]
    if not listed:
        note(empty)
        return
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold", justify="right" if column in numbers else "left")
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
            shown.add_row(Text(plain(name)), Text(plain(text), style=_STYLES.get(text, "")))
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
    task = bars.add_task(plain(label), total=None, detail="")

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
