"""What one attempt does with its executor, and what it reports; and what a miner finds out about itself."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from coordinator.crypto.canonical import salted_digest
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.statement import verify_statement
from coordinator.domain.job import JobComplete, JobFail
from coordinator.domain.matching.needs import Gpu
from coordinator.miner.attempt import OVERHEAD_BYTES, Attempt, Stopped
from coordinator.miner.config import (
    BadConfig,
    Hardware,
    MinerConfig,
    new_session_id,
)
from coordinator.miner.executors import ExecutorError, Outcome, OutputFile, Work
from coordinator.miner.executors.limits import Share, whole_machine
from coordinator.miner.signing import StatementSigner
from coordinator.wire.limits import MAX_BODY_BYTES
from coordinator.wire.offers import Offer
from tests.harness.cases import every

JOB = "0191b0a2-0000-7000-8000-000000000001"
SALT = bytes(range(16))
KEY = SigningKey.generate()


class NoBlobs:
    """Holds one payload."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content

    async def download(self, ref: str, to: Path, *, max_bytes: int) -> None:
        await asyncio.to_thread(to.write_bytes, self.content)

    async def upload(self, path: Path, *, media_type: str) -> OutputFile:
        raise AssertionError("not asked for")


class Runs:
    """An executor made of one function."""

    services = ("work",)

    def __init__(self, run: Any) -> None:
        self._run = run
        self.folder: Path | None = None

    async def check(self) -> str | None:
        return None

    async def run(self, work: Work) -> Outcome:
        outcome = await self._run(work)
        assert isinstance(outcome, Outcome)
        return outcome


def make(run: Any, *, payload: Any = None, timeout: float = 30.0, **options: Any) -> Attempt:
    payload = payload if payload is not None else {"text": "é"}
    offer = Offer(
        job_id=UUID(JOB),
        attempt=3,
        service="work",
        payload=options.pop("inline_payload", payload),
        payload_blob=options.pop("blob", None),
        payload_salt=SALT.hex(),
        payload_digest=salted_digest(SALT, payload),
        timeout_seconds=1,
        expires_at=0,
    )
    # Not checked: time limits of tests are fractions of the whole seconds in an offer.
    offer = offer.model_copy(update={"timeout_seconds": timeout})
    blobs = options.pop("blobs", NoBlobs())
    return Attempt(
        offer,
        Runs(run),
        miner_id="node@alice",
        session_id="session-1",
        signer=StatementSigner(KEY),
        blobs=blobs,
        **options,
    )


async def give(work: Work) -> Outcome:
    return Outcome({"given": dict(work.payload)}, {"frames": 2})


async def test_work_gets_its_share_of_the_machine() -> None:
    """The executor learns how much memory, disk and processors its job may use."""
    share = Share(memory_bytes=1, disk_bytes=2, processors=3)
    seen = []

    async def look(work: Work) -> Outcome:
        seen.append(work.share)
        return Outcome({})

    await make(look, share=share).run(inline=False)
    await make(look).run(inline=False)
    assert [share, whole_machine()] == seen


@every("inline", [True, False])
async def test_result_is_signed_and_complete(inline: bool) -> None:
    """The report is a valid `job.complete` whose statement verifies and proves payload and result."""
    report = await make(give).run(inline=inline)
    assert report
    kind, fields = report
    assert kind == "job.complete"
    command = JobComplete.model_validate(json.loads(json.dumps(fields)))
    verify_statement(command.statement, KEY.key_id)
    assert command.statement["result_digest"] == salted_digest(
        bytes.fromhex(command.result_salt), command.result
    )
    assert command.statement["payload_digest"] == salted_digest(SALT, {"text": "é"})
    assert command.statement["session_id"] == command.session_id == "session-1"
    assert command.statement["started_at_ms"] <= command.statement["completed_at_ms"]
    assert command.metrics == {"frames": 2}


async def _refuse(_: Work) -> Outcome:
    raise ExecutorError("UNSUPPORTED", "no such codec\0\ud800", retryable=False)


async def _odd_code(_: Work) -> Outcome:
    raise ExecutorError("not a code", "x" * 5000, retryable=True)


async def _break(_: Work) -> Outcome:
    raise OSError("/home/of/this/machine")


async def _times_out_by_itself(_: Work) -> Outcome:
    raise TimeoutError


async def _cancels_itself(_: Work) -> Outcome:
    raise asyncio.CancelledError


async def _never_ends(_: Work) -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError


async def _large(_: Work) -> Outcome:
    return Outcome({"text": "x" * (MAX_BODY_BYTES - OVERHEAD_BYTES)})


async def _not_json(_: Work) -> Outcome:
    return Outcome({"when": object()})


async def _not_a_number(_: Work) -> Outcome:
    return Outcome({"loss": float("nan")})


@pytest.mark.parametrize("inline", [True, False])
@every(
    ("run", "code", "retryable"),
    [
        (_refuse, "UNSUPPORTED", False),
        (_odd_code, "EXECUTOR_FAILED", True),
        (_break, "EXECUTOR_FAILED", True),
        (_times_out_by_itself, "EXECUTOR_FAILED", True),
        (_cancels_itself, "EXECUTOR_FAILED", True),
        (_never_ends, "EXECUTOR_TIMEOUT", True),
        (_large, "RESULT_TOO_LARGE", False),
        (_not_json, "INVALID_RESULT", False),
        (_not_a_number, "INVALID_RESULT", False),
    ],
)
async def test_failures_are_reported(run: Any, code: str, retryable: bool, inline: bool) -> None:
    """Whatever an executor does becomes a valid `job.fail` that shows nothing of this machine."""
    attempt = make(run, timeout=0.05 if run is _never_ends else 30.0)
    task = asyncio.create_task(attempt.run(inline=inline))
    await asyncio.sleep(0)
    attempt.expire(time.monotonic() + 1.0)
    report = await task
    assert report
    assert task.cancelling() == 0
    kind, fields = report
    assert kind == "job.fail"
    command = JobFail.model_validate(json.loads(json.dumps(fields)))
    assert (command.error_code, command.retryable) == (code, retryable)
    assert "/home" not in command.error_message
    command.error_message.encode()


@pytest.mark.parametrize("tampered", [{"text": "e"}, {"text": "é", "more": None}, {"text": "\ud800"}])
async def test_other_payload_than_the_clients_is_not_run(tampered: dict[str, Any]) -> None:
    """A payload that does not have the digest fails the attempt, retryably, before anything runs."""
    report = await make(_break, inline_payload=tampered).run(inline=True)
    assert report
    assert (report[1]["error_code"], report[1]["retryable"]) == ("INVALID_PAYLOAD", True)


@pytest.mark.parametrize(("content", "kind"), [(b'{"n": 1}', "job.complete"), (b"{", "job.fail")])
async def test_large_payload_comes_from_its_blob(content: bytes, kind: str) -> None:
    """Where the offer names a blob, that is the payload; it has to match the digest too."""
    attempt = make(
        give, payload={"n": 1}, inline_payload=None, blob="blob:" + "0" * 64, blobs=NoBlobs(content)
    )
    report = await attempt.run(inline=False)
    assert report
    assert report[0] == kind


@pytest.mark.parametrize("reason", [Stopped.CANCELED, Stopped.SESSION_LOST, Stopped.HANDED_BACK])
async def test_stop_kills_the_executor_and_reports_nothing(reason: Stopped, tmp_path: Path) -> None:
    """A stopped attempt ends its executor, leaves no folder behind, and has nothing to report."""
    started = asyncio.Event()

    async def run(work: Work) -> Outcome:
        (work.folder / "partial").touch()
        started.set()
        return await _never_ends(work)

    attempt = make(run, folder=tmp_path)
    task = asyncio.create_task(attempt.run(inline=False))
    await started.wait()
    assert len(os.listdir(tmp_path)) == 1
    attempt.stop(reason)
    assert await task is None
    assert attempt.stopped is reason
    assert os.listdir(tmp_path) == []


async def test_stop_before_the_run_starts_nothing() -> None:
    """A cancel that overtakes the answer to the claim keeps the executor from starting."""
    attempt = make(_break)
    attempt.stop(Stopped.CANCELED)
    assert await attempt.run(inline=False) is None


async def test_stop_does_not_take_back_a_result() -> None:
    """Once there is something to report, a stop changes nothing: it may still count."""
    attempt = make(give)
    assert await attempt.run(inline=False)
    attempt.stop(Stopped.CANCELED)
    assert attempt.stopped is None


async def test_small_work_makes_no_folder(tmp_path: Path) -> None:
    """The temporary folder is made when it is asked for, and removed after the run."""
    made = []

    async def run(work: Work) -> Outcome:
        if work.payload["text"] == "é":
            made.append(work.folder)
            assert await asyncio.to_thread(work.folder.is_dir)
        return Outcome({})

    await make(run, folder=tmp_path).run(inline=True)
    await make(give, folder=tmp_path / "is-not-there").run(inline=True)
    assert [path.parent for path in made] == [tmp_path]
    assert os.listdir(tmp_path) == []


async def test_progress_is_kept_within_bounds() -> None:
    """The latest progress is kept, as a fraction."""

    async def run(work: Work) -> Outcome:
        work.progress(0.5, "half")
        assert attempt.progress.fraction == 0.5
        work.progress(7.0, "done")
        return Outcome({})

    attempt = make(run)
    await attempt.run(inline=True)
    assert attempt.progress.fraction == 1.0


# --- configuration -----------------------------------------------------------------------------------------
def test_miner_id_names_the_node() -> None:
    """A miner is its principal, or a node of it; its secrets are not in its repr."""
    assert MinerConfig("alice:secret").miner_id == "alice"
    config = MinerConfig("alice:s3cr3t", node="rack-1", amqp_url="amqp://u:p4ss@host/")
    assert (config.miner_id, config.principal) == ("rack-1@alice", "alice")
    assert "s3cr3t" not in repr(config)
    assert "p4ss" not in repr(config)


@pytest.mark.parametrize(
    "options",
    [{"key": "alice"}, {"key": ":x"}, {"node": "a@b"}, {"concurrency": 0}, {"grace_seconds": -1.0}],
)
def test_bad_config_is_refused(options: dict[str, Any]) -> None:
    """A value that can't work is refused with one line."""
    with pytest.raises(BadConfig):
        MinerConfig(**{"key": "alice:secret", **options})


def test_capabilities_are_checked_before_they_are_sent() -> None:
    """Capabilities hold what is configured and detected; a bad price is a BadConfig."""
    hardware = Hardware((Gpu(name="NVIDIA A100", memory_mb=40960),), "12.4")
    config = MinerConfig("alice:secret", region="eu", price="0.25", models=("llama-7b",))
    capabilities = config.capabilities(["checksum"], hardware)
    assert capabilities.model_dump(exclude_none=True) == {
        "services": ("checksum",),
        "gpus": ({"name": "NVIDIA A100", "memory_mb": 40960},),
        "cuda": "12.4",
        "models": ("llama-7b",),
        "region": "eu",
        "price": "0.25",
        "prices": (),
    }
    with pytest.raises(BadConfig):
        MinerConfig("alice:secret", price="cheap").capabilities(["checksum"], hardware)


def test_session_ids_are_new() -> None:
    """Every session has its own id."""
    assert new_session_id() != new_session_id()
