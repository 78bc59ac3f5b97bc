"""Named SQL statements, kept as SQL in `sql/*.sql`; one text serves both engines.

    -- name: queued_jobs
    -- The oldest queued jobs of these classes.
    SELECT job_id FROM queued_work WHERE job_class IN (:classes) AND priority >= :priority

- `-- name: jobs[_of_client]` is two statements, `jobs` and `jobs_of_client`: a line that ends in
  `-- [_of_client]` belongs to the second alone, one that ends in `-- [no _of_client]` to the first.
- `:param` is one value. If Postgres can't tell its type (`:x IS NULL`), write `CAST(:x AS text)`.
- `IN (:param)` and `NOT IN (:param)` take a list, which may be empty. For SQLite it becomes
  `IN (SELECT value FROM json_each(:param))`, for Postgres `= ANY(:param)` and `<> ALL(:param)`.
- Use the common dialect: text, bigint, double precision, bytea; `ON CONFLICT`, `RETURNING`, row values; no
  `::`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

SQL_DIRECTORY = Path(__file__).parent / "sql"

_NAME = re.compile(r"^-- name: *(\S+) *$", re.MULTILINE)
_OPTION = re.compile(r"\[(\w+)\]")
_ONLY = re.compile(r" *-- \[(?P<no>no )?(?P<option>\w+)\]$")
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE)\b", re.IGNORECASE)
_DESCRIPTION = re.compile(r"\A(?:[ \t]*--[^\n]*(?:\n|\Z)|\s+)*")
_TOKEN = re.compile(
    r"""(?P<quoted>'(?:[^']|'')*'|"[^"]*"|--[^\n]*|::)"""
    r"""|(?P<not>\bNOT\s+)?\bIN\s*\(\s*:(?P<list>[a-z_][a-z0-9_]*)\s*\)"""
    r"""|:(?P<value>[a-z_][a-z0-9_]*)"""
    r"""|(?P<percent>%)""",
    re.IGNORECASE,
)


class BadStatement(Exception):
    """A `.sql` file, or a call of one of its statements, is invalid; the text says why."""


@dataclass(frozen=True, slots=True)
class SqlStatement:
    """One named statement, for both engines."""

    name: str
    description: str
    sqlite: str
    postgres: str
    values: frozenset[str]
    lists: frozenset[str]
    writes: bool

    def sqlite_parameters(self, params: Mapping[str, Any]) -> dict[str, Any]:
        self._check(params)
        return {k: json.dumps(list(v)) if k in self.lists else v for k, v in params.items()}

    def postgres_parameters(self, params: Mapping[str, Any]) -> dict[str, Any]:
        self._check(params)
        return {k: list(v) if k in self.lists else v for k, v in params.items()}

    def _check(self, params: Mapping[str, Any]) -> None:
        if params.keys() != self.values | self.lists:
            wanted = ", ".join(sorted(self.values | self.lists)) or "none"
            raise BadStatement(f"{self.name} takes the parameters {wanted}; got {', '.join(sorted(params))}")
        for name in self.lists:
            if isinstance(params[name], str | bytes):
                raise BadStatement(f"{self.name} takes a list as {name}")


class SqlStatements(dict[str, SqlStatement]):
    """All statements by name."""

    def __missing__(self, name: str) -> SqlStatement:
        raise BadStatement(f"no statement is named {name}")


@cache
def load_statements(directory: Path = SQL_DIRECTORY) -> SqlStatements:
    """The statements of all files in a directory. Raises BadStatement if one is invalid or defined twice."""
    found = SqlStatements()
    for file in sorted(directory.glob("*.sql")):
        for statement in _parse(file.name, file.read_text(encoding="utf-8")):
            if statement.name in found:
                raise BadStatement(f"{file.name}: statement {statement.name} is defined twice")
            found[statement.name] = statement
    return found


def _parse(file: str, text: str) -> Iterator[SqlStatement]:
    before, *parts = _NAME.split(text)
    if _without_comments(before):
        raise BadStatement(f"{file}: SQL before the first `-- name:`")
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        comment = _DESCRIPTION.match(body)
        assert comment is not None
        description = " ".join(line.strip().removeprefix("--").strip() for line in comment[0].splitlines())
        sql = body[comment.end() :].rstrip().rstrip(";")
        if not sql:
            raise BadStatement(f"{file}: {name} has no SQL")
        if not description.strip():
            raise BadStatement(f"{file}: {name} has no description")
        for variant, lines in _variants(name, sql):
            yield _translate(variant, description.strip(), lines)


def _variants(name: str, sql: str) -> Iterator[tuple[str, str]]:
    """The statements of a name with `[options]`: with and without each option."""
    options = _OPTION.findall(name)
    marked = [(_ONLY.sub("", line), _ONLY.search(line)) for line in sql.splitlines()]
    if unknown := {m["option"] for _, m in marked if m} - set(options):
        raise BadStatement(f"{name} has no option {', '.join(sorted(unknown))}")
    for chosen in product((True, False), repeat=len(options)):
        on = dict(zip(options, chosen, strict=True))
        variant = name
        for option, is_on in on.items():
            variant = variant.replace(f"[{option}]", option if is_on else "")
        lines = [line for line, m in marked if m is None or on[m["option"]] is not bool(m["no"])]
        yield variant, "\n".join(lines)


def _translate(name: str, description: str, sql: str) -> SqlStatement:
    values: set[str] = set()
    lists: set[str] = set()

    def to_sqlite(token: re.Match[str]) -> str:
        if token["list"]:
            return f"{token['not'] or ''}IN (SELECT value FROM json_each(:{token['list']}))"  # noqa: S608
        return token[0]

    def to_postgres(token: re.Match[str]) -> str:
        if token["list"]:
            lists.add(token["list"])
            return f"<> ALL(%({token['list']})s)" if token["not"] else f"= ANY(%({token['list']})s)"
        if token["value"]:
            values.add(token["value"])
            return f"%({token['value']})s"
        return token[0].replace("%", "%%")  # also within quotes: the driver reads them too

    postgres = _TOKEN.sub(to_postgres, sql)
    if values & lists:
        raise BadStatement(f"{name} uses {', '.join(values & lists)} as a value and as a list")
    return SqlStatement(
        name=name,
        description=description,
        sqlite=_TOKEN.sub(to_sqlite, sql),
        postgres=postgres,
        values=frozenset(values),
        lists=frozenset(lists),
        # True also if a name or a text contains UPDATE, which only costs a lock.
        writes=_WRITES.search(sql) is not None,
    )


def _without_comments(text: str) -> str:
    return re.sub(r"--[^\n]*", "", text).strip()
