"""What the edges take from outside: JSON that every store can keep, commands, refusals that leak nothing."""

import json
import math
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordinator.application.commands.parsing import MAX_DEPTH, check_sender, parse_command, parse_json
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobCancel, JobFail, JobSubmit
from coordinator.domain.messages import COMMANDS, SYSTEM, Principal, Role
from coordinator.wire.answers import Accepted, Refused
from tests.harness.cases import every
from tests.harness.length import examples

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
LARGEST = 2**63 - 1


def refusal_of(body: bytes, **limits: int) -> Refusal:
    with pytest.raises(Refusal) as refused:
        parse_json(body, **limits)
    return refused.value


def nested(levels: int, inside: str = "") -> bytes:
    return ("[" * levels + inside + "]" * levels).encode()


# --- JSON --------------------------------------------------------------------------------------------------
@every(
    ("body", "value"),
    [
        (b"{}", {}),
        (b' [1, "a", null, true, 1.5] ', [1, "a", None, True, 1.5]),
        ('"größer 😀"'.encode(), "größer 😀"),
        (rb'"\ud83d\ude00"', "😀"),  # both halves of a pair
        (rb'"\\u0000 \\ud800"', r"\u0000 \ud800"),  # text about escapes is not an escape
        (b"9223372036854775807", LARGEST),
        (b"-9223372036854775807", -LARGEST),
        (b"1e308", 1e308),
        (b"1e-999", 0.0),
        (b"-0.0", 0.0),
        (b"1234567890123456789012345.5", 1234567890123456789012345.5),
        (b'{"a": 1, "a": 2}', {"a": 2}),  # the last one counts, as in every JSON reader of Python
        (nested(MAX_DEPTH), json.loads(nested(MAX_DEPTH))),
        (nested(MAX_DEPTH, "1"), json.loads(nested(MAX_DEPTH, "1"))),
        (b'["' + b"[" * 40 + b'"]', ["[" * 40]),
        (b"[" + b"[{}]," * 40 + b"1]", [[{}]] * 40 + [1]),
        (b'"' + b"[" * 1000 + b'"', "[" * 1000),  # brackets in text are text
    ],
)
def test_json_that_can_be_kept_is_read(body: bytes, value: Any) -> None:
    """Ordinary JSON, and what only looks dangerous, comes through as it is."""
    assert value == parse_json(body)


@every(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"  ", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),  # a byte order mark
        ('{"a": 1}'.encode("utf-16"), "not JSON"),
        (b'"\xff"', "not JSON"),  # not UTF-8
        (b'"\xc0\x80"', "not JSON"),  # NUL, overlong
        (b'"\xed\xa0\x80"', "not JSON"),  # a surrogate in UTF-8's clothing
        (b'"\xf4\x90\x80\x80"', "not JSON"),  # beyond Unicode
        (b'"\x00"', "not JSON"),
        (b'"a\nb"', "not JSON"),
        (b"NaN", "not JSON"),
        (b"[Infinity]", "not JSON"),
        (b"-Infinity", "not JSON"),
        (b"01", "not JSON"),
        (b"+1", "not JSON"),
        (b"0x1", "not JSON"),
        (b"[1,]", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"{}\x00", "not JSON"),
        (b"// comment\n1", "not JSON"),
        (b"nul", "not JSON"),
        (b'{"a"', "not JSON"),
        (b"[" * 20_000, "not JSON"),  # deeper than any reader's stack
        (b'{"a":' * 20_000, "not JSON"),
        (b"1" * 5000, "not JSON"),  # more digits than Python reads
        (rb'"\ud800"', "not JSON"),
        (rb'"\udc00"', "not JSON"),
        (rb'"\ud800\u0041"', "not JSON"),
        (rb'"\ude00\ud83d"', "not JSON"),
        (rb'{"\ud800": 1}', "not JSON"),
        (rb'"\u0000"', "NUL"),
        (rb'"\\\u0000"', "NUL"),
        (rb'{"a\u0000b": 1}', "NUL"),
        (rb'[{"a": {"b": ["\u0000"]}}]', "NUL"),
        (nested(MAX_DEPTH + 1), "deeper than 32"),
        (b"[" + b"[]," * 40 + nested(MAX_DEPTH) + b"]", "deeper than 32"),
        (b'["' + b"}" * 40 + b'",' + nested(MAX_DEPTH) + b"]", "deeper than 32"),
        (nested(MAX_DEPTH + 1, "1"), "deeper than 32"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "deeper than 32"),
        (b"9223372036854775808", "64 bits"),
        (b"-9223372036854775808", "64 bits"),
        (b"[[1], [" + b"9" * 300 + b"]]", "64 bits"),
        (b"1e999", "not finite"),
        (b"-1E+999", "not finite"),
        (b"1e0000000309", "not finite"),
        (b"0.1e310", "not finite"),
        (b'{"a": [1e400]}', "not finite"),
        (b"9" * 400 + b".0", "not finite"),
        (b"9" * 300 + b"e9", "not finite"),
    ],
)
def test_json_that_some_store_can_not_keep_is_refused(body: bytes, says: str) -> None:
    """The refusal names the kind of fault, and shows nothing of the body."""
    refused = refusal_of(body)
    assert Code.INVALID_PAYLOAD == refused.code
    assert says in refused.detail


def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    """One byte more than the limit is too large; the limit itself is not."""
    body = b'"' + b"a" * 10 + b'"'
    assert "a" * 10 == parse_json(body, max_bytes=len(body))
    refused = refusal_of(body, max_bytes=len(body) - 1)
    assert (Code.TOO_LARGE, "the body has 12 bytes; the limit is 11") == (refused.code, refused.detail)
    assert Code.TOO_LARGE == refusal_of(b"[" * (2**20 + 1)).code


def test_a_fault_shows_nothing_of_the_body() -> None:
    """Where a body breaks off in a secret, the refusal has a place, not the secret."""
    for body in (b'{"key": "hunter2', b'{"key": hunter2}', b'"hunter2 \xff"', rb'"hunter2 \u0000"'):
        assert "hunter" not in refusal_of(body).detail


def check_storable(value: Any, depth: int = 0) -> None:
    """What Postgres keeps as text and jsonb, and what every JSON reader reads alike (written apart from the
    code under test)."""
    assert depth <= MAX_DEPTH
    match value:
        case str():
            assert "\0" not in value
            assert not any("\ud800" <= c <= "\udfff" for c in value)
        case dict():
            assert depth < MAX_DEPTH
            for key, item in value.items():
                check_storable(key, depth)
                check_storable(item, depth + 1)
        case list():
            assert depth < MAX_DEPTH
            for item in value:
                check_storable(item, depth + 1)
        case bool() | None:
            pass
        case int():
            assert -(2**63) <= value < 2**63
        case float():
            assert math.isfinite(value)
        case _:
            pytest.fail(f"not a JSON value: {type(value)}")


HOSTILE_TEXT = st.text(st.sampled_from('a\\"u0\0\ud800\udfff\ue000é😀\x7f'), max_size=6)
HOSTILE_NUMBER = st.one_of(
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.sampled_from([LARGEST, LARGEST + 1, -LARGEST - 1, 10**400, 1e308]),
)
HOSTILE = st.recursive(
    st.none() | st.booleans() | HOSTILE_NUMBER | HOSTILE_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(HOSTILE_TEXT, inner, max_size=4),
    max_leaves=12,
)
SNIPPETS = [b"[", b"]", b"{", b"}", b":", b",", b'"', b"\\", b"\\u0000", b"\\ud800", b"\\udc00", b"\\u", b"e"]
SNIPPETS += [
    b"9" * 18,
    b"9",
    b"0",
    b"-",
    b"+",
    b".",
    b"E",
    b"null",
    b"true",
    b"NaN",
    b" ",
    b"a",
    b"\0",
    b"\xff",
]


def accepted(body: bytes) -> Any:
    with suppress(Refusal):
        return parse_json(body)
    return None


@given(HOSTILE)
@settings(max_examples=examples(500))
def test_what_is_accepted_can_be_stored(value: Any) -> None:
    """Whatever Python itself would write as JSON is either refused or can be kept by Postgres."""
    body = json.dumps(value).encode()
    got = accepted(body)
    check_storable(got)
    assert "\\u0000" not in json.dumps(got).replace("\\\\", "")
    json.dumps(got, ensure_ascii=False, allow_nan=False).encode()
    if got is not None:
        assert json.loads(body) == got


@settings(max_examples=examples(100))
@given(HOSTILE)
def test_what_can_be_stored_is_accepted(value: Any) -> None:
    """Nothing is refused that every store could have kept."""
    try:
        check_storable(value)
    except AssertionError:
        return
    if -(2**63) not in _integers(value):  # the one integer that is refused out of symmetry
        assert value == parse_json(json.dumps(value).encode())


def _integers(value: Any) -> set[int]:
    if isinstance(value, list):
        return set().union(*map(_integers, value))
    if isinstance(value, dict):
        return set().union(*map(_integers, value.values()))
    return {value} if isinstance(value, int) else set()


@given(st.lists(st.sampled_from(SNIPPETS), max_size=14).map(b"".join))
@example(b'"\\u0000"')
@example(b"9" * 310)
@settings(max_examples=examples(500))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    """Any bytes are read or refused; nothing else is raised, and nothing unstorable comes through."""
    check_storable(accepted(body))


@given(
    st.integers(0, 400), st.integers(1, 25), st.sampled_from(["e", "E", "e+", "E+", "e-"]), st.integers(0, 2)
)
def test_no_number_becomes_infinite(exponent: int, digits: int, mark: str, zeros: int) -> None:
    """However a number beyond all floats is spelt, it is refused."""
    check_storable(accepted(f"{'9' * digits}{mark}{'0' * zeros}{exponent}".encode()))
    check_storable(accepted(f"0.{'0' * zeros}{'9' * digits}{mark}{exponent}".encode()))


# --- commands ----------------------------------------------------------------------------------------------
def details_of(topic: str, value: Any, code: Code = Code.INVALID_PAYLOAD) -> str:
    with pytest.raises(Refusal) as refused:
        parse_command(topic, value)
    assert code == refused.value.code
    return refused.value.detail


def test_a_command_is_made_of_its_type_and_its_fields() -> None:
    """A message's type and body make one command, with the defaults filled in."""
    actual = parse_command("job.submit", {"service": "whisper", "payload": {"a": [1, None]}})
    assert JobSubmit(service="whisper", payload={"a": [1, None]}) == actual
    cancel = parse_command("job.cancel", {"job_id": ID})
    assert JobCancel(job_id=UUID(ID)) == cancel


@every("topic", ["", "job", "job.submitted.v1", "job.submit ", "__class__", "hunter2"])
def test_a_type_that_is_none_is_refused(topic: str) -> None:
    """Events are no commands, and the refusal does not repeat what was sent."""
    assert "hunter" not in details_of(topic, {}, Code.UNKNOWN_COMMAND)


@every("value", [None, 1, "hunter2", [], [{}], True])
@every("topic", sorted(COMMANDS))
def test_a_body_that_is_no_object_is_refused(topic: str, value: Any) -> None:
    """Every command is an object."""
    detail = details_of(topic, value)
    assert detail.startswith("body: ")
    assert "hunter" not in detail


@every(
    ("topic", "value", "says"),
    [
        ("job.submit", {"payload": {}}, ["service: Field required"]),
        ("job.submit", {"service": "hunter2!", "payload": {}}, ["service: String should match pattern"]),
        (
            "job.submit",
            {"service": "s", "payload": "hunter2"},
            ["payload: Input should be a valid dictionary"],
        ),
        ("job.submit", {"service": "s", "payload": {}, "ttl": 1}, ["ttl: Extra inputs are not permitted"]),
        (
            "job.submit",
            {"service": "s", "payload": {}, "constraints": {"gpu": "显卡", "region": "hunter 2"}},
            ["constraints.gpu: must be a vendor, a model or any", "constraints.region: String should match"],
        ),
        (
            "job.submit",
            {"service": "s", "payload": {}, "priority": "hunter2"},
            ["priority: Input should be a"],
        ),
        ("job.cancel", {"job_id": "hunter2"}, ["job_id: Input should be a valid UUID"]),
        (
            "job.cancel",
            {"job_id": ID, "reason": "hunter2" * 999},
            ["reason: String should have at most 2000"],
        ),
        (
            "miner.register",
            {"capabilities": {"gpus": [{"name": "hunter2"}]}},
            ["capabilities.gpus.0.memory_mb"],
        ),
    ],
)
def test_a_refusal_names_the_fields_and_shows_no_values(topic: str, value: Any, says: list[str]) -> None:
    """The sender is told where and what, and nothing that it sent."""
    detail = details_of(topic, value)
    for text in says:
        assert text in detail
    assert "hunter" not in detail
    assert "\n" not in detail


def test_a_refusal_with_many_faults_stays_short() -> None:
    """Of some faults five are shown and the rest are counted; of very many only their number is told."""
    detail = details_of("job.cancel", {f"x{n}": n for n in range(10_000)})
    assert detail.endswith(": 10001 fields are invalid")
    assert len(detail) < 1000


def test_a_field_name_that_would_spoil_the_line_is_not_shown() -> None:
    """Names of unknown fields are the sender's words: long ones and control characters stay out."""
    detail = details_of("job.cancel", {"job_id": ID, "a\nb": 1, "c" * 5000: 2, "\x1b[31m": 3, "resaon": 4})
    assert ["?", "?", "?", "resaon"] == [part.partition(":")[0] for part in detail.split("; ")]


SECRET = "qzxj"  # in no message of any validator


def _with_secrets(inner: Any) -> Any:
    values = st.sampled_from(
        [SECRET, f"\n{SECRET}", SECRET * 900, [SECRET], {"k": SECRET}, [[SECRET]], 1.5, -1, None]
    )
    return st.dictionaries(st.sampled_from(FIELDS), values | inner, max_size=8)


FIELDS = sorted({name for command in COMMANDS.values() for name in command.model_fields})
FIELDS += ["gpu", "cuda", "models", "gpus", "name", "services", "id", "pricing", "amount", "category"]


@given(st.sampled_from(sorted(COMMANDS)), st.recursive(st.just({}), _with_secrets, max_leaves=6))
@settings(max_examples=examples(300))
def test_no_refusal_ever_shows_a_value(topic: str, value: Any) -> None:
    """Whatever is wrong with whichever command, the detail has names of fields only."""
    detail = _refused(topic, value)
    assert SECRET not in detail
    assert "\n" not in detail


def _refused(topic: str, value: Any) -> str:
    try:
        parse_command(topic, value)
    except Refusal as refused:
        return refused.detail
    return ""


@pytest.mark.parametrize("number", ["9223372036854775807", "9.3e18", "1e300", "1.5"])
def test_metrics_are_small_integers_or_text(number: str) -> None:
    """A metric that JSON can say and a 64-bit column can't keep does not get into an event."""
    body = {
        "job_id": ID,
        "attempt": 1,
        "miner_id": "rig",
        "session_id": "session-1",
        "error_code": "AN_ERROR",
    }
    value = parse_json(json.dumps({**body, "metrics": {"n": 0}}).replace('"n": 0', f'"n": {number}').encode())
    if number != str(LARGEST):
        assert "metrics.n" in details_of("job.fail", value)
    else:
        command = parse_command("job.fail", value)
        assert isinstance(command, JobFail)
        assert {"n": LARGEST} == command.metrics


# --- senders and answers -----------------------------------------------------------------------------------
@every("topic", sorted(COMMANDS))
@every("role", list(Role))
def test_a_role_sends_its_own_commands_only(topic: str, role: Role) -> None:
    """Who may send a command at all is part of the command; the rest is refused before any rule is asked."""
    command = COMMANDS[topic].model_construct()
    if role in command.senders:
        check_sender(command, Principal("someone", role))
    else:
        with pytest.raises(Refusal) as refused:
            check_sender(command, Principal("someone", role))
        assert (Code.FORBIDDEN, f"a {role.value} key can't send {topic}") == (
            refused.value.code,
            refused.value.detail,
        )


def test_some_commands_are_the_systems_alone() -> None:
    """No API key loses leases or sessions, expires or settles jobs, ends their holds, sends batches, or names
    the key that signs."""
    alone = {topic for topic, command in COMMANDS.items() if command.senders == {Role.SYSTEM}}
    assert {
        "account.lapse",
        "account.settle",
        "job.lose",
        "job.expire",
        "miner.lose",
        "settlement.prepare",
        "settlement.revert",
        "settlement.submit",
        "signing_key.introduce",
        "webhook.disable",
    } == alone
    assert SYSTEM.role is Role.SYSTEM


def test_every_command_has_a_sender() -> None:
    """A command that nobody may send is a mistake."""
    assert [] == [topic for topic, command in COMMANDS.items() if not command.senders]


def test_answers_look_the_same_over_both_edges() -> None:
    """Accepted says where in the log; refused says why."""
    accepted = Accepted(7, {"job_id": ID, "state": "QUEUED"})
    assert {"status": "accepted", "job_id": ID, "state": "QUEUED", "position": 7} == accepted.to_wire()
    refused = Refused(Code.STALE_ATTEMPT, "drop the work")
    assert {"status": "refused", "code": "STALE_ATTEMPT", "detail": "drop the work"} == refused.to_wire()
    assert json.dumps(refused.to_wire())


@every("wrong", [True, "5", 5.0, 5.5, None])
@every("field", ["ttl_seconds", "priority", "max_attempts"])
def test_a_number_is_a_number(field: str, wrong: object) -> None:
    """JSON has types of its own: true or "5" in the place of a number is a mistake, and refused as one."""
    with pytest.raises(Refusal, match=f"INVALID_PAYLOAD: {field}: "):
        parse_command("job.submit", {"service": "checksum", "payload": {}, field: wrong})


@pytest.mark.parametrize("wrong", [1, 0, "true", None])
def test_a_truth_value_is_a_truth_value(wrong: object) -> None:
    """Only true and false are."""
    said = {"job_id": ID, "attempt": 1, "miner_id": "rig", "session_id": "session-1"}
    with pytest.raises(Refusal, match="INVALID_PAYLOAD: retryable: "):
        parse_command("job.fail", {**said, "error_code": "BROKEN", "retryable": wrong})
