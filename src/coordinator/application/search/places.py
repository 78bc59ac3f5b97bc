"""Places in lists of jobs: keys, cursors, and the indexes by which a search reads."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from coordinator.application.search.query import QueryFilter
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Millis

MAX_PATHS: Final = 24
"""More alternatives than this are compared row by row."""
_CURSOR: Final = re.compile(r"([0-9]{1,16})\.([0-9]{1,16})\.([0-9a-f-]{36})")
_ANCHOR: Final = re.compile(r"([0-9]{1,16})\.([0-9a-f-]{36})?")


class JobKey(NamedTuple):
    """A job's place in a list: its submit in Unix milliseconds, and its id."""

    requested_at: Millis
    job_id: str

    def next(self) -> JobKey:
        """The key right after this one: all ids have the same length, so none is in between."""
        return JobKey(self.requested_at, f"{self.job_id}!")


FIRST: Final = JobKey(-1, "")
LAST: Final = JobKey(2**62, "")


class Cursor(NamedTuple):
    """The place where a list goes on. Opaque to callers, and not a secret."""

    now: Millis
    """The moment from which the query's ages count: it stays the same for all pages."""
    key: JobKey

    def __str__(self) -> str:
        return f"{self.now}.{self.key.requested_at}.{self.key.job_id}"

    @classmethod
    def read(cls, text: str) -> Cursor:
        """Raises Refusal."""
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise Refusal(Code.INVALID_PAYLOAD, "cursor: invalid; send next_cursor of the previous page")
        return cls(int(found[1]), JobKey(int(found[2]), found[3]))


def anchor_at(key: JobKey) -> str:
    """The text of a place before which nothing is new."""
    return f"{key.requested_at}.{key.job_id}"


def read_anchor(text: str) -> JobKey:
    """The first key that is new after this anchor. Raises Refusal."""
    found = _ANCHOR.fullmatch(text)
    if found is None:
        raise Refusal(Code.INVALID_PAYLOAD, "anchor: invalid; send the anchor of a page")
    return JobKey(int(found[1]), found[2] or "").next()


class Path(NamedTuple):
    """One index, and the value to look for in it."""

    options: str
    """Of the named statement."""
    params: dict[str, str]


def paths_of(asked: QueryFilter) -> tuple[list[Path], QueryFilter]:
    """The indexes that a search reads, whose rows do not overlap, and the rest of the filter."""
    if asked.codes:
        rest = asked.without("codes")
        return [Path("_with_code", {"code": code}) for code in asked.codes], rest
    if (asked.least_attempt or 1) > 1:
        return [Path("_tried_again", {})], asked
    clients = asked.clients if len(asked.clients) * max(1, len(asked.states)) <= MAX_PATHS else ()
    rest = asked.without("states", *(["clients"] if clients else []))
    paths = []
    for client in clients or (None,):
        for state in asked.states or (None,):
            params = {"client": client} if client else {}
            params |= {"state": state} if state else {}
            paths.append(Path(("_of_client" if client else "") + ("_in_state" if state else ""), params))
    return paths, rest


def rest_params(rest: QueryFilter, needs: tuple[str, ...]) -> dict[str, Any]:
    """The parameters of the comparisons row by row. `needs`: of the classes that are asked for."""
    words = [*(f"%{_escaped(word)}%" for word in rest.words), "", "", ""]
    lists = {
        "client": rest.clients,
        "state": rest.states,
        "code": rest.codes,
        "service": rest.services,
        "miner": rest.miners,
    }
    params: dict[str, Any] = {f"{name}s": list(values) for name, values in lists.items()}
    params |= {f"any_{name}": int(not values) for name, values in lists.items()}
    return {
        **params,
        "needs": list(needs),
        "any_needs": int(not rest.classes),
        "least_attempt": rest.least_attempt or 0,
        "most_attempt": 2**31 if rest.most_attempt is None else rest.most_attempt,
        "word_1": words[0],
        "word_2": words[1],
        "word_3": words[2],
    }


def _escaped(word: str) -> str:
    return re.sub(r"([!%_])", r"!\1", word)
