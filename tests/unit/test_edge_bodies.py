"""Bodies: limits while they arrive, and the same rules as over AMQP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from coordinator.application.commands.parsing import parse_command, parse_json
from coordinator.domain.errors import Refusal
from coordinator.domain.job import JobCancel, JobComplete, JobSubmit
from coordinator.edge import EdgeLimits
from coordinator.wire.answers import Accepted
from coordinator.wire.limits import MAX_BODY_BYTES
from tests.harness.cases import every
from tests.unit.edge_fakes import ALICE, JOB, RIG, Conversation, FakeGateway, an_app, browsing

HOSTILE_BODIES = [
    b"{",
    b"nul",
    b"\xff\xfe{}",
    b"\x00",
    b'{"service": "checksum", "payload": {"a": NaN}}',
    b'{"service": "checksum", "payload": {"a": Infinity}}',
    b'{"service": "checksum", "payload": {"a": 1e999}}',
    b'{"service": "checksum", "payload": {"a": 9999999999999999999999}}',
    b'{"service": "checksum", "payload": {"a": "\\u0000"}}',
    b'{"service": "checksum", "payload": {"\\u0000": 1}}',
    b'{"service": "checksum", "payload": {"a": "\\ud800"}}',
    b'{"service": "checksum", "payload": ' + b'{"a":' * 40 + b"1" + b"}" * 41,
    b"[" * 10_000,
    b'{"service": "checksum", "payload": {}, "priority": 10}',
    b'{"service": "checksum", "payload": {}, "priority": "high"}',
    b'{"service": "checksum", "payload": []}',
    b'{"service": "../../etc/passwd", "payload": {}}',
    b'{"service": "Checksum", "payload": {}}',
    b'{"service": "checksum"}',
    b'{"service": "checksum", "payload": {}, "client": "bob"}',
    b'{"service": "checksum", "payload": {}, "constraints": {"gpu": "\\u0007"}}',
    b'{"service": "checksum", "payload": {}, "ttl_seconds": 0}',
    b'{"service": "checksum", "payload": {}, "idempotency_key": ""}',
]


@every("body", HOSTILE_BODIES)
async def test_a_body_is_refused_as_over_amqp(body: bytes) -> None:
    """The code and the detail of a refused body are the parser's own, which the AMQP inbox uses too."""
    with pytest.raises(Refusal) as refused:
        parse_command(JobSubmit.topic, parse_json(body))
    async with browsing(an_app(), ALICE) as http:
        answer = await http.post("/v1/jobs", content=body)
    assert answer.json()["code"] == refused.value.code.value
    assert answer.json()["detail"] == refused.value.detail
    assert answer.status_code == 422


@every("body", [b"[]", b'"text"', b"1", b"null", b"true", b"[{}]"])
async def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    """Every endpoint takes one object: arrays are how AMQP batches."""
    async with browsing(an_app(), ALICE) as http:
        answer = await http.post("/v1/jobs", content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD")


async def test_a_declared_oversized_body_is_refused_before_it_is_read() -> None:
    """A Content-Length over the limit is answered 413 without reading a byte."""
    talk = Conversation(an_app(), "POST", "/v1/jobs", ALICE, {"Content-Length": str(MAX_BODY_BYTES + 1)})
    await talk.begin()
    assert talk.status == 413
    assert json.loads(talk.body)["code"] == "TOO_LARGE"


async def test_a_chunked_oversized_body_is_cut_off() -> None:
    """A body without a length is refused as soon as it passes the limit, while more is to come."""
    talk = Conversation(an_app(), "POST", "/v1/jobs", ALICE)
    for _ in range(MAX_BODY_BYTES // 65536 + 1):
        talk.say(b" " * 65536, more=True)
    await talk.begin()
    assert talk.status == 413


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    """The limit is the largest size that is allowed."""
    gateway = FakeGateway()
    gateway.answer = lambda _: Accepted(7, {"job_id": str(JOB), "state": "QUEUED", "expires_at": 0})
    body = b'{"service": "checksum", "payload": {}}'
    async with browsing(an_app(gateway=gateway), ALICE) as http:
        answer = await http.post("/v1/jobs", content=body + b" " * (MAX_BODY_BYTES - len(body)))
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "limits", [EdgeLimits(body_seconds=0.05), EdgeLimits(chunk_seconds=0.05)], ids=["body", "chunk"]
)
async def test_a_body_that_stalls_is_given_up(limits: EdgeLimits) -> None:
    """A sender that stops in the middle gets 408, and does not hold the request for ever."""
    talk = Conversation(an_app(limits=limits), "POST", "/v1/jobs", ALICE)
    talk.say(b'{"service":', more=True)
    await talk.begin()
    assert talk.status == 408
    assert json.loads(talk.body)["code"] == "INVALID_PAYLOAD"


async def test_a_client_that_leaves_in_the_middle_of_a_body_sends_nothing() -> None:
    """Half a body is no command."""
    gateway = FakeGateway()
    talk = Conversation(an_app(gateway=gateway), "POST", "/v1/jobs", ALICE)
    talk.say(b'{"service": "checksum", "payload": {}}', more=True)
    talk.hang_up()
    await talk.begin()
    assert talk.sent == []
    assert gateway.intents == []


async def test_a_body_may_come_in_any_number_of_chunks() -> None:
    """Where the sender cuts its body makes no difference."""

    async def chunks() -> AsyncIterator[bytes]:
        for byte in b'{"reason": "\xc3\xa9"}':
            yield bytes([byte])

    gateway = FakeGateway()
    gateway.answer = lambda _: Accepted(7, {"job_id": str(JOB), "state": "CANCELED"})
    async with browsing(an_app(gateway=gateway), ALICE) as http:
        answer = await http.post(f"/v1/jobs/{JOB}/cancel", content=chunks())
    assert answer.status_code == 200
    assert gateway.intents[0].command == JobCancel(job_id=JOB, reason="é")


async def test_no_body_is_an_empty_object() -> None:
    """Where nothing has to be said, nothing has to be sent."""
    gateway = FakeGateway()
    gateway.answer = lambda _: Accepted(7, {"job_id": str(JOB), "state": "CANCELED"})
    async with browsing(an_app(gateway=gateway), ALICE) as http:
        assert (await http.post(f"/v1/jobs/{JOB}/cancel")).status_code == 200


async def test_a_body_cannot_speak_for_another_job_than_the_path() -> None:
    """A job_id in the body must be the one in the path."""
    other = "01890a5d-ac96-774b-bcce-b302099a8058"
    async with browsing(an_app(), ALICE) as http:
        answer = await http.post(f"/v1/jobs/{JOB}/cancel", json={"job_id": other})
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD")
    async with browsing(an_app(), RIG) as http:
        answer = await http.post(f"/v1/miners/{JOB}/start", json={"job_id": other, "attempt": 1})
        assert answer.status_code == 422


async def test_a_result_reaches_the_bus_as_it_was_sent() -> None:
    """The result's fields are the command's; the path names the job, and the miner's session is looked up."""
    gateway = FakeGateway()
    receipt = {"version": "1.0", "receipt_id": "r", "job_id": str(JOB), "units": "1.000"}
    gateway.answer = lambda _: Accepted(
        9, {"job_id": str(JOB), "state": "COMPLETED", "attempt": 2, "promise": receipt}
    )
    body = {"attempt": 2, "result": {"a": [1, None]}, "result_salt": "ab" * 16, "statement": {"x": 1}}
    async with browsing(an_app(gateway=gateway), RIG) as http:
        answer = await http.post(f"/v1/miners/{JOB}/result", json=body)
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "accepted",
        "job_id": str(JOB),
        "state": "COMPLETED",
        "attempt": 2,
        "promise": receipt,
        "position": 9,
    }
    assert answer.headers["x-position"] == "9"
    assert gateway.intents[0].command == JobComplete(
        job_id=JOB, miner_id="rig", session_id="session-1", **body
    )


async def test_a_trace_is_passed_on_where_it_is_one() -> None:
    """A W3C traceparent goes with the command; anything else in that header is dropped."""
    gateway = FakeGateway()
    gateway.answer = lambda _: Accepted(7, {"job_id": str(JOB), "state": "CANCELED"})
    good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with browsing(an_app(gateway=gateway), ALICE) as http:
        for trace in (good, "no trace", good + "\x7f"):
            await http.post(f"/v1/jobs/{JOB}/cancel", headers={"traceparent": trace})
    assert [intent.traceparent for intent in gateway.intents] == [good, None, None]
