"""The client SDK against an HTTP server of the test's own: what is sent, repeated, refused and checked."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.client import (
    AsyncCoordinator,
    BadAnswer,
    Conflict,
    CoordinatorError,
    DamagedBlob,
    JobResult,
    NoResult,
    NotAuthorised,
    NotFound,
    NotReady,
    RateLimited,
    RequestRefused,
    StateChanged,
    Tokens,
    TryAgain,
    Unreachable,
)
from tests.harness.cases import every

JOB = "0190163d-8694-739b-aea5-966c26f8ad91"
AT = "2026-01-31T12:00:00.250Z"
SUBMITTED = {"status": "accepted", "job_id": JOB, "state": "QUEUED", "expires_at": AT, "position": 7}
VIEW = {"job_id": JOB, "state": "QUEUED", "service": "s", "attempt": 1, "requested_at": AT, "expires_at": AT}
RESULT = {
    "job_id": JOB,
    "state": "COMPLETED",
    "attempt": 1,
    "miner_id": "rig",
    "finished_at": AT,
    "result_digest": "0" * 64,
    "result_salt": "00",
    "result": {"n": 1},
}
Answer = httpx.Response | Exception


class Server:
    """Gives the answers in order, the last one for ever; keeps what it was asked."""

    def __init__(self, *answers: Answer | Callable[[httpx.Request], httpx.Response]) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer(request)

    def client(self, **options: Any) -> AsyncCoordinator:
        return AsyncCoordinator("http://c", "alice:secret", transport=httpx.MockTransport(self), **options)


def ok(document: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=document)


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    document = {"type": f"/errors/{code}", "title": "t", "status": status, "detail": "why", "code": code}
    return httpx.Response(status, json=document, headers=headers)


async def test_submit_is_safe_to_repeat() -> None:
    """A submit whose answer was lost is sent again with the same idempotency key; the next has another."""
    server = Server(httpx.ReadError("lost"), ok(SUBMITTED, 201), ok(SUBMITTED, 201))
    async with server.client() as client:
        first = await client.submit("s", {"a": 1}, priority=3)
        await client.submit("s", {"a": 1})
    keys = [request.headers["Idempotency-Key"] for request in server.asked]
    assert first.submitted is not None
    assert (JOB, 7) == (first.job_id, first.submitted.position)
    assert keys[0] == keys[1] != keys[2]
    assert {"service": "s", "payload": {"a": 1}, "constraints": {}, "priority": 3} == json.loads(
        server.asked[0].content
    )


async def test_a_short_job_is_one_request() -> None:
    """`run` asks the submit to wait for the job's end, and its answer has the result."""
    server = Server(httpx.ReadError("lost"), ok({**SUBMITTED, "state": "COMPLETED", "result": {"n": 1}}, 201))
    async with server.client() as client:
        assert {"n": 1} == await client.run("s", {"a": 1})
    assert ["wait=20"] * 2 == [request.headers["Prefer"] for request in server.asked]
    assert 1 == len({request.headers["Idempotency-Key"] for request in server.asked})


async def test_a_longer_job_is_waited_for() -> None:
    """A submit that is answered before the job's end is followed by reads that wait, up to the timeout."""
    server = Server(ok(SUBMITTED, 201), ok(RESULT))
    async with server.client() as client:
        assert {"n": 1} == await client.run("s", {"a": 1})
    assert ["/v1/jobs", f"/v1/jobs/{JOB}/result"] == [request.url.path for request in server.asked]
    for timeout in (0.5, 0, -3, math.nan):
        server = Server(ok(SUBMITTED, 201), problem(425, "JOB_NOT_READY"))
        async with server.client() as client:
            with pytest.raises(NotReady):
                await client.run("s", {"a": 1}, timeout=timeout)
        assert "Prefer" not in server.asked[0].headers  # less than a second
    failed = {**SUBMITTED, "state": "FAILED", "error": {"code": "EXECUTOR_FAILED", "message": "m"}}
    end = {**VIEW, "state": "FAILED", "error": failed["error"]}
    server = Server(ok(failed, 201), problem(409, "CONFLICT_STATE"), ok(end))
    async with server.client() as client:
        with pytest.raises(NoResult, match="EXECUTOR_FAILED"):
            await client.run("s", {"a": 1})


async def test_a_key_of_ones_own() -> None:
    """The caller's idempotency key is sent as UTF-8; one that no header can carry is refused unsent."""
    server = Server(ok(SUBMITTED, 201))
    async with server.client() as client:
        await client.submit("s", {}, idempotency_key="größe 1")
        with pytest.raises(CoordinatorError, match="INVALID_ARGUMENT"):
            await client.submit("s", {}, idempotency_key="a\nb")
    assert ["größe 1".encode()] == [dict(r.headers.raw)[b"Idempotency-Key"] for r in server.asked]


async def test_what_is_too_large_is_not_sent() -> None:
    """JSON over the limit is refused as the server would, whose answer may be lost while we still send."""
    server = Server(ok(SUBMITTED, 201))
    async with server.client() as client:
        with pytest.raises(RequestRefused, match="TOO_LARGE") as refused:
            await client.submit("s", {"a": "x" * 2**20})
        await client.submit("s", {"a": "x" * (2**20 - 1000)})
    assert (413, 1) == (refused.value.status, len(server.asked))


async def test_an_error_without_words_has_its_name() -> None:
    """Some connections are lost without a message; there is a cause all the same."""
    async with Server(httpx.ReadError("")).client(tries=1) as client:
        with pytest.raises(Unreachable, match=r"http://c: ReadError"):
            await client.health()


async def test_reads_show_own_writes() -> None:
    """After a write, reads ask for at least its position."""
    server = Server(ok(VIEW), ok(SUBMITTED, 201), ok(VIEW))
    async with server.client() as client:
        await client.job(JOB).view()
        await client.submit("s", {})
        await client.job(JOB).view()
    assert [None, None, "7"] == [request.headers.get("X-At-Least") for request in server.asked]


@every(
    ("answer", "kind", "code"),
    [
        (problem(401, "UNAUTHORIZED_KEY"), NotAuthorised, "UNAUTHORIZED_KEY"),
        (problem(403, "FORBIDDEN"), NotAuthorised, "FORBIDDEN"),
        (problem(404, "JOB_NOT_FOUND"), NotFound, "JOB_NOT_FOUND"),
        (problem(409, "CONFLICT_STATE"), Conflict, "CONFLICT_STATE"),
        (problem(422, "INVALID_PAYLOAD"), RequestRefused, "INVALID_PAYLOAD"),
        (problem(425, "JOB_NOT_READY"), NotReady, "JOB_NOT_READY"),
        (problem(418, "A_NEW_CODE"), RequestRefused, "A_NEW_CODE"),
        (httpx.Response(404, text="<html>"), NotFound, "NOT_FOUND"),
        (httpx.Response(200, text="<html>"), BadAnswer, "BAD_ANSWER"),
        (ok({"job_id": JOB}), BadAnswer, "BAD_ANSWER"),
        (ok([]), BadAnswer, "BAD_ANSWER"),
    ],
)
async def test_errors(answer: httpx.Response, kind: type[CoordinatorError], code: str) -> None:
    """Each problem is an exception of its kind with its code, at once: trying again would not help."""
    server = Server(answer)
    async with server.client() as client:
        with pytest.raises(CoordinatorError) as raised:
            await client.job(JOB).view()
    assert (kind, code, 1) == (type(raised.value), raised.value.code, len(server.asked))


@every(
    ("answer", "kind"),
    [
        (httpx.ConnectError("refused"), Unreachable),
        (httpx.ReadTimeout("slow"), Unreachable),
        (problem(503, "UNAVAILABLE"), TryAgain),
        (problem(500, "INTERNAL"), TryAgain),
        (httpx.Response(502, text="bad gateway"), TryAgain),
        (problem(429, "RATE_LIMITED", **{"Retry-After": "0"}), RateLimited),
    ],
)
async def test_what_may_pass_is_tried_again(answer: Answer, kind: type[CoordinatorError]) -> None:
    """No answer and "again later" are tried again; what stays is raised."""
    passing, staying = Server(answer, ok(VIEW)), Server(answer)
    async with passing.client(tries=2) as client:
        assert JOB == (await client.job(JOB).view()).job_id
    async with staying.client(tries=2) as client:
        with pytest.raises(kind):
            await client.job(JOB).view()
    assert (2, 2) == (len(passing.asked), len(staying.asked))


@pytest.mark.parametrize("retry_after", ["66", "Fri, 31 Dec 2100 23:59:59 GMT"])
async def test_a_long_retry_after_is_the_callers_to_wait_for(retry_after: str) -> None:
    """Where the coordinator asks for more than about a minute, the refusal is raised at once and says so."""
    server = Server(problem(429, "RATE_LIMITED", **{"Retry-After": retry_after}))
    async with server.client() as client:
        with pytest.raises(RateLimited) as raised:
            await client.job(JOB).view()
    assert 1 == len(server.asked)
    assert raised.value.retry_after is not None
    assert raised.value.retry_after > 65


async def test_a_retry_after_is_waited_for() -> None:
    """The next try comes when the coordinator asked for it, not earlier."""
    server = Server(problem(503, "UNAVAILABLE", **{"Retry-After": "0.5"}), ok(VIEW))
    began = time.monotonic()
    async with server.client() as client:
        await client.job(JOB).view()
    assert time.monotonic() - began >= 0.5


async def test_an_error_says_what_to_do_next() -> None:
    """Code, detail and next step are members, and all three are in the text."""
    async with Server(problem(404, "JOB_NOT_FOUND")).client() as client:
        with pytest.raises(NotFound) as raised:
            await client.job(JOB).view()
    error = raised.value
    assert ("JOB_NOT_FOUND", "why", 404) == (error.code, error.detail, error.status)
    assert error.next_step
    assert f"JOB_NOT_FOUND: why. {error.next_step}" == str(error)


async def test_the_result_of_a_job_that_failed() -> None:
    """`result` raises NoResult with the job's own error; a job that is not final raises NotReady."""
    failed = {**VIEW, "state": "FAILED", "error": {"code": "OUT_OF_MEMORY", "message": "needs 12 GB"}}
    async with Server(problem(409, "CONFLICT_STATE"), ok(failed)).client() as client:
        with pytest.raises(NoResult) as raised:
            await client.job(JOB).result()
    assert ("JOB_FAILED", failed) == (raised.value.code, raised.value.job.document())
    assert raised.value.error is not None
    assert "OUT_OF_MEMORY" == raised.value.error.code
    server = Server(problem(425, "JOB_NOT_READY"))
    async with server.client() as client:
        with pytest.raises(NotReady):
            await client.job(JOB).result(timeout=0)
    assert "wait" not in server.asked[0].url.params


async def test_what_is_not_json_is_not_sent() -> None:
    """NaN, and what has no JSON form, is refused as an argument; nothing is sent."""
    server = Server(ok(SUBMITTED, 201))
    async with server.client() as client:
        for payload in ({"x": float("nan")}, {"x": object()}, {"x": "\ud800"}):
            with pytest.raises(CoordinatorError, match="INVALID_ARGUMENT"):
                await client.submit("s", payload)
    assert [] == server.asked


def submits_in(request: httpx.Request) -> list[dict[str, Any]]:
    """The submits of a request, alone or in an array, each with its key."""
    body = json.loads(request.content)
    if request.url.path == "/v1/jobs/batch":
        return list(body["jobs"])
    return [{**body, "idempotency_key": request.headers["Idempotency-Key"]}]


def answering(
    answer: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[[httpx.Request], httpx.Response]:
    """Answers submits with `answer(submit)`, alone or in an array."""

    def handle(request: httpx.Request) -> httpx.Response:
        answers = [answer(submit) for submit in submits_in(request)]
        if request.url.path == "/v1/jobs/batch":
            return ok({"answers": answers, "position": 1})
        if answers[0]["status"] == "refused":
            return problem(422, answers[0]["code"])
        return ok(answers[0], 201)

    return handle


async def test_many_jobs_and_their_keys() -> None:
    """Submits gather into an array, each with its own key below that of the list; jobs keep the order."""

    def submitted(submit: dict[str, Any]) -> dict[str, Any]:
        return {**SUBMITTED, "status": "accepted", "job_id": f"job-{submit['payload']['n']}"}

    server = Server(answering(submitted))
    async with server.client() as client:
        jobs = await client.submit_many("s", ({"n": n} for n in range(40)), idempotency_key="batch")
    assert [f"job-{n}" for n in range(40)] == [job.job_id for job in jobs]
    assert ["/v1/jobs/batch"] == [request.url.path for request in server.asked]
    sent = [submit["idempotency_key"] for request in server.asked for submit in submits_in(request)]
    assert [f"batch:{n}" for n in range(40)] == sent


async def test_a_budget_is_sent_with_each_job() -> None:
    """`budget` is a member of the submit, alone and among many; without one there is none."""
    server = Server(answering(lambda _: {**SUBMITTED, "status": "accepted"}))
    async with server.client() as client:
        await client.submit("s", {})
        await client.submit("s", {}, budget=1_500_000)
        await client.submit_many("s", [{}, {}], budget=7)
    sent = [submit.get("budget") for request in server.asked for submit in submits_in(request)]
    assert [None, 1_500_000, 7, 7] == sent


async def test_one_refusal_among_many() -> None:
    """A refusal among many submits is raised as itself, not in a group."""
    async with Server(problem(422, "INVALID_PAYLOAD")).client() as client:
        with pytest.raises(RequestRefused, match="INVALID_PAYLOAD"):
            await client.submit_many("s", [{}, {}])


async def test_payloads_are_taken_as_they_are_sent() -> None:
    """An iterator of any length is read no further than its jobs are under way; none at all are no jobs."""
    taken = 0
    ahead: list[int] = []

    def submitted(submit: dict[str, Any]) -> dict[str, Any]:
        ahead.append(taken - len(ahead))
        return {**SUBMITTED, "status": "accepted", "job_id": f"job-{submit['payload']['n']}"}

    def payloads(count: int) -> Iterator[dict[str, Any]]:
        nonlocal taken
        for n in range(count):
            taken += 1
            yield {"n": n}

    server = Server(answering(submitted))
    async with server.client() as client:
        assert [] == await client.submit_many("s", payloads(0))
        assert 300 == len(await client.submit_many("s", payloads(300)))
        assert max(ahead) <= client.commands.at_a_time


@pytest.mark.parametrize("at", [0, 3, 100])
async def test_an_error_of_the_payloads_is_raised_as_itself(at: int) -> None:
    """What the caller's own iterator raises comes out as it went in; nothing behind it is sent."""

    def payloads() -> Iterator[dict[str, Any]]:
        for n in range(200):
            if n == at:
                raise OSError("the disk is gone")
            yield {"n": n}

    server = Server(ok(SUBMITTED, 201))
    async with server.client() as client:
        with pytest.raises(OSError, match="the disk is gone"):
            await client.submit_many("s", payloads(), idempotency_key="list")
    sent = {submit["idempotency_key"] for request in server.asked for submit in submits_in(request)}
    assert sent <= {f"list:{n}" for n in range(at)}


async def test_many_jobs_again_are_the_same_ones() -> None:
    """After a refusal in the middle the same call sends the same keys: what was accepted is no second job."""
    broken = True

    def submitted(submit: dict[str, Any]) -> dict[str, Any]:
        if broken and submit["payload"]["n"] == 150:
            return {"status": "refused", "code": "INVALID_PAYLOAD", "detail": "wrong"}
        return {**SUBMITTED, "status": "accepted", "job_id": submit["idempotency_key"]}

    server = Server(answering(submitted))
    async with server.client() as client:
        with pytest.raises(RequestRefused, match="INVALID_PAYLOAD"):
            await client.submit_many("s", [{"n": n} for n in range(300)], idempotency_key="list")
        broken = False
        jobs = await client.submit_many("s", [{"n": n} for n in range(300)], idempotency_key="list")
    assert [f"list:{n}" for n in range(300)] == [job.job_id for job in jobs]


async def test_wait_asks_until_the_job_is_final() -> None:
    """`wait` polls long until the job has ended, and returns it however it ended."""
    server = Server(
        problem(425, "JOB_NOT_READY"), problem(409, "CONFLICT_STATE"), ok({**VIEW, "state": "FAILED"})
    )
    async with server.client() as client:
        job = await client.job(JOB).wait()
    paths = [request.url.path for request in server.asked]
    assert ("FAILED", True) == (job.state, job.final)
    assert [f"/v1/jobs/{JOB}/result"] * 2 + [f"/v1/jobs/{JOB}"] == paths
    assert "20.000" == server.asked[0].url.params["wait"]


async def test_wait_has_an_end() -> None:
    """`wait` with a timeout raises NotReady when it is over."""
    server = Server(problem(425, "JOB_NOT_READY"))
    async with server.client() as client:
        with pytest.raises(NotReady):
            await client.job(JOB).wait(timeout=0.05)


@pytest.mark.parametrize(("status", "code"), [(410, "CONTENT_EXPIRED"), (404, "BLOB_NOT_FOUND")])
async def test_a_result_that_was_erased_is_final_too(status: int, code: str) -> None:
    """`wait` returns a completed job whose result is gone; there is nothing more to wait for."""
    server = Server(problem(status, code), ok({**VIEW, "state": "COMPLETED"}))
    async with server.client() as client:
        assert "COMPLETED" == (await client.job(JOB).wait()).state


async def test_an_erasure_goes_on_piece_by_piece() -> None:
    """Each piece is asked for with the cursor of the one before, and the same filter."""
    piece = {"jobs": 2, "payloads": 2, "results": 1, "dry_run": False, "erased": True, "position": 7}
    server = Server(ok({**piece, "next_cursor": "b"}), ok({**piece, "next_cursor": None}))
    async with server.client() as client:
        pieces = [piece.jobs async for piece in client.erase("asked to", client="alice")]
    assert [2, 2] == pieces
    sent = [json.loads(request.content) for request in server.asked]
    asked = {"client": "alice", "kinds": ["payload", "result"], "reason": "asked to", "dry_run": False}
    assert [asked, {**asked, "cursor": "b"}] == sent


async def test_documents_are_kept_whole() -> None:
    """`document()` gives back what was answered, with members that this version does not know."""
    told = {**VIEW, "something_new": [1.5, None]}
    async with Server(ok(told)).client() as client:
        assert told == (await client.job(JOB).view()).document()


async def test_every_page() -> None:
    """A list follows the cursors, and stops at the limit without asking for more."""
    pages = [
        ok({"items": [{"n": 1}, {"n": 2}], "next_cursor": "b"}),
        ok({"items": [{"n": 3}], "next_cursor": None}),
    ]
    server = Server(*pages)
    async with server.client() as client:
        assert [1, 2, 3] == [item["n"] async for item in client.services()]
    limited = Server(pages[0])
    async with limited.client() as client:
        assert [1, 2] == [item["n"] async for item in client.services(limit=2)]
    assert "b" == server.asked[1].url.params["cursor"]
    assert 1 == len(limited.asked)


async def test_upload_only_what_is_not_there(tmp_path: Path) -> None:
    """A file is sent under its digest, with its length, once: what is there already is not sent again."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * 600_000)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    seen: list[tuple[int, int]] = []
    server = Server(httpx.Response(404), ok({"blob": "b"}, 201), httpx.Response(200))
    async with server.client() as client:
        first = await client.upload(file, lambda done, total: seen.append((done, total)))
        again = await client.upload(file)
    assert (digest, 600_000, f"blob:{digest}") == (*first, first.ref)
    assert first == again
    assert ["HEAD", "PUT", "HEAD"] == [request.method for request in server.asked]
    assert (b"x" * 600_000, "600000") == (server.asked[1].content, server.asked[1].headers["Content-Length"])
    assert (600_000, 600_000) == seen[-1]
    assert sorted(seen) == seen


async def test_downloads_to_one_place_do_not_meet(tmp_path: Path) -> None:
    """What stands at the target is whole at any time, also while another download to it is under way."""
    content = b"y" * 600_000
    digest = hashlib.sha256(content).hexdigest()
    target = tmp_path / "target"
    held, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield content[:100_000]
        held.set()
        await go_on.wait()
        yield content[100_000:]

    server = Server(httpx.Response(200, content=slow()), httpx.Response(200, content=content))
    async with server.client() as client:
        first = asyncio.create_task(client.job(JOB).download(digest, target))
        await held.wait()
        await client.job(JOB).download(digest, target)
        seen = target.read_bytes()
        go_on.set()
        await first
    assert content == seen == target.read_bytes()
    assert ["target"] == os.listdir(tmp_path)


async def test_a_closed_client_does_not_connect_again() -> None:
    """Over AMQP, too, a call after the close says so, and begins nothing."""
    client = AsyncCoordinator("http://127.0.0.1:9", "alice:secret-of-alice", amqp_url="amqp://127.0.0.1:9")
    await client.close()
    before = asyncio.all_tasks()
    with pytest.raises(Unreachable, match="closed"):
        await client.submit("checksum", {})
    assert before == asyncio.all_tasks()


async def test_download_is_checked(tmp_path: Path) -> None:
    """A download appears under its name once it has the right digest; a damaged one leaves nothing."""
    content = b"y" * 600_000
    digest = hashlib.sha256(content).hexdigest()
    target = tmp_path / "target"
    async with Server(httpx.Response(200, content=content)).client() as client:
        assert 600_000 == await client.job(JOB).download(f"blob:{digest}", target)
    assert content == target.read_bytes()
    target.unlink()
    async with Server(httpx.Response(200, content=b"z")).client() as client:
        with pytest.raises(DamagedBlob):
            await client.job(JOB).download(digest, target)
    async with Server(problem(404, "BLOB_NOT_FOUND")).client() as client:
        with pytest.raises(NotFound):
            await client.job(JOB).download(digest, target)
    assert [] == os.listdir(tmp_path)


def test_files_of_a_result_get_harmless_names() -> None:
    """Files are found wherever a result names them; their names can't lead out of a folder."""
    first, second, third = ("blob:" + digit * 64 for digit in "abc")
    result = {
        "outputs": [{"name": "../../etc/passwd", "blob": first}, {"name": ".hidden", "blob": second}],
        "thumbnail": third,
        "text": f"not a file: {first}",
    }
    files = list(JobResult.of({**RESULT, "result": result}).files())
    assert [("thumbnail", "c" * 64), ("_.._etc_passwd", "a" * 64), ("hidden", "b" * 64)] == files


def test_a_url_or_key_that_can_not_be_used() -> None:
    """A key that no header can carry, and a url that is none, are refused at once and not quoted."""
    with pytest.raises(CoordinatorError, match="INVALID_ARGUMENT") as raised:
        AsyncCoordinator("http://c", "alice:sec\nret")
    assert "sec" not in str(raised.value)
    for url in ("http://c:port", "127.0.0.1:8011", "localhost", "ftp://c", ""):
        with pytest.raises(CoordinatorError, match="INVALID_ARGUMENT"):
            AsyncCoordinator(url)


# --- streams -----------------------------------------------------------------------------------------------
def sse(*messages: dict[str, Any], cut: bytes = b"") -> httpx.Response:
    """A stream of events as a coordinator sends it, in chunks of three bytes; `cut` is how it ends."""
    lines = ["retry: 2000\n\n", ": keep alive\n\n"]
    lines += [f"event: {m['type']}\ndata: {json.dumps(m, ensure_ascii=False)}\n\n" for m in messages]
    body = "".join(lines).encode() + cut

    async def chunks() -> Any:
        for start in range(0, len(body), 3):
            yield body[start : start + 3]
        if cut:
            raise httpx.ReadError("lost")

    return httpx.Response(200, content=chunks(), headers={"Content-Type": "text/event-stream"})


def changed(state: str, position: int) -> dict[str, Any]:
    kind = "result.ready" if state == "COMPLETED" else "state.changed"
    return {"type": kind, "job_id": JOB, "client": "alice", "at": AT, "state": state, "position": position}


def tokens(text: str, offset: int, attempt: int = 1) -> dict[str, Any]:
    return {"type": "tokens", "job_id": JOB, "attempt": attempt, "seq": 1, "text": text, "offset": offset}


async def test_a_stream_goes_on_where_it_was_lost() -> None:
    """States come once, text without doubles; the next request begins behind the last state."""
    server = Server(
        sse(changed("QUEUED", 5), changed("RUNNING", 7), tokens("one\u2028 ", 0), cut=b'data: {"ty'),
        sse(changed("RUNNING", 7), tokens("one\u2028 two ", 0), tokens("three", 9)),
        sse(tokens("other", 0, 2), tokens("late", 0, 1), {"type": "new"}, changed("COMPLETED", 9)),
    )
    async with server.client() as client:
        updates = [update async for update in client.job(JOB).stream()]
    states = [u.state for u in updates if isinstance(u, StateChanged)]
    texts = [(u.text, u.offset, u.attempt) for u in updates if isinstance(u, Tokens)]
    assert ["QUEUED", "RUNNING", "COMPLETED"] == states
    assert [("one\u2028 ", 0, 1), ("two ", 5, 1), ("three", 9, 1), ("other", 0, 2)] == texts
    assert [None, "7", "7"] == [request.url.params.get("from") for request in server.asked]


async def test_a_stream_of_a_job_that_is_over() -> None:
    """The past is told, and the stream ends; where all of it was told before, there is nothing."""
    async with Server(sse(changed("QUEUED", 5), changed("FAILED", 6))).client() as client:
        assert 2 == len([update async for update in client.job(JOB).stream(progress=False)])
    async with Server(httpx.Response(204)).client() as client:
        assert [] == [update async for update in client.job(JOB).stream()]


@pytest.mark.parametrize("answer", [httpx.ConnectError("refused"), problem(503, "UNAVAILABLE"), "ends"])
async def test_a_stream_that_can_not_be_taken_up_again(answer: Any) -> None:
    """After as many tries as there are in vain, the failure is raised."""

    def ends(_: httpx.Request) -> httpx.Response:
        return sse()

    server = Server(ends if answer == "ends" else answer)
    async with server.client(tries=2) as client:
        with pytest.raises((Unreachable, TryAgain)):
            [update async for update in client.job(JOB).stream()]


async def test_a_stream_of_something_else() -> None:
    """What is refused is raised at once; events that are no objects, or have no end, are bad answers."""
    for answer, kind in (
        (problem(404, "JOB_NOT_FOUND"), NotFound),
        (httpx.Response(200, content=b"data: [1]\n\n"), BadAnswer),
        (httpx.Response(200, content=b"data: {\n\n"), BadAnswer),
        (httpx.Response(200, content=b"data: " + b"x" * 5_000_000), BadAnswer),
        (sse({"type": "state.changed"}), BadAnswer),
    ):
        server = Server(answer)
        async with server.client() as client:
            with pytest.raises(kind):
                [update async for update in client.job(JOB).stream()]
        assert 1 == len(server.asked)
