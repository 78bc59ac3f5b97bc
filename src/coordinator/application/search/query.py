"""The query language of jobs: `state:failed service:whisper client:alice attempt:>1 age:>10m some words`.

Terms are separated by spaces, and all of them must hold; values of one term, separated by commas, are
alternatives. Words without a field are looked for in a job's names and its error. A term that is invalid is
never left out in silence: the query has an error that names it, and finds nothing until it is mended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple
from uuid import UUID

from coordinator.domain.job import JobStateName
from coordinator.domain.messages import NAME

MAX_LENGTH: Final = 500
"""Characters of a query."""
MAX_VALUES: Final = 20
"""Alternatives of one term."""
MAX_WORDS: Final = 3
MAX_ATTEMPT: Final = 1_000_000
MAX_AGE_MILLIS: Final = 100 * 365 * 86_400_000
MIN_ID: Final = 8
"""Characters of the begin of an id."""
STATES: Final[tuple[JobStateName, ...]] = ("QUEUED", "RUNNING", "COMPLETED", "FAILED", "CANCELED", "EXPIRED")
OPEN: Final[tuple[JobStateName, ...]] = ("QUEUED", "RUNNING")
_UNITS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TOKEN: Final = re.compile(r"""(?:[^\s"]|"[^"]*"?)+""")
_COMPARED: Final = re.compile(r"(>=|<=|>|<|)([0-9]{1,7})")
_AGE: Final = re.compile(r"(>=|<=|>|<|)([0-9]{1,9})([smhd])")
_ID: Final = re.compile(rf"[0-9a-f-]{{{MIN_ID},36}}")


class QueryError(NamedTuple):
    """An invalid term."""

    token: str
    start: int
    """The place of the token in the text, and its end."""
    end: int
    message: str
    """Begins with "invalid", names the token, and says what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryFilter:
    """The jobs of a query. An empty tuple, and None, stand for any."""

    states: tuple[JobStateName, ...] = ()
    services: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    miners: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    """Whole ids, or their begins."""
    least_attempt: int | None = None
    most_attempt: int | None = None
    older_than: int | None = None
    """Milliseconds since the submit."""
    younger_than: int | None = None
    words: tuple[str, ...] = ()
    """In lower case."""

    def without(self, *names: str) -> QueryFilter:
        """The filter without these lists."""
        changes: dict[str, Any] = dict.fromkeys(names, ())
        return replace(self, **changes)

    @property
    def compares_rows(self) -> bool:
        """Whether anything besides the age is asked for."""
        return replace(self, older_than=None, younger_than=None) != QueryFilter()


@dataclass(frozen=True, slots=True)
class JobQuery:
    """A parsed query."""

    text: str = ""
    filter: QueryFilter = field(default_factory=QueryFilter)
    errors: tuple[QueryError, ...] = ()

    @classmethod
    def parse(cls, text: str) -> JobQuery:
        """The query in this text. Never raises: `errors` says which terms are invalid."""
        if len(text) > MAX_LENGTH:
            told = f"invalid query: it has {len(text)} characters; write {MAX_LENGTH} at most"
            return cls(text[:MAX_LENGTH], errors=(QueryError(text[:MAX_LENGTH], 0, MAX_LENGTH, told),))
        if "\0" in text:
            told = "invalid query: it has a NUL character; remove it"
            return cls(text, errors=(QueryError(text, 0, len(text), told),))
        found, errors = QueryFilter(), []
        seen: set[str] = set()
        for token in _tokens(text):
            try:
                found = _with_term(found, token.text, seen)
            except ValueError as error:
                told = f"invalid {token.text}: {error}"
                errors.append(QueryError(token.text, token.start, token.end, told))
        return cls(text, found, tuple(errors))


class _Token(NamedTuple):
    text: str
    start: int
    end: int


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        yield _Token(match[0], match.start(), match.end())


def _with_term(found: QueryFilter, token: str, seen: set[str]) -> QueryFilter:
    """The filter with one more term. Raises ValueError with the fault and what to write."""
    name, colon, value = token.partition(":")
    if not colon or name.startswith('"'):
        return _with_word(found, token)
    term = _TERMS.get(name.lower())
    if term is None:
        raise ValueError(f"there is no field {name}; the fields are {', '.join(_TERMS)}")
    # Ages and attempts have two ends, so they may come twice.
    if name.lower() in seen and name.lower() not in ("age", "attempt"):
        raise ValueError(f"{name} comes twice; write alternatives as {name}:one,other")
    seen.add(name.lower())
    value = _unquoted(value)
    if not value:
        raise ValueError(f"a value is missing; write {term.example}")
    return term.read(found, value)


def _with_word(found: QueryFilter, token: str) -> QueryFilter:
    word = _unquoted(token)
    if not word:
        raise ValueError("there is nothing between the quotes")
    try:
        whole = str(UUID(word)) if len(word) == 36 else ""
    except ValueError:
        whole = ""
    if whole:
        return replace(found, ids=(*found.ids, whole))
    if len(found.words) == MAX_WORDS:
        raise ValueError(f"write {MAX_WORDS} words at most")
    return replace(found, words=(*found.words, word.lower()))


def _unquoted(text: str) -> str:
    if '"' not in text:
        return text
    if len(text) < 2 or text.count('"') != 2 or not (text.startswith('"') and text.endswith('"')):
        raise ValueError('quotes go around a whole value, as in "some words"')
    return text[1:-1]


# --- the terms ---------------------------------------------------------------------------------------------
class _Term(NamedTuple):
    read: Callable[[QueryFilter, str], QueryFilter]
    example: str


def _values(text: str, pattern: str, example: str) -> tuple[str, ...]:
    values = tuple(dict.fromkeys(text.split(",")))
    if len(values) > MAX_VALUES:
        raise ValueError(f"write {MAX_VALUES} alternatives at most")
    for value in values:
        if not re.fullmatch(pattern, value):
            fault = f"{value} is no such value" if value else "a value is missing"
            raise ValueError(f"{fault}; write {example}")
    return values


def _read_states(found: QueryFilter, text: str) -> QueryFilter:
    states: list[JobStateName] = []
    for value in text.split(","):
        match = next((state for state in STATES if state == value.upper()), None)
        if match is None:
            raise ValueError(f"the states are {', '.join(STATES).lower()}")
        states.append(match)
    return replace(found, states=tuple(dict.fromkeys(states)))


def _read_services(found: QueryFilter, text: str) -> QueryFilter:
    return replace(found, services=_values(text.lower(), r"[a-z0-9][a-z0-9_]{0,62}", "service:whisper"))


def _read_clients(found: QueryFilter, text: str) -> QueryFilter:
    return replace(found, clients=_values(text, NAME, "client:alice"))


def _read_miners(found: QueryFilter, text: str) -> QueryFilter:
    return replace(found, miners=_values(text, rf"({NAME}@)?{NAME}", "miner:rig or miner:node@rig"))


def _read_codes(found: QueryFilter, text: str) -> QueryFilter:
    return replace(found, codes=_values(text.upper(), r"[A-Z][A-Z0-9_]{0,63}", "code:OUT_OF_MEMORY"))


def _read_classes(found: QueryFilter, text: str) -> QueryFilter:
    return replace(
        found, classes=_values(text.lower(), r"[0-9a-f]{20}", "a class as the page Classes has it")
    )


def _read_ids(found: QueryFilter, text: str) -> QueryFilter:
    values = _values(text.lower(), r"[0-9a-f-]+", "id:01a229ff-1d00")
    for value in values:
        if not _ID.fullmatch(value):
            raise ValueError(f"write at least {MIN_ID} characters of an id, and 36 at most")
    return replace(found, ids=(*found.ids, *values))


def _read_attempt(found: QueryFilter, text: str) -> QueryFilter:
    match = _COMPARED.fullmatch(text)
    if match is None:
        raise ValueError("write a number, as in attempt:3 or attempt:>1")
    sign, number = match[1], int(match[2])
    if number > MAX_ATTEMPT:
        raise ValueError(f"an attempt is {MAX_ATTEMPT} at most")
    least = {">": number + 1, ">=": number, "": number}.get(sign)
    most = {"<": number - 1, "<=": number, "": number}.get(sign)
    least = max((n for n in (found.least_attempt, least) if n is not None), default=None)
    most = min((n for n in (found.most_attempt, most) if n is not None), default=None)
    if (least or 1) > (most if most is not None else MAX_ATTEMPT):
        raise ValueError("no attempt can be like that; the first attempt is 1")
    return replace(found, least_attempt=least, most_attempt=most)


def _read_age(found: QueryFilter, text: str) -> QueryFilter:
    match = _AGE.fullmatch(text)
    if match is None or not match[1]:
        raise ValueError("write a span with its unit (s, m, h or d), as in age:>10m or age:<2h")
    span = int(match[2]) * _UNITS[match[3]]
    if span > MAX_AGE_MILLIS:
        raise ValueError("an age is 100 years at most")
    older, younger = found.older_than, found.younger_than
    if match[1][0] == ">":
        older = span if older is None else max(older, span)
    else:
        younger = span if younger is None else min(younger, span)
    if older is not None and younger is not None and older >= younger:
        raise ValueError("no job can be both older and younger than that")
    return replace(found, older_than=older, younger_than=younger)


_TERMS: Final[dict[str, _Term]] = {
    "state": _Term(_read_states, "state:failed"),
    "service": _Term(_read_services, "service:whisper"),
    "client": _Term(_read_clients, "client:alice"),
    "miner": _Term(_read_miners, "miner:rig"),
    "code": _Term(_read_codes, "code:OUT_OF_MEMORY"),
    "class": _Term(_read_classes, "class:4f1c2a9b8d7e6f5a4b3c"),
    "attempt": _Term(_read_attempt, "attempt:>1"),
    "age": _Term(_read_age, "age:>10m"),
    "id": _Term(_read_ids, "id:01a229ff-1d00"),
}
FIELDS: Final = {name: term.example for name, term in _TERMS.items()}
"""Every field of the language, with an example."""
