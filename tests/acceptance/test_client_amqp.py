"""The client SDK with its commands over RabbitMQ and its reads over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.client import (
    AsyncCoordinator,
    Conflict,
    CoordinatorError,
    NotAuthorised,
    NotFound,
    RequestRefused,
    Unreachable,
)
from coordinator.dev.servers.processes import free_port
from tests.harness.stage import ALICE, Stage


async def test_commands_over_amqp(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """Submits and cancels take effect and are refused as over HTTP, and reads show them at once."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        stage.coordinator()
        await stage.ready()
        async with stage.client(amqp_url=amqp_url) as client:
            # 1. What was submitted is shown by the next read, and cancelled by the next command.
            job = await client.submit("checksum", {"text": "x"}, idempotency_key="one", priority=3)
            assert "QUEUED" == (await job.view()).state
            again = await client.submit("checksum", {"text": "x"}, idempotency_key="one", priority=3)
            assert job.job_id == again.job_id
            assert "CANCELED" == (await job.cancel("no longer needed")).state
            assert "CANCELED" == (await job.view()).state
            # 2. Many at once are all there, in order.
            jobs = await client.submit_many("checksum", [{"text": f"{n}"} for n in range(1200)])
            listed = {view.job_id async for view in client.jobs(state="QUEUED")}
            assert {job.job_id for job in jobs} == listed
            # 3. Refusals are the same exceptions with the same codes.
            with pytest.raises(NotFound) as unknown:
                await client.submit("no_such_service", {})
            with pytest.raises(NotFound) as elsewhere:
                await client.job("00000000-0000-4000-8000-000000000000").cancel()
            with pytest.raises(Conflict) as mismatch:
                await client.submit("checksum", {"text": "y"}, idempotency_key="one")
            with pytest.raises(CoordinatorError) as unsent:
                await client.submit("checksum", {"text": float("nan")})
            codes = [raised.value.code for raised in (unknown, elsewhere, mismatch, unsent)]
            assert ["SERVICE_NOT_FOUND", "JOB_NOT_FOUND", "IDEMPOTENCY_MISMATCH", "INVALID_ARGUMENT"] == codes
            # 4. A job that is not to wait is refused with the reason; its repeat, which was accepted, is not.
            with pytest.raises(RequestRefused) as unmatched:
                await client.submit("checksum", {"text": "x"}, when_unmatched="refuse")
            assert ("NO_ELIGIBLE_MINER", "no miner is online") == (
                unmatched.value.code,
                unmatched.value.detail,
            )
            same = await client.submit(
                "checksum", {"text": "x"}, idempotency_key="one", priority=3, when_unmatched="refuse"
            )
            assert job.job_id == same.job_id
        async with stage.client("alice:wrong", amqp_url=amqp_url) as stranger:
            with pytest.raises(NotAuthorised):
                await stranger.submit("checksum", {"text": "x"})


async def test_a_broker_that_is_not_there() -> None:
    """Without a broker a command is Unreachable after the timeout, and the client closes."""
    url = f"amqp://127.0.0.1:{free_port()}"
    async with AsyncCoordinator("http://127.0.0.1:1", ALICE, amqp_url=url, timeout=0.5) as client:
        with pytest.raises(Unreachable):
            await client.submit("checksum", {"text": "x"})


def test_commands_over_amqp_need_a_key() -> None:
    """Messages are signed: without a key, and with a url that is none, nothing is begun."""
    for key, url in ((None, "amqp://127.0.0.1"), ("no-secret", "amqp://127.0.0.1"), (ALICE, "amqp://h:port")):
        with pytest.raises(CoordinatorError, match="INVALID_ARGUMENT"):
            AsyncCoordinator("http://127.0.0.1:1", key, amqp_url=url)
