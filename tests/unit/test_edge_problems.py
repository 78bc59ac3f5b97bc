"""Every failure is a problem document: with its code, and without anything that was sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
import structlog

from coordinator.application.ports import LogUnavailable, Waiter
from coordinator.domain.errors import Code
from coordinator.edge import create_app
from coordinator.edge.http.problems import STATUS_OF, Problem
from coordinator.wire.answers import Refused
from tests.harness.cases import every
from tests.unit.edge_fakes import (
    ALICE,
    RIG,
    FakeDatabase,
    FakeGateway,
    FakeQueues,
    a_context,
    an_app,
    browsing,
)

SECRET = "correct-horse-battery-staple"  # a value that a client sends and never wants to see again


def test_every_code_has_a_status() -> None:
    """A code without a status would become an internal error on its first use."""
    assert set(Code) == set(STATUS_OF)
    assert all(400 <= status < 600 for status in STATUS_OF.values())


@every("code", list(Code))
async def test_a_refusal_keeps_its_code_and_detail(code: Code) -> None:
    """What the bus refuses, HTTP says with the same code and detail, as RFC 9457."""
    gateway = FakeGateway()
    gateway.answer = lambda _: Refused(code, "because of this")
    async with browsing(an_app(gateway=gateway), ALICE) as http:
        answer = await http.post("/v1/jobs", json={"service": "checksum", "payload": {}})
    assert answer.status_code == STATUS_OF[code]
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code.value
    assert problem["detail"] == "because of this"
    assert problem["status"] == STATUS_OF[code]
    assert problem["type"] == f"/errors/{code}"
    assert problem["title"]
    assert problem["request_id"] == answer.headers["x-request-id"]


async def test_unavailable_says_when_to_try_again() -> None:
    """503 and 425 carry Retry-After, so that nobody spins."""
    for code in (Code.UNAVAILABLE, Code.JOB_NOT_READY):
        assert int(Problem(code, "later").response().headers["retry-after"]) >= 1


async def test_an_unexpected_exception_shows_nothing_of_itself() -> None:
    """A bug answers 500 INTERNAL with a request id, and none of its own words."""

    class Broken(FakeGateway):
        async def handle(self, intents: Any) -> Any:
            raise RuntimeError(f"the password is {SECRET}")

    app = an_app(gateway=Broken())
    with structlog.testing.capture_logs() as lines:
        async with browsing(app, ALICE) as http:
            answer = await http.post("/v1/jobs", json={"service": "checksum", "payload": {}})
    assert answer.status_code == 500
    [failure] = [line for line in lines if line["log_level"] == "error"]
    assert "RuntimeError" in failure["exception"]
    assert "exc_info" not in failure  # what walks through local variables finds keys and payloads there
    assert answer.json()["code"] == "INTERNAL"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert SECRET not in answer.text
    assert "RuntimeError" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("error", [LogUnavailable(SECRET), ConnectionResetError(SECRET)])
async def test_an_outage_is_unavailable_and_not_internal(error: Exception) -> None:
    """While the database or the broker is away, a read says 503 UNAVAILABLE."""

    def fail(**_: Any) -> list[dict[str, Any]]:
        raise error

    async with browsing(an_app(database=FakeDatabase(read_jobs_of_client=fail)), ALICE) as http:
        answer = await http.get("/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert SECRET not in answer.text


async def test_a_broker_outage_in_a_poll_is_unavailable() -> None:
    """A poll while the broker is away says 503, so that the miner asks again later."""

    class Away(FakeQueues):
        def wait(self, profile: str, waiter: Waiter) -> None:
            raise ConnectionRefusedError

    async with browsing(an_app(queues=Away()), RIG) as http:
        answer = await http.post("/v1/miners/poll", json={})
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")


@every(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/jobs/", 404),
        ("GET", "/redoc", 404),
        ("GET", "/v1/blobs/../../etc/passwd", 404),
        ("DELETE", "/v1/jobs", 405),
        ("PUT", "/health", 405),
    ],
)
async def test_what_is_not_there_is_a_problem_too(method: str, path: str, status: int) -> None:
    """Unknown paths and methods answer with our problem document, never a page or a redirect."""
    async with browsing(an_app(), ALICE) as http:
        answer = await http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "UNKNOWN_COMMAND"


@every(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/jobs", "GET, HEAD, POST"),
        ("POST", f"/v1/blobs/{'a' * 64}", "HEAD, PUT"),
        ("DELETE", "/v1/miners/poll", "GET, HEAD, POST"),
        ("DELETE", "/v1/models/a/model", "GET, HEAD"),
        # No job, batch or letter has one of these ids.
        ("GET", "/v1/jobs/batch", "POST"),
        ("GET", "/v1/jobs/batches/plan", "POST"),
        ("GET", "/v1/admin/dead-letters/drop", "POST"),
        ("OPTIONS", "/v1/admin/dead-letters/replay", "POST"),
        ("POST", "/v1/jobs/search", "GET, HEAD"),
        ("PUT", "/v1/jobs/batches", "GET, HEAD, POST"),
        ("POST", "/docs", "GET, HEAD"),
        ("PUT", "/health", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allowed: str) -> None:
    """`Allow` has the methods of every endpoint at the path, not those of the first one only."""
    async with browsing(an_app(), ALICE) as http:
        answer = await http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("name", ["batch-1", "batching", "Batch", "x"])
async def test_what_begins_like_a_fixed_path_is_an_invalid_id(name: str) -> None:
    """Only the fixed paths themselves are no ids."""
    async with browsing(an_app(), ALICE) as http:
        answer = await http.get(f"/v1/jobs/{name}")
    assert (422, "INVALID_PAYLOAD") == (answer.status_code, answer.json()["code"])


@every(
    "path",
    [
        f"/v1/jobs?limit={SECRET}",
        f"/v1/jobs?state={SECRET}",
        f"/v1/jobs?cursor={SECRET}",
        f"/v1/jobs?at_least={SECRET}",
        f"/v1/jobs/{SECRET}",
        f"/v1/jobs/{SECRET}/result",
        f"/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/result?wait={SECRET}",
        f"/v1/blobs/{SECRET}",
    ],
)
async def test_no_parameter_comes_back_in_a_problem(path: str) -> None:
    """A refused parameter is named, and its value is not repeated."""
    async with browsing(an_app(), ALICE) as http:
        answer = await http.request("HEAD" if "/blobs/" in path else "GET", path)
    assert answer.status_code == 422
    assert SECRET not in answer.text


@every(
    "body",
    [
        {"service": SECRET.upper(), "payload": {}},
        {"service": "checksum", "payload": SECRET},
        {"service": "checksum", "payload": {}, "ttl_seconds": SECRET},
        {"service": "checksum", "payload": {}, "constraints": {"cuda": SECRET}},
        {"service": "checksum", "payload": {}, "unknown": SECRET},
        [SECRET],
        SECRET,
    ],
)
async def test_no_member_of_a_body_comes_back_in_a_problem(body: Any) -> None:
    """A refused body is described by places, never by values."""
    gateway = FakeGateway()
    async with browsing(an_app(gateway=gateway), ALICE) as http:
        answer = await http.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD")
    assert SECRET not in answer.text
    assert SECRET.upper() not in answer.text
    assert gateway.intents == []


async def test_the_log_of_a_failure_has_no_query() -> None:
    """The access line has the path as it was sent, the status and the key's name; no query, no key."""
    app = create_app(a_context(database=FakeDatabase(read_jobs_of_client=lambda **_: [])))
    with structlog.testing.capture_logs() as lines:
        async with browsing(app, ALICE) as http:
            await http.get(f"/v1/jobs?cursor={SECRET}")
            await http.get("/v1/jobs%0Aforged%20line")
            await http.get("/v1/admin/stats")
    access = [line for line in lines if line["event"] == "request"]
    assert [(line["path"], line["status"], line["principal"]) for line in access] == [
        ("/v1/jobs", 422, "alice"),
        ("/v1/jobs%0Aforged%20line", 404, "alice"),
        ("/v1/admin/stats", 403, "alice"),
    ]
    assert SECRET not in json.dumps(lines, default=str)
    assert ALICE.partition(":")[2] not in json.dumps(lines, default=str)
