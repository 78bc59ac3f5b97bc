"""Commands that an edge process checks itself and hands to the core, over a real local socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.application.commands.parsing import parse_command
from coordinator.application.keys.keyring import Keyring
from coordinator.application.ports import Intent
from coordinator.domain.errors import Code
from coordinator.domain.job import JobComplete, JobSubmit
from coordinator.domain.messages import Principal, Role
from coordinator.edge.app import create_app
from coordinator.edge.middleware.rate_limits import RateLimits
from coordinator.edge.relay.answering import CoreSocket
from coordinator.edge.relay.asking import Asking
from coordinator.edge.relay.calling import Relay
from coordinator.edge.relay.frames import Kind, encode
from coordinator.edge.relay.local import LocalCommands
from coordinator.edge.relay.ports import LearnedKeys
from coordinator.edge.routes.mining.attempts import RESULT_EXAMPLE
from coordinator.edge.state.open_connections import ConnectionLimits, OpenConnections
from coordinator.runtime.edges.edge import context_of_commands
from coordinator.runtime.settings import load_settings
from coordinator.wire.answers import Accepted, Answer, Refused
from tests.harness.waiting import eventually
from tests.unit.edge_fakes import ALICE, JOB, RIG, FakeGateway, a_context, an_app
from tests.unit.test_keyring_made import a_key, secret_of

LIMIT = 20
SUBMIT = {"service": "checksum", "payload": {"text": "hé"}}
SUBMITTED = Accepted(7, {"job_id": str(JOB), "state": "QUEUED", "expires_at": 1_700_000_000_000})


class Arrays(FakeGateway):
    """Notes which commands came together."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays: list[int] = []
        self.answer = lambda intent: SUBMITTED

    async def handle(self, intents: Any) -> list[Answer]:
        self.arrays.append(len(intents))
        return await super().handle(intents)


class Pair:
    """The core with an application over fakes, and an edge process's application before it."""

    def __init__(self, gateway: Arrays, keyring: Keyring, limits: ConnectionLimits) -> None:
        self.gateway, self.keyring = gateway, keyring
        self.rates = RateLimits({"client": LIMIT, "miner": 0}, 3600)
        self.core_app = an_app(
            gateway=gateway, keyring=keyring, rates=self.rates, open_connections=OpenConnections(limits)
        )
        self.core: CoreSocket
        self.asking: Asking
        self.keys: LearnedKeys
        self.app: LocalCommands

    @property
    def statuses(self) -> dict[tuple[str, int], int]:
        """The answers that the core's own application gave."""
        counted: dict[tuple[str, int], int] = self.core_app.state.context.http_metrics.statuses
        return counted

    def client(self, key: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://edge", headers={"X-Api-Key": key}
        )


@contextlib.asynccontextmanager
async def a_pair(folder: Path, limits: ConnectionLimits | None = None) -> AsyncIterator[Pair]:
    settings = load_settings(
        _env_file=None,
        data_dir=folder,
        rate_limit_requests=LIMIT,
        client_api_keys=[ALICE],
        miner_api_keys=[RIG],
    )
    pair = Pair(Arrays(), settings.new_keyring(), limits or ConnectionLimits())
    address = folder / "core.sock"
    pair.core = CoreSocket(address, pair.core_app, pair.core_app.state.context)
    relay, pair.asking = Relay(address), Asking(address)
    keys = pair.keys = LearnedKeys(pair.asking)
    context = context_of_commands(settings, pair.asking, keys, ConnectionLimits())
    pair.app = LocalCommands(create_app(context), relay, pair.asking, keys)
    await pair.core.start()
    await pair.asking.start()
    await pair.asking.reached()
    try:
        yield pair
    finally:
        await pair.asking.stop()
        await relay.stop()
        await pair.core.stop()


async def test_commands_of_one_turn_cross_as_an_array(tmp_path: Path) -> None:
    """Commands that come together are decided together, as they were sent; the core answers no request."""
    async with a_pair(tmp_path) as pair, pair.client(ALICE) as alice:
        first = await alice.post("/v1/jobs", json=SUBMIT, headers={"Idempotency-Key": "one"})
        assert (201, str(JOB), "7") == (
            first.status_code,
            first.json()["job_id"],
            first.headers["X-Position"],
        )
        answers = await asyncio.gather(*(alice.post("/v1/jobs", json=SUBMIT) for _ in range(10)))
        assert {201} == {answer.status_code for answer in answers}
        assert 11 == sum(pair.gateway.arrays)
        assert max(pair.gateway.arrays) > 1
        expected = parse_command(JobSubmit.topic, {**SUBMIT, "ttl_seconds": 900, "idempotency_key": "one"})
        assert expected == pair.gateway.intents[0].command
        assert Principal("alice", Role.CLIENT) == pair.gateway.intents[0].principal
        assert {} == pair.statuses


async def test_results_cross_unchanged(tmp_path: Path) -> None:
    """A result arrives as its miner sent it, single and in an array; each element fails alone."""
    async with a_pair(tmp_path) as pair, pair.client(RIG) as rig:
        own = {"miner_id": "rig", "session_id": "session-1"}
        pair.gateway.answer = refuse_second
        answer = await rig.post("/v1/miners/results", json={**own, "results": 2 * [result()]})
        assert ["accepted", "refused"] == [each["status"] for each in answer.json()["answers"]]
        expected = parse_command(JobComplete.topic, {**own, **result()})
        assert 2 * [expected] == [intent.command for intent in pair.gateway.intents]


def refuse_second(intent: Intent, seen: list[Intent] = []) -> Answer:  # noqa: B006 - counts its calls
    seen.append(intent)
    if len(seen) == 2:
        return Refused(Code.STALE_ATTEMPT, "the second one", retry_after=1.5)
    return Accepted(9, {"job_id": str(JOB), "state": "COMPLETED", "attempt": 1})


def result() -> dict[str, Any]:
    return {"job_id": "0190163d-8694-739b-aea5-966c26f8ad91", **RESULT_EXAMPLE}


async def test_refusals_are_the_cores(tmp_path: Path) -> None:
    """A refusal has its code, its text and its seconds, as if the core had answered."""
    async with a_pair(tmp_path) as pair, pair.client(ALICE) as alice:
        pair.gateway.answer = lambda _: Refused(Code.QUEUE_FULL, "too many", retry_after=2.2)
        answer = await alice.post("/v1/jobs", json=SUBMIT)
        assert ("QUEUE_FULL", "too many") == (answer.json()["code"], answer.json()["detail"])
        assert "3" == answer.headers["Retry-After"]


async def test_what_is_not_a_command_goes_to_the_core(tmp_path: Path) -> None:
    """A report without its session, an unknown key and a wait for the end are answered by the core, once."""
    async with a_pair(tmp_path) as pair, pair.client(RIG) as rig, pair.client("rig:wrong-secret") as stranger:
        failed = {"attempt": 1, "error_code": "OUT_OF_MEMORY", "error_message": "x", "retryable": True}
        pair.gateway.answer = lambda _: Accepted(9, {"job_id": str(JOB), "state": "QUEUED", "attempt": 1})
        assert 200 == (await rig.post(f"/v1/miners/{JOB}/fail", json=failed)).status_code
        assert "session-1" == pair.gateway.intents[0].command.session_id  # type: ignore[attr-defined]
        assert 401 == (await stranger.post(f"/v1/miners/{JOB}/fail", json=failed)).status_code
        assert {("fail_attempt", 200): 1, ("fail_attempt", 401): 1} == pair.statuses


async def test_a_revoked_key_ends_at_once(tmp_path: Path) -> None:
    """The core checks a key with each command, whatever the edge process remembers of it."""
    async with a_pair(tmp_path) as pair:
        key = a_key()
        pair.keyring.put(key)
        async with pair.client(f"alice:{secret_of()}") as alice:
            assert 201 == (await alice.post("/v1/jobs", json=SUBMIT)).status_code
            pair.keyring.remove("alice", key.created.key_id)
            assert 401 == (await alice.post("/v1/jobs", json=SUBMIT)).status_code
            pair.keyring.put(key)
            assert 201 == (await alice.post("/v1/jobs", json=SUBMIT)).status_code
        assert 2 == len(pair.gateway.intents)


async def test_the_budget_is_one(tmp_path: Path) -> None:
    """Requests that the edge process answers and requests that the core answers spend the same budget."""
    async with a_pair(tmp_path) as pair, pair.client(ALICE) as alice:
        left = []
        for n in range(LIMIT):
            answer = await (alice.post("/v1/jobs", json=SUBMIT) if n % 2 else alice.get("/v1/jobs/x"))
            left.append(int(answer.headers["RateLimit-Remaining"]))
        assert list(reversed(range(LIMIT))) == left
        assert 429 == (await alice.post("/v1/jobs", json=SUBMIT)).status_code
        assert LIMIT // 2 == len(pair.gateway.intents)


async def test_a_request_that_moves_to_the_core_is_counted_once(tmp_path: Path) -> None:
    """An edge process that begins a request and hands it on has spent its budget already."""
    async with a_pair(tmp_path) as pair, pair.client(ALICE) as alice:
        answer = await alice.post(f"/v1/miners/{JOB}/fail", json={})
        assert (403, str(LIMIT - 1)) == (answer.status_code, answer.headers["RateLimit-Remaining"])
        pair.keyring.valid = lambda name: ()  # type: ignore[method-assign]
        answer = await alice.post("/v1/jobs", json=SUBMIT)
        assert str(LIMIT - 2) == answer.headers["RateLimit-Remaining"]


async def test_the_commands_of_a_key_under_way_are_bounded(tmp_path: Path) -> None:
    """The core bounds the commands of a key that it decides at a time, and gives each place back."""
    async with a_pair(tmp_path, ConnectionLimits(per_key=2)) as pair, pair.client(RIG) as rig:
        pair.gateway.hold = asyncio.Event()
        body = {"attempt": 1, "session_id": "session-1"}
        pair.gateway.answer = lambda _: Accepted(9, {"job_id": str(JOB), "state": "QUEUED", "attempt": 1})
        asked = [asyncio.create_task(rig.post(f"/v1/miners/{JOB}/release", json=body)) for _ in range(3)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert [429] == [task.result().status_code for task in done]
        pair.gateway.hold.set()
        assert [200, 200, 429] == sorted(answer.status_code for answer in await asyncio.gather(*asked))
        assert 200 == (await rig.post(f"/v1/miners/{JOB}/release", json=body)).status_code


async def test_without_its_core(tmp_path: Path) -> None:
    """A command whose core ends before the answer is refused with 503; with a new core the next one works."""
    async with a_pair(tmp_path) as pair, pair.client(RIG) as rig:
        pair.gateway.hold = asyncio.Event()
        body = {"attempt": 1, "session_id": "session-1"}
        pair.gateway.answer = lambda _: Accepted(9, {"job_id": str(JOB), "state": "QUEUED", "attempt": 1})
        asked = asyncio.create_task(rig.post(f"/v1/miners/{JOB}/release", json=body))
        await pair.gateway.asked.wait()
        stopping = asyncio.create_task(pair.core.stop())
        assert (503, "1") == ((await asked).status_code, (await asked).headers["Retry-After"])
        assert 503 == (await rig.post(f"/v1/miners/{JOB}/release", json=body)).status_code
        pair.gateway.hold.set()
        await stopping
        assert {} == pair.keys.learned  # the next core may have other settings
        await pair.core.start()
        await eventually(lambda: pair.asking.connected, "connected again")
        assert 200 == (await rig.post(f"/v1/miners/{JOB}/release", json=body)).status_code


@pytest.mark.parametrize(
    "question",
    [
        {},
        [[1]],
        [[1, "key"]],
        [[1, "key", 2]],
        [[1, "eval", "1"]],
        [[1, "send", ["alice", "emperor", None, 0], []]],
        [[1, "send", ["alice", "client", "no id", 0], []]],
        [[1, "send", [["alice"], "client", None, 0], []]],
    ],
)
async def test_hostile_questions_end_their_own_connection(tmp_path: Path, question: Any) -> None:
    """A question that is none cuts its connection; nothing is decided, and others are answered."""
    async with a_pair(tmp_path) as pair, pair.client(ALICE) as alice:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "core.sock"))
        writer.write(encode(Kind.HELLO) + encode(Kind.ASK, question))
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert b"" == await reader.read()
        writer.close()
        assert [] == pair.gateway.intents
        assert 201 == (await alice.post("/v1/jobs", json=SUBMIT)).status_code


def test_counts_are_added_once() -> None:
    """What an edge process has counted is added to the core's counters, and taken from its own."""
    edge, core = a_context().http_metrics, a_context().http_metrics
    for metrics in (edge, edge, core):
        metrics.count({}, 200, 0.003)
    core.add(edge.take())
    assert {("none", 200): 3} == core.statuses
    durations = core.durations["none"]
    assert 3 == sum(durations.counts)
    assert pytest.approx(0.009) == durations.seconds
    assert [] == edge.take()
