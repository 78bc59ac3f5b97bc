"""The query language of jobs: what a text asks for, and what is wrong with it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.application.search.query import FIELDS, MAX_LENGTH, JobQuery, QueryFilter
from tests.harness.cases import every
from tests.harness.length import examples

WHOLE = "01a229ff-1d00-7dff-8123-0123456789ab"


@every(
    ("text", "expected"),
    [
        ("", QueryFilter()),
        ("   ", QueryFilter()),
        ("state:failed", QueryFilter(states=("FAILED",))),
        ("STATE:Queued,running,queued", QueryFilter(states=("QUEUED", "RUNNING"))),
        ("service:whisper", QueryFilter(services=("whisper",))),
        ("client:alice,Bob-2", QueryFilter(clients=("alice", "Bob-2"))),
        ("miner:node@rig,rig", QueryFilter(miners=("node@rig", "rig"))),
        ("code:out_of_memory", QueryFilter(codes=("OUT_OF_MEMORY",))),
        ("class:0123456789abcdef0123", QueryFilter(classes=("0123456789abcdef0123",))),
        ("id:01A229FF-1d00", QueryFilter(ids=("01a229ff-1d00",))),
        (WHOLE, QueryFilter(ids=(WHOLE,))),
        ("attempt:3", QueryFilter(least_attempt=3, most_attempt=3)),
        ("attempt:>1", QueryFilter(least_attempt=2)),
        ("attempt:>=2 attempt:<5", QueryFilter(least_attempt=2, most_attempt=4)),
        ("age:>10m", QueryFilter(older_than=600_000)),
        ("age:<2h age:>=90s", QueryFilter(younger_than=7_200_000, older_than=90_000)),
        ('"Out of" memory', QueryFilter(words=("out of", "memory"))),
        ('"state:failed"', QueryFilter(words=("state:failed",))),
        (
            "state:failed service:whisper client:alice attempt:>1 age:>10m encoder",
            QueryFilter(
                states=("FAILED",),
                services=("whisper",),
                clients=("alice",),
                least_attempt=2,
                older_than=600_000,
                words=("encoder",),
            ),
        ),
    ],
)
def test_a_text_says_what_is_asked_for(text: str, expected: QueryFilter) -> None:
    """Terms in any order and case; alternatives by commas; words without a field."""
    query = JobQuery.parse(text)
    assert (query.filter, query.errors) == (expected, ())


@every(
    ("text", "message"),
    [
        ("stat:failed", "invalid stat:failed: there is no field stat; the fields are " + ", ".join(FIELDS)),
        (
            "state:done",
            "invalid state:done: the states are queued, running, completed, failed, canceled, expired",
        ),
        ("state:", "invalid state:: a value is missing; write state:failed"),
        (
            "state:failed,",
            "invalid state:failed,: the states are queued, running, completed, failed, canceled, expired",
        ),
        ("client:a.b", "invalid client:a.b: a.b is no such value; write client:alice"),
        ("client:alice,", "invalid client:alice,: a value is missing; write client:alice"),
        ("client:a client:b", "invalid client:b: client comes twice; write alternatives as client:one,other"),
        ("attempt:many", "invalid attempt:many: write a number, as in attempt:3 or attempt:>1"),
        ("attempt:<1", "invalid attempt:<1: no attempt can be like that; the first attempt is 1"),
        ("attempt:>3 attempt:<2", "invalid attempt:<2: no attempt can be like that; the first attempt is 1"),
        ("age:10m", "invalid age:10m: write a span with its unit (s, m, h or d), as in age:>10m or age:<2h"),
        ("age:>10", "invalid age:>10: write a span with its unit (s, m, h or d), as in age:>10m or age:<2h"),
        ("age:>2h age:<1h", "invalid age:<1h: no job can be both older and younger than that"),
        ("age:>999999999d", "invalid age:>999999999d: an age is 100 years at most"),
        ("id:01a2", "invalid id:01a2: write at least 8 characters of an id, and 36 at most"),
        ("class:24gb", "invalid class:24gb: 24gb is no such value; write a class as the page Classes has it"),
        ("a b c d", "invalid d: write 3 words at most"),
        ('"open', 'invalid "open: quotes go around a whole value, as in "some words"'),
        ('""', 'invalid "": there is nothing between the quotes'),
    ],
)
def test_an_invalid_term_is_named(text: str, message: str) -> None:
    """The message begins with the token and says what to write."""
    [error] = JobQuery.parse(text).errors
    assert error.message == message
    assert text[error.start : error.end] == error.token


def test_valid_terms_beside_an_invalid_one_do_not_hide_it() -> None:
    """All errors are told, each at its place."""
    query = JobQuery.parse("state:failed foo:1 client:alice attempt:x")
    assert [error.token for error in query.errors] == ["foo:1", "attempt:x"]


def test_a_long_query_is_one_error() -> None:
    """Nobody writes it, and nothing reads it."""
    [error] = JobQuery.parse("x" * (MAX_LENGTH + 1)).errors
    assert error.message == f"invalid query: it has {MAX_LENGTH + 1} characters; write {MAX_LENGTH} at most"


TERMS = st.one_of(
    st.builds("{}:{}".format, st.sampled_from([*FIELDS, "foo", "STATE", ""]), st.text(max_size=12)),
    st.text(max_size=20),
)


@given(st.lists(TERMS, max_size=6).map(" ".join))
def test_every_text_is_read_or_told_what_is_wrong(text: str) -> None:
    """Nothing raises; an error is at its token; a text of spaces asks for nothing; no term is lost."""
    query = JobQuery.parse(text)
    for error in query.errors:
        assert text[error.start : error.end] == error.token
        named = "query" if "\0" in text else error.token
        assert error.message.startswith(f"invalid {named}: ")
    if not query.errors:
        assert (query.filter == QueryFilter()) == (not text.split())


NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,10}\Z")


@settings(max_examples=examples(100))
@given(
    st.lists(st.sampled_from(["queued", "failed", "expired"]), min_size=1, unique=True),
    st.lists(NAMES, min_size=1, max_size=5, unique=True),
    st.integers(1, 9),
    st.integers(1, 500),
)
def test_what_is_written_is_what_is_read(
    states: list[str], clients: list[str], attempt: int, minutes: int
) -> None:
    """The parts of a generated query come back, whatever their order."""
    terms = [
        f"state:{','.join(states)}",
        f"client:{','.join(clients)}",
        f"attempt:>={attempt}",
        f"age:<{minutes}m",
    ]
    expected = QueryFilter(
        states=tuple(s.upper() for s in states),  # type: ignore[misc]
        clients=tuple(clients),
        least_attempt=attempt,
        younger_than=minutes * 60_000,
    )
    for text in (" ".join(terms), " ".join(reversed(terms))):
        assert JobQuery.parse(text) == JobQuery(text, expected)
