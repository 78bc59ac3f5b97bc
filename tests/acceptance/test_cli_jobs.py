"""Jobs, miners, services and receipts by command line, against a real coordinator with a real miner."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.crypto.keys import SigningKey
from coordinator.edge.models.jobs import JobCancelAnswer, JobPage, JobResult, JobView
from coordinator.edge.models.miners import MinerPage, MinerView
from coordinator.edge.models.services import ServicePage, ServiceView
from tests.acceptance.cli_process import Coordinator, Ran, call, dev, run
from tests.harness.waiting import eventually_now

NO_JOB = "0190163d-8694-739b-aea5-966c26f8ad91"


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """One with one miner, for all tests here."""
    with dev(tmp_path_factory.mktemp("dev"), "--miners", "1") as running:
        yield running


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """One without a miner: jobs stay queued."""
    with dev(tmp_path_factory.mktemp("idle")) as running:
        yield running


@pytest.fixture(scope="module")
def two_miners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """One with two miners, both online."""
    with dev(tmp_path_factory.mktemp("two"), "--miners", "2") as running:
        listing = ("miner", "list", "--json", "--url", running.url)
        # In processes of their own: the wait has an event loop, and so has the command.
        eventually_now(lambda: len(run(running.folder, *listing).json()["items"]) == 2, "two miners")
        yield running


def test_submit_and_wait_prints_the_result(coordinator: Coordinator) -> None:
    """`job submit --wait --json` prints the result as GET /jobs/{id}/result does, and ends with 0."""
    ran = coordinator.run("job", "submit", "checksum", "--payload", '{"text": "hello"}', "--wait", "--json")
    told = JobResult.model_validate(ran.json())
    assert (0, hashlib.sha256(b"hello").hexdigest()) == (ran.code, told.result["digests"][0]["digest"])


def test_payload_from_file_and_stdin(coordinator: Coordinator) -> None:
    """`--payload @FILE` and `--payload -` read the same JSON object."""
    (coordinator.folder / "payload.json").write_text('{"text": "from a file"}')
    by_file = coordinator.run(
        "job", "submit", "checksum", "--payload", "@payload.json", "--key", "f", "--json"
    )
    by_stdin = run(
        coordinator.folder,
        *("job", "submit", "checksum", "--payload", "-", "--key", "f", "--json", "--url", coordinator.url),
        text='{"text": "from a file"}',
    )
    assert (0, by_file.json()["job_id"]) == (by_stdin.code, by_stdin.json()["job_id"])


def test_same_key_other_request_is_refused(coordinator: Coordinator) -> None:
    """An idempotency key that was used for another request ends with 3."""
    coordinator.submit("one", "--key", "taken")
    ran = coordinator.run(
        "job", "submit", "checksum", "--payload", '{"text": "two"}', "--key", "taken", "--json"
    )
    assert (3, "", "IDEMPOTENCY_MISMATCH") == (ran.code, ran.out, json.loads(ran.err)["code"])


def test_uploads_a_file(coordinator: Coordinator) -> None:
    """`--file NAME=PATH` uploads a file, and names it in that field: a list where the schema has one."""
    (coordinator.folder / "input.bin").write_bytes(b"x" * 300_000)
    arguments = ("job", "submit", "checksum", "--file", "inputs=input.bin", "--json")
    first = coordinator.run(*arguments, "--key", "file")
    again = coordinator.run(*arguments, "--key", "file")  # uploaded already, and the same job
    assert (0, first.json()["job_id"]) == (again.code, again.json()["job_id"])


def test_shows_lists_and_watches(coordinator: Coordinator) -> None:
    """A job is shown, listed and watched in the HTTP API's shapes; what is watched ends with its end."""
    job_id = coordinator.submit("watched")
    watched = coordinator.run("job", "watch", job_id, "--json")
    shown = coordinator.run("job", "show", job_id, "--json")
    listed = coordinator.run("job", "list", "--state", "completed", "--json")
    view = JobView.model_validate(shown.json())
    page = JobPage.model_validate(listed.json())
    assert (0, "COMPLETED") == (watched.code, watched.lines()[-1]["state"])
    assert "COMPLETED" == view.state
    assert view.job_id in {item.job_id for item in page.items}


def test_text_is_for_people(coordinator: Coordinator) -> None:
    """Without --json there are tables on stdout, without a colour where it is no terminal."""
    job_id = coordinator.submit("text")
    coordinator.run("job", "watch", job_id)
    for arguments in (("job", "list"), ("job", "show", job_id), ("service", "list"), ("miner", "list")):
        ran = coordinator.run(*arguments)
        assert (0, "") == (ran.code, ran.err), arguments
        assert "\x1b" not in ran.out
    assert job_id in coordinator.run("job", "list").out


def test_cancel_and_a_job_without_a_result(idle: Coordinator) -> None:
    """A cancelled job: cancel ends with 0, waiting for its result with 1; until it is final, result is 3."""
    job_id = idle.submit("never")
    early = idle.run("job", "result", job_id, "--json")
    canceled = idle.run("job", "cancel", job_id, "--reason", "changed my mind", "--json")
    late = idle.run("job", "result", job_id, "--wait", "--json")
    assert (3, "JOB_NOT_READY") == (early.code, json.loads(early.err)["code"])
    assert (0, "CANCELED") == (canceled.code, JobCancelAnswer.model_validate(canceled.json()).state)
    assert (1, "CANCELED", "JOB_CANCELED") == (
        late.code,
        JobView.model_validate(late.json()).state,
        json.loads(late.err)["code"],
    )


def test_waiting_has_an_end(idle: Coordinator) -> None:
    """`--wait --timeout` gives up with 3, and the job's id was told, so that it can be found again."""
    ran = idle.run(
        *("job", "submit", "checksum", "--payload", '{"text": "slow"}'),
        "--wait",
        "--timeout",
        "0.2",
        "--json",
    )
    told, refused = ran.err.splitlines()
    assert (3, "JOB_NOT_READY") == (ran.code, json.loads(refused)["code"])
    assert "QUEUED" == idle.run("job", "show", told.removeprefix("job "), "--json").json()["state"]


def test_why_a_job_waits(two_miners: Coordinator) -> None:
    """A job that nobody can run says why and what would help; with that change two miners are found."""
    job_id = two_miners.submit("far away", "--constraints", '{"region": "nowhere"}')
    told = two_miners.run("job", "why", job_id, "--json").json()
    read = two_miners.run("job", "why", job_id)
    sentence = "Waits: no miner is in region nowhere for it; 2 would in any region."
    assert sentence == told["sentence"] == read.out.splitlines()[0]
    assert [("region", "nowhere", None, 2)] == [
        (r["constraint"], r["asked"], r["to"], r["miners"]) for r in told["relaxations"]
    ]
    assert "CONSTRAINT_UNMET" in read.out
    refused = two_miners.run(
        *("job", "submit", "checksum", "--payload", '{"text": "x"}'),
        *("--constraints", '{"region": "nowhere"}'),
        *("--when-unmatched", "refuse", "--json"),
    )
    problem = json.loads(refused.err)
    assert (3, "", "NO_ELIGIBLE_MINER") == (refused.code, refused.out, problem["code"])
    done = two_miners.run(
        *("job", "submit", "checksum", "--payload", '{"text": "hello"}', "--when-unmatched", "refuse"),
        *("--wait", "--json"),
    )
    assert (0, "COMPLETED") == (done.code, done.json()["state"])
    ended = two_miners.run("job", "why", done.json()["job_id"]).out
    assert ended.startswith("Ended COMPLETED at ")

    def is_idle() -> bool:  # the counts are of the last seconds
        idle = run(two_miners.folder, "miner", "why", "miner-1@dev-miner", "--json").json()
        names = ("state", "queued_jobs", "queued_jobs_of_its_services", "queued_jobs_fitting")
        return [idle[name] for name in names] == ["ONLINE", 1, 1, 0]

    eventually_now(is_idle, "a job that does not fit the miner")
    unknown = two_miners.run("job", "why", NO_JOB, "--json")
    assert (4, "JOB_NOT_FOUND") == (unknown.code, json.loads(unknown.err)["code"])


def test_services(coordinator: Coordinator) -> None:
    """The registry is listed and shown in the HTTP API's shapes."""
    listed = coordinator.run("service", "list", "--json")
    shown = coordinator.run("service", "show", "checksum", "--json")
    page = ServicePage.model_validate(listed.json())
    assert {"checksum", "video_transcoding"} <= {item.id for item in page.items}
    assert "checksum" == ServiceView.model_validate(shown.json()).id


def test_miners(coordinator: Coordinator) -> None:
    """The miner that `dev --miners 1` started is listed and shown."""
    coordinator.run("job", "watch", coordinator.submit("so that it has registered"))
    page = MinerPage.model_validate(coordinator.run("miner", "list", "--json").json())
    shown = coordinator.run("miner", "show", "miner-1@dev-miner", "--json")
    assert ["miner-1@dev-miner"] == [item.miner_id for item in page.items]
    assert "ONLINE" == MinerView.model_validate(shown.json()).state


def test_receipts_verify_offline(coordinator: Coordinator, tmp_path: Path) -> None:
    """A receipt in a file verifies with the coordinator's public key alone, and with no other: 0 and 7."""
    job_id = coordinator.submit("paid")
    coordinator.run("job", "watch", job_id)
    receipt = tmp_path / "receipt.json"
    receipt.write_text(coordinator.run("receipt", "show", job_id, "--json").out)
    key = str(coordinator.about["signing_key_id"])

    def verify(path: Path, trusted: str) -> Ran:
        nobody = {"COORDINATOR_URL": "http://127.0.0.1:9"}
        return call(tmp_path, "receipt", "verify", str(path), "--trusted", trusted, "--json", **nobody)

    good, other = verify(receipt, key), verify(receipt, "A" * 43)
    forged = tmp_path / "forged.json"
    forged.write_text(receipt.read_text().replace('"client": "dev-client"', '"client": "somebody"'))
    bad = verify(forged, key)
    assert (0, True, job_id) == (good.code, good.json()["key_trusted"], good.json()["job_id"])
    assert (7, "RECEIPT_KEY", "") == (other.code, json.loads(other.err)["code"], other.out)
    assert (7, "RECEIPT_SIGNATURE", "") == (bad.code, json.loads(bad.err)["code"], bad.out)


def test_receipt_by_job_and_with_the_miners_key(coordinator: Coordinator) -> None:
    """`receipt verify JOB_ID` fetches it; a miner's key that is not the one it signed with is a 7."""
    job_id = coordinator.submit("signed")
    coordinator.run("job", "watch", job_id)
    key = str(coordinator.about["signing_key_id"])
    miner = coordinator.run("miner", "show", "miner-1@dev-miner", "--json").json()["public_key"]
    arguments = ("receipt", "verify", job_id, "--trusted", key, "--json", "--miner-key")
    good = coordinator.run(*arguments, f"miner-1@dev-miner={miner}")
    bad = coordinator.run(*arguments, f"miner-1@dev-miner={key}")
    assert (0, True) == (good.code, good.json()["miner_key_trusted"])
    assert (7, "STATEMENT_KEY") == (bad.code, json.loads(bad.err)["code"])


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("job", "show", NO_JOB), 4, "JOB_NOT_FOUND"),
        (("job", "submit", "nonsense"), 4, "SERVICE_NOT_FOUND"),
        (("miner", "show", "nobody"), 4, "MINER_NOT_FOUND"),
        (("job", "submit", "checksum", "--payload", '{"text": 1}'), 3, "INVALID_PAYLOAD"),
        (("job", "submit", "checksum", "--payload", "{"), 2, "USAGE"),
        (("job", "submit", "checksum", "--payload", "[1]"), 2, "USAGE"),
        (("job", "submit", "checksum", "--file", "inputs=missing"), 2, "USAGE"),
        (("job", "submit", "checksum", "--ttl", "0"), 2, "USAGE"),
        (("job", "list", "--api-key", "dev-client:wrong-secret"), 5, "UNAUTHORIZED_KEY"),
        (("receipt", "verify", NO_JOB), 2, "USAGE"),
        (("receipt", "verify", NO_JOB, "--any-key"), 4, "JOB_NOT_FOUND"),
    ],
)
def test_exit_codes(coordinator: Coordinator, arguments: tuple[str, ...], code: int, problem: str) -> None:
    """Every kind of failure has its exit code; the cause is on stderr, as text or JSON, stdout is empty."""
    as_json = coordinator.run(*arguments, "--json")
    as_text = coordinator.run(*arguments)
    told = json.loads(as_json.err)
    assert (code, "", problem) == (as_json.code, as_json.out, told["code"])
    assert told["next_step"]
    assert (code, "") == (as_text.code, as_text.out)
    cause, *_ = as_text.err.splitlines()
    assert f"{problem}: {told['detail'].splitlines()[0]}" == cause


def test_a_service_is_registered_revised_and_retired(idle: Coordinator) -> None:
    """Its jobs are accepted between the two; a payload can be checked before; its versions are listed."""
    spec = {
        "id": "echo",
        "name": "Echo",
        "category": "development_tools",
        "description": "Says it again.",
        "input_schema": {"type": "object", "required": ["text"]},
        "output_schema": {"type": "object"},
        "pricing": {"unit": "second", "amount": "1"},
        "aliases": ["parrot"],
    }
    (idle.folder / "spec.json").write_text(json.dumps(spec))
    made = idle.run("service", "register", "@spec.json", "--json")
    assert (made.code, made.json()["version"]) == (0, 1)
    revised = idle.run("service", "revise", json.dumps({**spec, "description": "Again."}), "--json")
    assert (revised.code, revised.json()["version"]) == (0, 2)
    good = idle.run("service", "check", "parrot", "--payload", '{"text": "x"}')
    bad = idle.run("service", "check", "parrot", "--json")
    assert (good.code, bad.code, bad.json()["faults"][0]["keyword"]) == (0, 1, "required")
    job = idle.run("job", "submit", "parrot", "--payload", '{"text": "x"}', "--json")
    assert job.code == 0, job.err
    retired = idle.run("service", "retire", "echo", "--json")
    assert (retired.code, retired.json()["retired"]) == (0, True)
    assert idle.run("job", "submit", "echo", "--payload", '{"text": "x"}').code != 0
    listed = idle.run("service", "versions", "echo", "--json").json()["items"]
    assert [item["change"] for item in listed] == ["registered", "revised", "retired"]
    assert idle.run("service", "revise", "{}").code == 2


def test_the_history_of_a_job(coordinator: Coordinator) -> None:
    """`job history` tells each event in a sentence, as JSON with its facts."""
    job_id = coordinator.submit("told")
    coordinator.run("job", "result", job_id, "--wait")
    told = coordinator.run("job", "history", job_id, "--json").json()
    assert ["job.submitted.v1", "job.started.v1", "job.completed.v1"] == [e["type"] for e in told["entries"]]
    assert "COMPLETED" == told["state"]
    assert job_id == told["entries"][0]["event"]["job_id"]
    shown = coordinator.run("job", "history", job_id)
    assert 0 == shown.code
    assert "asked for checksum (version 1)" in shown.out
    assert "delivered the result" in shown.out
    assert "JOB_NOT_FOUND" == json.loads(coordinator.run("job", "history", NO_JOB, "--json").err)["code"]


def test_time_travel(coordinator: Coordinator) -> None:
    """`log at` shows a job at each position of its life; a position beyond the log is refused."""
    job_id = coordinator.submit("travelled")
    coordinator.run("job", "result", job_id, "--wait")
    entries = coordinator.run("job", "history", job_id, "--json").json()["entries"]
    states = []
    for entry in entries:
        past = coordinator.run("log", "at", str(entry["position"]), "--json", "--limit", "1000").json()
        states += [job["state"] for job in past["jobs"] if job["job_id"] == job_id]
    assert "QUEUED" == states[0]
    assert "COMPLETED" == states[-1]
    beyond = coordinator.run("log", "at", "999999", "--json")
    assert (4, "BEYOND_THE_LOG") == (beyond.code, json.loads(beyond.err)["code"])
    invalid = coordinator.run("log", "at", "yesterday")
    assert 2 == invalid.code
    assert "invalid position or time" in invalid.err


def test_an_audit(coordinator: Coordinator) -> None:
    """`audit` reads the log in its database, over HTTP and in a file: clean, with the same events."""
    coordinator.run("job", "result", coordinator.submit("audited"), "--wait")
    in_database = coordinator.run("audit", "--json")
    assert (0, None) == (in_database.code, in_database.json()["divergence"])
    assert in_database.json()["signatures"] >= 1
    export = coordinator.run("log", "export", "--output", "audited.gz", "--json")
    in_file = coordinator.run("audit", "--file", "audited.gz", "--json")
    assert (0, export.json()["events"]) == (in_file.code, in_file.json()["events"])

    over_http = coordinator.run("audit", "--url", coordinator.url, "--json")
    assert (0, None) == (over_http.code, over_http.json()["divergence"])
    assert 1 == over_http.json()["checkpoints"]
    assert over_http.json()["checkpoint"]["size"] == over_http.json()["events"]

    stranger = coordinator.run("audit", "--trusted", "A" * 43, "--json")
    assert 2 == stranger.code  # no key at all
    other = SigningKey.generate().key_id
    untrusted = coordinator.run("audit", "--trusted", other, "--json")
    assert (7, "key") == (untrusted.code, untrusted.json()["divergence"]["kind"])
    (coordinator.folder / "audited.gz").write_bytes(b"nothing")
    damaged = coordinator.run("audit", "--file", "audited.gz", "--json")
    assert (7, "BAD_SOURCE") == (damaged.code, json.loads(damaged.err)["code"])
