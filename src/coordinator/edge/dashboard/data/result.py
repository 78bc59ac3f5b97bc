"""The result of a job, as people would rather look at it: a picture, a sound, a table, a text, or JSON."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from pydantic_core import from_json

from coordinator.application.payloads.bodies import blob_of_body
from coordinator.crypto.refs import blob_refs, parse_blob_ref
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.reads.stored_payloads import stored_payload
from coordinator.edge.state.tables.rows import JobRow

ResultKind = Literal["none", "erased", "large", "json", "table", "text", "image", "audio", "video", "file"]
MAX_ROWS: Final = 50
MAX_COLUMNS: Final = 20
MAX_FILES: Final = 100
_KINDS: Final[dict[ResultKind, frozenset[str]]] = {
    "image": frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".bmp", ".tif", ".tiff"}),
    "audio": frozenset({".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac"}),
    "video": frozenset({".mp4", ".webm", ".mkv", ".mov", ".avi", ".ts"}),
    "table": frozenset({".csv", ".tsv", ".parquet"}),
    "json": frozenset({".json", ".jsonl"}),
    "text": frozenset({".txt", ".md", ".srt", ".vtt", ".log"}),
}
_TEXTS: Final = ("text", "output", "transcript")
"""Members whose text is what people look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFile:
    """A file that the result names; `GET /v1/jobs/{id}/blobs/{sha256}` has its bytes."""

    name: str
    sha256: str
    kind: ResultKind
    """`image`, `audio`, `video`, `table`, `text`, `json` or `file`, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultView:
    """The result, as people would rather look at it."""

    kind: ResultKind
    document: Any = None
    """The JSON of the result; None if there is none, if it was erased or is too large for a page."""
    text: str = ""
    """Of a text."""
    files: tuple[ShownFile, ...] = ()
    columns: tuple[str, ...] = ()
    """Of a table: the names of its columns."""
    rows: tuple[tuple[Any, ...], ...] = ()
    """Of a table: its first rows."""


async def result_of(context: EdgeContext, row: JobRow) -> ResultView:
    """The result of a job. Raises LogUnavailable."""
    if not row.is_completed or row.result_digest is None:
        return ResultView(kind="none")
    stored = await stored_payload(context, row.id, "result")
    if stored is None:
        return ResultView(kind="erased")
    if blob_of_body(stored, row.result_digest) is not None:
        return ResultView(kind="large")
    return view_of(from_json(stored.body))


def view_of(document: Any) -> ResultView:
    """The view of a small result."""
    files = tuple(islice(_files(document), MAX_FILES))
    if files:
        return ResultView(kind=files[0].kind, document=document, files=files)
    columns, rows = _table(document)
    if rows:
        return ResultView(kind="table", document=document, columns=columns, rows=rows)
    if isinstance(document, dict):
        for name in _TEXTS:
            if isinstance(document.get(name), str):
                return ResultView(kind="text", document=document, text=document[name])
    return ResultView(kind="json", document=document)


def kind_of(name: str) -> ResultKind:
    """The kind of a file, by its name."""
    suffix = PurePosixPath(name.lower()).suffix
    return next((kind for kind, suffixes in _KINDS.items() if suffix in suffixes), "file")


def _files(document: Any) -> Iterator[ShownFile]:
    """The files that a result names, at any depth, each once."""
    waiting: deque[tuple[str, Any]] = deque([("file", document)])
    seen: set[tuple[str, str]] = set()
    while waiting:
        name, value = waiting.popleft()
        if isinstance(value, dict):
            named = value.get("name")
            for member, inner in value.items():
                # Executors describe a file as `{"name": …, "blob": …}`.
                own = named if member == "blob" and isinstance(named, str) else member
                waiting.append((own, inner))
        elif isinstance(value, list):
            waiting += [(name, inner) for inner in value]
        elif isinstance(value, str) and blob_refs(value):
            sha256 = parse_blob_ref(value)
            if (name, sha256) not in seen:
                seen.add((name, sha256))
                yield ShownFile(name=name, sha256=sha256, kind=kind_of(name))


def _table(document: Any) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
    """The columns and first rows of the only list of objects in a result; empty if there is none."""
    lists = [document] if isinstance(document, list) else []
    if isinstance(document, dict):
        lists = [value for value in document.values() if _is_rows(value)]
    if len(lists) != 1 or not _is_rows(lists[0]):
        return (), ()
    shown = lists[0][:MAX_ROWS]
    columns = tuple(dict.fromkeys(name for row in shown for name in row))[:MAX_COLUMNS]
    return columns, tuple(tuple(row.get(name) for name in columns) for row in shown)


def _is_rows(value: Any) -> bool:
    """Whether this is a list of flat objects."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(row, dict) and not any(isinstance(cell, dict | list) for cell in row.values())
            for row in value[:MAX_ROWS]
        )
    )
