"""Jobs over HTTP: submit, look at, list, cancel; and whose they are."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from coordinator.domain.miner import miner_stream
from coordinator.domain.service import service_stream
from coordinator.edge import EdgeLimits
from coordinator.edge.models.jobs import JobView
from tests.integration.edge_bench import SERVICE, Bench, an_edge

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


NO_JOBS: list[str] = [
    "..",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "01890a5d-ac96-774b-bcce-b302099a805",
    "01890a5d-ac96-774b-bcce-b302099a8057%00",
    "01890a5d-ac96-774b-bcce-b302099a8057'--",
    "٠١٨٩٠a5d-ac96-774b-bcce-b302099a8057",
    "x" * 5000,
    "null",
]

NO_KEYS: list[bytes] = [b"", b"\xff", b"x" * 201, b"a\tb", b"\xc2\x80" * 201]


async def test_a_submitted_job_can_be_read(edge: Bench) -> None:
    """A job is answered with its id and where to find it, and read back as it was asked for."""
    answer = await edge.alice.post(
        "/v1/jobs",
        json={
            "service": SERVICE,
            "payload": {"text": "hello"},
            "constraints": {"gpu": "NVIDIA", "max_price": "0.50"},
            "priority": 3,
        },
    )
    assert answer.status_code == 201
    told = answer.json()
    assert told["state"] == "QUEUED"
    assert RFC_3339.fullmatch(told["expires_at"])
    assert answer.headers["location"] == f"/v1/jobs/{told['job_id']}"
    assert answer.headers["x-position"] == str(told["position"])

    read = await edge.alice.get(answer.headers["location"], headers={"X-At-Least": str(told["position"])})
    assert read.status_code == 200
    assert int(read.headers["x-position"]) >= told["position"]
    job = read.json()
    assert JobView.model_validate_json(read.text).client == "alice"
    assert job["constraints"]["gpu"] == "nvidia"
    assert job["constraints"]["max_price"] == "0.5"
    assert job["expires_at"] == told["expires_at"]
    assert RFC_3339.fullmatch(job["requested_at"])
    unset = ("assigned_miner_id", "started_at", "finished_at", "error", "result_digest")
    assert {name: job[name] for name in unset} == dict.fromkeys(unset)
    assert (job["attempt"], job["priority"], job["position"]) == (1, 3, told["position"])


async def test_a_job_lives_as_long_as_the_settings_say(tmp_path: Path) -> None:
    """JOB_TTL_SECONDS is the time to live where the body names none."""
    async with an_edge(tmp_path, job_ttl_seconds=120) as edge:
        for asked, expected in (({}, 120), ({"ttl_seconds": 60}, 60)):
            job = await edge.submit(edge.alice, **asked)
            read = (await edge.alice.get(f"/v1/jobs/{job['job_id']}")).json()
            lives = datetime.fromisoformat(read["expires_at"]) - datetime.fromisoformat(read["requested_at"])
            assert lives == timedelta(seconds=expected)


async def test_a_repeat_with_the_same_key_is_the_same_job(edge: Bench) -> None:
    """Idempotency-Key makes a repeat the first job; another request under it is a conflict; another client's
    same key is another job."""
    body = {"service": SERVICE, "payload": {"text": "hello"}}
    headers = {b"Idempotency-Key": "order-17 ünïcode".encode()}
    first = await edge.alice.post("/v1/jobs", json=body, headers=headers)
    repeat = await edge.alice.post("/v1/jobs", json=body, headers=headers)
    assert repeat.status_code == 201
    assert repeat.json() == first.json()

    in_body = await edge.alice.post("/v1/jobs", json={**body, "idempotency_key": "order-17 ünïcode"})
    assert in_body.json()["job_id"] == first.json()["job_id"]

    other = await edge.alice.post("/v1/jobs", json={**body, "payload": {"text": "else"}}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_MISMATCH")
    bobs = await edge.bob.post("/v1/jobs", json=body, headers=headers)
    assert bobs.json()["job_id"] != first.json()["job_id"]
    without = await edge.alice.post("/v1/jobs", json=body)
    assert without.json()["job_id"] != first.json()["job_id"]


async def test_an_idempotency_key_that_is_none_is_refused(edge: Bench) -> None:
    """Empty, too long, control characters and bytes that are no UTF-8 are refused, not cut or replaced."""
    for key in NO_KEYS:
        body = {"service": SERVICE, "payload": {"text": "hello"}}
        answer = await edge.alice.post("/v1/jobs", json=body, headers={b"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD")


async def test_two_keys_in_one_request_must_agree(edge: Bench) -> None:
    """A key in the header and another one in the body, or in a second header, is a mistake and told so."""
    body = {"service": SERVICE, "payload": {"text": "hello"}}
    header = ("Idempotency-Key", "two")
    for asked, headers in (
        ({**body, "idempotency_key": "one"}, [header]),
        (body, [("Idempotency-Key", "one"), header]),
    ):
        answer = await edge.alice.post("/v1/jobs", json=asked, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD")


async def test_a_service_that_is_not_there_takes_no_job(edge: Bench) -> None:
    """An unknown registry id is SERVICE_NOT_FOUND; a payload that its schema refuses is INVALID_PAYLOAD."""
    unknown = await edge.alice.post("/v1/jobs", json={"service": "no_such", "payload": {}})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "SERVICE_NOT_FOUND")
    wrong = await edge.alice.post("/v1/jobs", json={"service": SERVICE, "payload": {"text": 1}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "INVALID_PAYLOAD")


async def test_an_accepted_job_is_never_not_found(edge: Bench) -> None:
    """A read right after the submit finds the job, also where it does not name its position."""

    async def submit_and_read(_: int) -> int:
        body = {"service": SERVICE, "payload": {"text": "hello"}}
        job = (await edge.alice.post("/v1/jobs", json=body)).json()["job_id"]
        return (await edge.alice.get(f"/v1/jobs/{job}")).status_code

    assert set(await asyncio.gather(*(submit_and_read(n) for n in range(50)))) == {200}


async def test_a_read_of_what_the_projector_has_not_reached_is_unavailable(edge: Bench) -> None:
    """While the read models stand still, a job that memory has lost is 503 UNAVAILABLE and not 404."""
    [projector] = [r for r in edge.coordinator.runners if r.follower.name == "projector"]
    await projector.stop()
    body = {"service": SERVICE, "payload": {"text": "hello"}}
    impatient = edge.again(limits=EdgeLimits(at_least_seconds=0.05))
    job = (await impatient.alice.post("/v1/jobs", json=body)).json()["job_id"]
    assert 200 == (await impatient.alice.get(f"/v1/jobs/{job}")).status_code
    edge.coordinator.bus.cache.drop([UUID(job)])
    answer = await impatient.alice.get(f"/v1/jobs/{job}")
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")


@pytest.mark.parametrize("path", ["", "/result", "/receipt", "/receipts"])
async def test_another_clients_job_does_not_exist(edge: Bench, path: str) -> None:
    """To another client a job is 404, word for word as one that never was; an admin sees it."""
    job = await edge.submit(edge.alice)
    theirs = await edge.bob.get(f"/v1/jobs/{job['job_id']}{path}")
    nobodys = await edge.bob.get(f"/v1/jobs/{uuid4()}{path}")
    assert (theirs.status_code, theirs.json()["code"]) == (404, "JOB_NOT_FOUND")
    differs = {"request_id"}
    assert {k: v for k, v in theirs.json().items() if k not in differs} == {
        k: v for k, v in nobodys.json().items() if k not in differs
    }
    assert (await edge.admin.get(f"/v1/jobs/{job['job_id']}{path}")).status_code != 404


async def test_a_job_is_cancelled_by_its_client_and_by_an_admin_only(edge: Bench) -> None:
    """Cancel is idempotent, final, and refused to others as if the job were not there."""
    job = (await edge.submit(edge.alice))["job_id"]
    other = await edge.bob.post(f"/v1/jobs/{job}/cancel")
    assert (other.status_code, other.json()["code"]) == (404, "JOB_NOT_FOUND")

    first = await edge.alice.post(f"/v1/jobs/{job}/cancel", json={"reason": "no longer needed"})
    assert first.status_code == 200
    assert (first.json()["state"], first.json()["job_id"]) == ("CANCELED", job)
    repeat = await edge.alice.post(f"/v1/jobs/{job}/cancel")
    assert repeat.json() == first.json()
    read = await edge.alice.get(f"/v1/jobs/{job}", headers={"X-At-Least": str(first.json()["position"])})
    assert read.json()["state"] == "CANCELED"
    assert read.json()["finished_at"] is not None

    another = (await edge.submit(edge.bob))["job_id"]
    assert (await edge.admin.post(f"/v1/jobs/{another}/cancel")).status_code == 200
    unknown = await edge.admin.post(f"/v1/jobs/{uuid4()}/cancel")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "JOB_NOT_FOUND")


async def test_a_final_job_is_not_cancelled(edge: Bench) -> None:
    """409 CONFLICT_STATE once the job is completed."""
    await edge.register()
    job = await edge.finish(edge.alice, {"ok": True})
    answer = await edge.alice.post(f"/v1/jobs/{job}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT_STATE")


async def test_pages_hold_every_job_once_newest_first(edge: Bench) -> None:
    """Following the cursors gives each job of the client once, also while new ones come in."""
    mine = [(await edge.submit(edge.alice))["job_id"] for _ in range(7)]
    await edge.submit(edge.bob)
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = (await edge.alice.get("/v1/jobs", params=params)).json()
        assert len(page["items"]) <= 3
        seen += [job["job_id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await edge.submit(edge.alice)  # comes before the pages that follow, and changes none of them
    assert sorted(seen) == sorted(mine)
    everything = (await edge.alice.get("/v1/jobs", params={"limit": 200})).json()["items"]
    times = [(job["requested_at"], job["job_id"]) for job in everything]
    assert times == sorted(times, reverse=True)


async def test_a_full_last_page_has_no_cursor(edge: Bench) -> None:
    """`next_cursor` is null exactly where nothing follows."""
    for _ in range(2):
        await edge.submit(edge.alice)
    assert (await edge.alice.get("/v1/jobs?limit=2")).json()["next_cursor"] is None
    assert (await edge.alice.get("/v1/jobs?limit=1")).json()["next_cursor"] is not None


async def test_lists_are_filtered_by_state_and_service(edge: Bench) -> None:
    """Each filter alone and both together, for a client and for an admin."""
    queued = (await edge.submit(edge.alice))["job_id"]
    canceled = (await edge.submit(edge.alice))["job_id"]
    position = (await edge.alice.post(f"/v1/jobs/{canceled}/cancel")).json()["position"]
    bobs = (await edge.submit(edge.bob))["job_id"]
    await edge.reached(position)

    async def ids(client: str, **params: str) -> set[str]:
        answer = await getattr(edge, client).get("/v1/jobs", params=params)
        return {job["job_id"] for job in answer.json()["items"]}

    assert await ids("alice") == {queued, canceled}
    assert await ids("alice", state="CANCELED") == {canceled}
    assert await ids("alice", service=SERVICE) == {queued, canceled}
    assert await ids("alice", service="video_transcoding") == set()
    assert await ids("alice", service=SERVICE, state="QUEUED") == {queued}
    assert await ids("admin") == {queued, canceled, bobs}
    assert await ids("admin", state="QUEUED") == {queued, bobs}
    assert await ids("admin", state="QUEUED", service="video_transcoding") == set()


async def test_a_cursor_of_someone_else_shows_nothing_of_theirs(edge: Bench) -> None:
    """A cursor is a place and no right: with another's cursor a client still sees only its own jobs."""
    for _ in range(3):
        await edge.submit(edge.alice)
    cursor = (await edge.alice.get("/v1/jobs?limit=1")).json()["next_cursor"]
    assert (await edge.bob.get(f"/v1/jobs?cursor={cursor}")).json() == {"items": [], "next_cursor": None}


async def test_a_path_that_names_no_job_is_refused(edge: Bench) -> None:
    """Traversal, NUL, quotes, other digits and endless ids are 404 or 422, and never an internal error."""
    for job_id in NO_JOBS:
        for method, path in (("GET", ""), ("GET", "/result"), ("POST", "/cancel")):
            answer = await edge.alice.request(method, f"/v1/jobs/{job_id}{path}")
            assert answer.status_code in (404, 422)
            assert answer.headers["content-type"] == "application/problem+json"


async def test_the_id_of_something_else_is_no_job(edge: Bench) -> None:
    """Streams of miners and services have ids too: none of them passes for a job."""
    await edge.register()
    for stream in (miner_stream("rig"), service_stream(SERVICE)):
        for path in ("", "/result", f"/blobs/{'a' * 64}"):
            assert (await edge.admin.get(f"/v1/jobs/{stream}{path}")).status_code == 404
