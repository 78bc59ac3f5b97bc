"""Passports by command line: fetched from a coordinator, and verified without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cli_process import Coordinator, call, dev, run
from tests.harness import passports
from tests.harness.decided_log import COORDINATOR
from tests.harness.passports import LOG_KEY, MINER_KEYS, SPOILT, WITNESS_KEY, Passes

NO_JOB = "0190163d-8694-739b-aea5-966c26f8ad91"
SECRET = "a text that no passport quotes"


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """One with one miner, for all tests here."""
    with dev(tmp_path_factory.mktemp("dev"), "--miners", "1") as running:
        yield running


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> Passes:
    return passports.make(tmp_path_factory.mktemp("log"))


def test_a_passport_is_made_shown_and_verified_after_the_coordinator(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    """`make` waits for job and checkpoint; `show` and `verify` need the file, and the key that is trusted."""
    job = coordinator.submit(SECRET)
    options = ("--output", "p.json", "--wait", "60", "--with-salts", "--json")
    made = coordinator.run("passport", "make", job, *options)
    assert 0 == made.code, made.err
    assert {"file": "p.json", "job_id": job, "events": 3} == made.json()
    file = coordinator.folder / "p.json"
    assert SECRET not in file.read_text()
    key = json.loads(file.read_text())["log_key"]

    shown = call(tmp_path, "passport", "show", str(file))
    assert 0 == shown.code
    assert "job.completed.v1" in shown.out
    assert "checksum" in shown.out

    # Elsewhere, without any address; once as a process of its own.
    payload = json.dumps({"text": SECRET})
    told = run(tmp_path, "passport", "verify", str(file), "--trusted", key, "--payload", payload)
    assert 0 == told.code, told.err
    for words in (
        "The log of coordinator/",
        "By the log, ",
        "signed with",
        "Not proven:",
        "that the price was paid",
        "The payload that you have is the one of digest",
    ):
        assert words in told.out

    other = call(tmp_path, "passport", "verify", str(file), "--trusted", LOG_KEY.key_id, "--json")
    assert 7 == other.code
    document = json.loads(other.out)
    assert document["verified"] is False
    assert ["checkpoint", "receipt"] == [c["name"] for c in document["checks"] if not c["ok"]]
    assert "PASSPORT" == json.loads(other.err)["code"]


def test_a_job_without_a_passport_is_refused(coordinator: Coordinator) -> None:
    """An unknown job ends with 4, no job's id with 2, and nothing is written."""
    assert 4 == coordinator.run("passport", "make", NO_JOB, "--output", "none.json").code
    assert 2 == coordinator.run("passport", "make", "a-job", "--output", "none.json").code
    assert 2 == coordinator.run("passport", "make", coordinator.submit("x"), "--output", "/dev/null/p").code
    assert not (coordinator.folder / "none.json").exists()


def verify(folder: Path, document: Any, *options: str) -> tuple[int, dict[str, Any]]:
    file = folder / "p.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    ran = call(folder, "passport", "verify", str(file), *options, "--json")
    return ran.code, json.loads(ran.out) if ran.out else json.loads(ran.err)


def test_every_option_of_the_verifier_counts(passes: Passes, tmp_path: Path) -> None:
    """Keys of log, witnesses and miners; wrong use ends with 2, other files with 7."""
    trusted = ("--trusted", COORDINATOR.key_id)
    code, told = verify(
        tmp_path,
        passes.retried,
        *trusted,
        *("--witness", WITNESS_KEY.text, "--miner-key", f"rig={MINER_KEYS['rig']}"),
        *("--result", '{"text": "0"}'),
    )
    assert (0, True, True) == (code, told["verified"], told["keys_trusted"])
    assert ["witnesses", "miner_keys", "result"] == [
        c["name"] for c in told["checks"] if c["name"] in ("witnesses", "miner_keys", "payload", "result")
    ]
    assert told["proven"]
    assert told["not_proven"]
    code, told = verify(tmp_path, passes.retried, "--any-key")
    assert (0, False) == (code, told["keys_trusted"])
    for options in (
        (),
        (*trusted, "--any-key"),
        ("--trusted", "x"),
        (*trusted, "--witness", LOG_KEY.text),
        (*trusted, "--witness", WITNESS_KEY.text, "--quorum", "2"),
        (*trusted, "--miner-key", "rig"),
        (*trusted, "--payload", "{"),
    ):
        code, told = verify(tmp_path, passes.retried, *options)
        assert (2, "USAGE") == (code, told["code"]), options
    for content in ("", "{}", "[1]"):
        code, told = verify(tmp_path, content, *trusted)
        assert (7, "PASSPORT") == (code, told["code"])


def test_spoilt_passports_end_with_seven(passes: Passes, tmp_path: Path) -> None:
    """Every spoilt passport of the list is refused, and nothing is called proven."""
    for name, spoilt in SPOILT.items():
        code, told = verify(tmp_path, passports.spoil(name, passes), "--trusted", COORDINATOR.key_id)
        red = {check["name"] for check in told["checks"] if not check["ok"]}
        assert (7, False, []) == (code, told["verified"], told["proven"]), name
        assert set(spoilt.red) <= red, name
