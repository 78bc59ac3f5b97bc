"""Erasing by command line, against a real coordinator with a real miner: what goes, and what stays."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cli_process import Coordinator, dev
from tests.harness.waiting import eventually_now

SECRET = "a sentence that nobody else writes"


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """One with one miner, for all tests here."""
    with dev(tmp_path_factory.mktemp("dev"), "--miners", "1") as running:
        yield running


def done(coordinator: Coordinator, text: str) -> str:
    """The id of a completed job with this text."""
    job_id = coordinator.submit(text)
    coordinator.run("job", "watch", job_id)
    return job_id


def kept(folder: Path) -> list[str]:
    """The files of the coordinator with the sentence in them."""
    files = (path for path in (folder / "coordinator-data").rglob("*") if path.is_file())
    return sorted(path.name for path in files if SECRET.encode() in path.read_bytes())


def test_an_erased_job(coordinator: Coordinator) -> None:
    """Its sentence is in no file any more; its receipt verifies, and the audit is clean."""
    job_id = done(coordinator, SECRET)
    assert kept(coordinator.folder)
    assert coordinator.run("job", "show", job_id, "--json").json()["payload_erased"] is None
    ran = coordinator.run("erase", "--job", job_id, "--reason", "no longer needed", "--yes", "--json")
    assert (0, True, ["payload", "result"]) == (ran.code, ran.json()["erased"], ran.json()["kinds"])
    shown = coordinator.run("job", "show", job_id, "--json").json()
    assert ran.json()["position"] == shown["payload_erased"] == shown["result_erased"]
    gone = coordinator.run("job", "result", job_id, "--json")
    told = json.loads(gone.err)
    assert (3, "CONTENT_EXPIRED") == (gone.code, told["code"])
    assert "no longer needed" in gone.err
    history = coordinator.run("job", "history", job_id)
    assert "erased the payload and the result: no longer needed" in history.out.splitlines()[-1]
    eventually_now(lambda: not kept(coordinator.folder), "no file has it")

    receipt = coordinator.run("receipt", "show", job_id, "--json").out
    (coordinator.folder / "receipt.json").write_text(receipt)
    verified = coordinator.run("receipt", "verify", "receipt.json", "--any-key")
    assert 0 == verified.code, verified.err
    audited = coordinator.run("audit", "--json")
    assert (0, None) == (audited.code, audited.json()["divergence"])
    exported = coordinator.run("log", "export", "--output", "all.gz", "--whole")
    assert 0 == exported.code, exported.err
    assert SECRET.encode() not in gzip.decompress((coordinator.folder / "all.gz").read_bytes())


def test_many_jobs(coordinator: Coordinator) -> None:
    """A dry run says how many; nothing happens without --yes where nobody can be asked; then all go."""
    for number in range(3):
        done(coordinator, f"one of many {number}")
    batch = ("erase", "--older-than", "0s", "--reason", "the end of a test", "--json")
    counted = coordinator.run(*batch, "--dry-run").json()
    assert counted["jobs"] == counted["payloads"] == counted["results"] >= 3
    refused = coordinator.run(*batch)
    assert (2, "USAGE") == (refused.code, json.loads(refused.err)["code"])
    assert counted == coordinator.run(*batch, "--dry-run").json()
    erased = coordinator.run(*batch, "--yes").json()
    assert (counted["jobs"], True) == (erased["jobs"], erased["erased"])
    assert 0 == coordinator.run(*batch, "--dry-run").json()["jobs"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--job", "0190163d-8694-739b-aea5-966c26f8ad91", "--reason", "x", "--yes"], 4, "JOB_NOT_FOUND"),
        (["--job", "no-id", "--reason", "x", "--yes"], 2, "USAGE"),
        (["--job", "0190163d-8694-739b-aea5-966c26f8ad91", "--yes"], 2, "USAGE"),
        (["--client", "a b", "--reason", "x", "--dry-run"], 3, "INVALID_PAYLOAD"),
        (["--older-than", "soon", "--reason", "x", "--yes"], 2, "USAGE"),
        (["--older-than", "1d", "--kinds", "receipt", "--reason", "x", "--yes"], 2, "USAGE"),
        (["--reason", "x", "--yes"], 2, "USAGE"),
    ],
)
def test_refusals(coordinator: Coordinator, arguments: list[str], code: int, told: str) -> None:
    """Each names its fault, with the exit code of its kind."""
    ran = coordinator.run("erase", *arguments, "--json")
    assert (code, told) == (ran.code, json.loads(ran.err)["code"])
