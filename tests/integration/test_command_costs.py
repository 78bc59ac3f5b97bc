"""The cost of one command: cheap checks come first, nothing holds the event loop, refusals leave nothing."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, cast
from uuid import UUID

import pytest

from coordinator.application.commands.handlers.jobs import bodies, statements
from coordinator.application.commands.handlers.jobs import handler as jobs
from coordinator.application.commands.handlers.miners import MinerCommands, MinerPeriods
from coordinator.application.commands.parsing import parse_command
from coordinator.application.ports import Intent
from coordinator.application.quotas.quotas import Quotas
from coordinator.blobs.port import BlobInfo
from coordinator.broker.envelope import ReceivedMessage, read_commands
from coordinator.crypto.canonical import canonical_json
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.offer_tokens import OfferTokens
from coordinator.crypto.receipt import verify_receipt
from coordinator.crypto.statement import Statement, sign_statement
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import Completed, JobCancel, Queued, Running
from coordinator.domain.matching.needs import profile_of
from coordinator.domain.messages import SYSTEM, Principal, Role
from coordinator.domain.miner import MinerRegister
from coordinator.domain.quota import Limits
from coordinator.domain.service import ServiceRegister, ServiceRevise
from coordinator.runtime.process.garbage_collection import collecting_rarely
from coordinator.wire.answers import Accepted, Answer, Refused
from coordinator.wire.limits import MAX_BODY_BYTES, MAX_CONTAINERS, MAX_VALUES
from tests.harness.bus import ALICE, KEY_SEED, Bench, WatchedLog, codes
from tests.harness.deciding import a_spec, capabilities

UNLIMITED = Quotas(Limits(), time.monotonic)

RIG = Principal("rig", Role.MINER)
ADMIN = Principal("root", Role.ADMIN)
KEY = SigningKey(bytes(range(32)))
SALT = "ab" * 16
_numbers = itertools.count()
MAX_HOLD_SECONDS = 0.030
"""20 ms, and half as much again, on a core that does nothing else; see `slowness`."""
NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {"type": "number"}}, "text": {"type": "string"}},
    "additionalProperties": False,
}


ABLE = capabilities(services=("whisper", "numbers"))


class Blobs:
    """A blob store in memory."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.puts = 0

    async def put(
        self, stream: AsyncIterator[bytes], *, expected_sha256: str | None, max_bytes: int
    ) -> BlobInfo:
        content = b"".join([piece async for piece in stream])
        self.puts += 1
        name = hashlib.sha256(content).hexdigest()
        self.stored[name] = content
        return BlobInfo(name, len(content))

    async def get(self, sha256: str) -> AsyncIterator[bytes]:
        yield self.stored[sha256]


class Stand(NamedTuple):
    bench: Bench
    blobs: Blobs

    async def handle(self, topic: str, by: Principal, *bodies: bytes) -> list[Answer]:
        """As an edge does it: from bytes to answers."""
        message = ReceivedMessage(
            kind=topic,
            message_id="",
            correlation_id="",
            reply_to="",
            principal=by.name,
            signature="",
            issued_at=None,
            traceparent=None,
            routing_key=topic,
            user_id="",
            forwarded=False,
            deliveries=0,
            body=b"[" + b",".join(bodies) + b"]",
        )
        try:
            batch = await read_commands(message, by)
        except Refusal as refusal:
            return [Refused(refusal.code, refusal.detail)]
        return batch.answers(await self.bench.gateway.handle(batch.items))

    async def submit(self, payload: Any, key: str | None = None, **fields: Any) -> Answer:
        key = key or f"key-{next(_numbers)}"
        command = {"service": "whisper", "payload": payload, "idempotency_key": key, **fields}
        [answer] = await self.handle("job.submit", ALICE, json.dumps(command).encode())
        return answer

    async def start(self, job_id: str, attempt: int = 1) -> None:
        [answer] = await self.handle("job.start", RIG, json.dumps(held(job_id, attempt)).encode())
        assert isinstance(answer, Accepted), answer

    async def running(self, payload: Any, **fields: Any) -> str:
        submitted = await self.submit(payload, **fields)
        assert isinstance(submitted, Accepted), submitted
        await self.start(submitted.body["job_id"])
        return str(submitted.body["job_id"])

    async def complete(self, job_id: str, result: Any, attempt: int = 1, **statement: Any) -> Answer:
        state = await self.bench.bus.state(UUID(job_id))
        body = {
            **held(job_id, attempt),
            "result": result,
            "result_salt": SALT,
            "statement": {} if state is None else proof(state.job, attempt, result, **statement),
        }
        [answer] = await self.handle("job.complete", RIG, json.dumps(body).encode())
        return answer


def held(job_id: str, attempt: int) -> dict[str, Any]:
    """The members of a command about an attempt, with the token of its offer."""
    token = OfferTokens(SigningKey(KEY_SEED)).token(job_id, attempt, profile_of(ABLE, "rig"))
    names = {"job_id": job_id, "attempt": attempt, "miner_id": "rig", "session_id": "session-1"}
    return {**names, "token": token}


def proof(job: Any, attempt: int, result: Any, **changes: Any) -> dict[str, Any]:
    body = canonical_json(result)
    fields: dict[str, Any] = {
        "job_id": str(job.job_id),
        "attempt": attempt,
        "miner_id": "rig",
        "session_id": "session-1",
        "service": job.service,
        "payload_digest": job.payload_digest,
        "result_digest": hashlib.sha256(bytes.fromhex(SALT) + body).hexdigest(),
        "started_at_ms": job.at,
        "completed_at_ms": job.at,
        **changes,
    }
    return sign_statement(KEY, Statement(**fields))


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    """A service that takes anything (whisper), one that takes numbers (numbers), and a miner with both."""
    blobs = Blobs()
    bench = Bench(
        WatchedLog(), more=[MinerCommands(cast("Any", None), MinerPeriods(1, 30), UNLIMITED)], blobs=blobs
    )
    await bench.bus.start()
    strict = a_spec(id="numbers", name="Numbers", input_schema=NUMBERS, output_schema=NUMBERS)
    await bench.send(ServiceRegister(spec=a_spec()), ServiceRegister(spec=strict), by=SYSTEM)
    register = MinerRegister(
        miner_id="rig", session_id="session-1", capabilities=ABLE, concurrency=8, public_key=KEY.key_id
    )
    await bench.send(register, by=RIG)
    yield Stand(bench, blobs)
    await bench.bus.stop()


# --- the event loop -----------------------------------------------------------------------------------------
def _full(unit: str, most: int = MAX_VALUES - 8) -> str:
    count = min(most, (MAX_BODY_BYTES - 300) // (len(unit) + 1))
    return "[" + ",".join([unit] * count) + "]"


HOSTILE: dict[str, str] = {
    "whole floats": _full("1.0"),
    "floats in full": _full("0.12345678901234567"),
    "small floats": _full("1.5e-5"),
    "large floats": _full("1e17"),
    "as many floats as bytes": _full("1.0", MAX_BODY_BYTES),
    "empty arrays": _full("[]", MAX_CONTAINERS - 8),
    "empty arrays, too many": _full("[]", MAX_BODY_BYTES),
    "empty objects": _full("{}", MAX_CONTAINERS - 8),
    "escapes": json.dumps("\n" * 500_000),
    "escaped Unicode": '"' + "\\u00e9" * 170_000 + '"',
    "quotes": json.dumps('"' * 500_000),
    "brackets in a text": json.dumps("[{," * 300_000),
    "keys": "{" + ",".join(f'"{n}":1' for n in range(MAX_VALUES - 8)) + "}",
    "keys beyond the BMP": "{" + ",".join(f'"\U00010000{n}":1' for n in range(MAX_VALUES - 8)) + "}",
    "deep": _full("[" * 27 + "]" * 27, MAX_CONTAINERS // 27 - 1),
    "too deep": "[" * 30_000 + "]" * 30_000,
    "long integers": _full("9" * 18),
    "an integer of a megabyte": "9" * 1_000_000,
    "texts": _full('""'),
    "references": _full('"blob:' + "0" * 64 + '"'),
}
COMMANDS: dict[str, Callable[[str], tuple[str, Principal, str]]] = {
    "a submit": lambda document: (
        "job.submit",
        ALICE,
        f'{{"service":"whisper","idempotency_key":"hostile","payload":{{"a":{document}}}}}',
    ),
    "a submit against its schema": lambda document: (
        "job.submit",
        ALICE,
        f'{{"service":"numbers","idempotency_key":"k","payload":{{"b":1,"a":{document}}}}}',
    ),
    "a submit to no service": lambda document: (
        "job.submit",
        ALICE,
        f'{{"service":"none","idempotency_key":"k","payload":{{"a":{document}}}}}',
    ),
    "constraints": lambda document: (
        "job.submit",
        ALICE,
        f'{{"service":"whisper","idempotency_key":"k","payload":{{}},"constraints":{{"models":{document}}}}}',
    ),
    "a result of no job": lambda document: (
        "job.complete",
        RIG,
        (
            '{"job_id":"00000000-0000-4000-8000-000000000000","attempt":1,"miner_id":"rig",'
            f'"session_id":"session-1","result_salt":"{SALT}","statement":{{}},"result":{{"a":{document}}}}}'
        ),
    ),
    "a statement": lambda document: (
        "job.complete",
        RIG,
        (
            '{"job_id":"00000000-0000-4000-8000-000000000000","attempt":1,"miner_id":"rig",'
            f'"session_id":"session-1","result_salt":"{SALT}","result":{{}},"statement":{{"a":{document}}}}}'
        ),
    ),
    "metrics": lambda document: (
        "job.fail",
        RIG,
        (
            '{"job_id":"00000000-0000-4000-8000-000000000000","attempt":1,"miner_id":"rig",'
            f'"session_id":"session-1","error_code":"OUT_OF_MEMORY","metrics":{document}}}'
        ),
    ),
    "capabilities": lambda document: (
        "miner.register",
        RIG,
        f'{{"miner_id":"rig","session_id":"session-2","capabilities":{{"gpus":{document}}}}}',
    ),
    "unknown fields": lambda document: ("job.cancel", ALICE, document),
    "a registry entry": lambda document: (
        "service.register",
        ADMIN,
        f'{{"spec":{{"id":"hostile","input_schema":{{"enum":{document}}},"tags":{document[:500_000]}}}}}',
    ),
}


async def longest_hold(work: Callable[[], Any]) -> float:
    """The longest time that other tasks waited for their turn, in CPU seconds of this process.

    Not by the clock, because other processes may run in between.
    """
    longest, over = 0.0, False

    async def tick() -> None:
        nonlocal longest
        while not over:
            before = time.process_time()
            await asyncio.sleep(0.0005)
            longest = max(longest, time.process_time() - before)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    try:
        await work()
        await asyncio.sleep(0)
    finally:
        over = True
        await ticking
    return longest


def _some_work() -> float:
    before = time.process_time()
    json.loads(SOME_WORK)
    return time.process_time() - before


SOME_WORK = json.dumps([{"a": [1.5, "x" * 20]}] * 2000)
FASTEST = min(_some_work() for _ in range(100))


def slowness() -> float:
    """How many times as long as at its fastest this machine takes for the same work, just now.

    Where other processes share the core and its caches, the same work takes more CPU seconds.
    """
    return max(1.0, sum(_some_work() for _ in range(10)) / 10 / FASTEST)


@pytest.mark.parametrize("name", COMMANDS)
async def test_nothing_of_one_command_holds_the_event_loop(stand: Stand, name: str) -> None:
    """Other tasks get their turn within 20 ms of work, and the command gets an answer."""
    held: dict[str, float] = {}
    gc.collect()
    gc.freeze()  # the collector's walks through the test program are no cost of the command
    with collecting_rarely():
        for what, document in HOSTILE.items():
            topic, by, body = COMMANDS[name](document)
            if len(body) > MAX_BODY_BYTES:
                continue
            answers: list[Answer] = []

            async def work(
                topic: str = topic, by: Principal = by, body: str = body, answers: list[Answer] = answers
            ) -> None:
                answers += await stand.handle(topic, by, body.encode())

            held[what] = await longest_hold(work)
            for _ in range(4):  # a hold by the command itself is there each time
                if held[what] > MAX_HOLD_SECONDS:
                    held[what] = min(held[what], await longest_hold(work) / slowness())
            assert Code.INTERNAL.value not in codes(answers), what
    gc.unfreeze()
    assert {} == {what: round(seconds, 4) for what, seconds in held.items() if seconds > MAX_HOLD_SECONDS}


async def test_nothing_of_five_hundred_commands_holds_the_event_loop(stand: Stand) -> None:
    """An array of submits that are refused for all of their fields, and one of results of no job."""
    fields = ",".join(f'"x{n}":1' for n in range(90))
    result = (
        '{"job_id":"00000000-0000-4000-8000-000000000000","attempt":1,"miner_id":"rig","session_id":"session-1",'
        f'"result_salt":"{SALT}","statement":{{}},"result":{{"a":[{",".join(["1.0"] * 80)}]}}}}'
    )
    loads = stand.bench.log.loads
    for topic, by, element in (("job.cancel", ALICE, f"{{{fields}}}"), ("job.complete", RIG, result)):
        answers: list[Answer] = []

        async def work(
            topic: str = topic, by: Principal = by, element: str = element, answers: list[Answer] = answers
        ) -> None:
            answers += await stand.handle(topic, by, *[element.encode()] * 500)

        with collecting_rarely():
            seconds = min([await longest_hold(work) / slowness() for _ in range(3)])
        assert seconds < MAX_HOLD_SECONDS, topic
        assert {"INVALID_PAYLOAD" if by is ALICE else "JOB_NOT_FOUND": 1500} == Counter(codes(answers))
    # One query in memory's place and one fresh one, for all of an array.
    assert stand.bench.log.loads - loads <= 2 * 3


# --- the order of the checks --------------------------------------------------------------------------------
LARGE = {"text": "x" * 70_000}


@pytest.fixture
def costly(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The costly steps that are taken."""
    taken: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            taken.append(name)
            return function(*arguments)

        return step

    monkeypatch.setattr(bodies, "_canonical", watched("canonical", bodies._canonical))
    monkeypatch.setattr(jobs, "verify_statement", watched("verify", statements.verify_statement))
    return taken


async def test_a_refused_submit_costs_no_digest_and_leaves_no_blob(stand: Stand, costly: list[str]) -> None:
    """Service and schema are looked at first; a large payload reaches the blob store once it is accepted."""
    assert Code.SERVICE_NOT_FOUND == code(await stand.submit(LARGE, service="none"))
    assert Code.INVALID_PAYLOAD == code(await stand.submit({**LARGE, "b": 1}, service="numbers"))
    assert ([], 0) == (costly, stand.blobs.puts)
    stand.bench.unowned.add(("blob:" + "0" * 64, "alice"))
    foreign = {**LARGE, "file": "blob:" + "0" * 64}
    assert Code.BLOB_NOT_FOUND == code(await stand.submit(foreign))
    assert 0 == stand.blobs.puts
    assert isinstance(await stand.submit(LARGE), Accepted)
    assert 1 == stand.blobs.puts


async def test_a_repeated_large_submit_leaves_no_second_blob(stand: Stand) -> None:
    """A repeat gets the first answer, even if its payload breaks the schema by now; a mismatch is refused."""
    first = await stand.submit(LARGE, "key")
    assert isinstance(first, Accepted)
    assert first == await stand.submit(LARGE, "key")
    assert Code.IDEMPOTENCY_MISMATCH == code(await stand.submit({"text": "y" * 70_000}, "key"))
    await stand.bench.send(ServiceRevise(spec=a_spec(input_schema={"maxProperties": 0})), by=ADMIN)
    assert first == await stand.submit(LARGE, "key")
    assert Code.INVALID_PAYLOAD == code(await stand.submit(LARGE, "another"))
    assert 1 == stand.blobs.puts


async def test_a_result_that_comes_too_late_costs_no_digest_and_leaves_no_blob(
    stand: Stand, costly: list[str]
) -> None:
    """Job, sender, lease and attempt are compared first."""
    job_id = await stand.running({})
    costly.clear()
    assert Code.JOB_NOT_FOUND == code(await stand.complete("00000000-0000-4000-8000-000000000000", LARGE))
    assert Code.STALE_ATTEMPT == code(await stand.complete(job_id, LARGE, attempt=2))
    body = {
        **held(job_id, 1),
        "session_id": "session-2",
        "result": LARGE,
        "result_salt": SALT,
        "statement": {},
    }
    [foreign] = await stand.handle("job.complete", RIG, json.dumps(body).encode())
    assert Code.STALE_ATTEMPT == code(foreign)
    [not_mine] = await stand.handle("job.complete", Principal("other", Role.MINER), json.dumps(body).encode())
    assert Code.FORBIDDEN == code(not_mine)
    assert ([], 0) == (costly, stand.blobs.puts)
    unproven = await stand.complete(job_id, LARGE, result_digest="0" * 64)
    assert (Code.INVALID_STATEMENT, 0) == (code(unproven), stand.blobs.puts)
    first = await stand.complete(job_id, LARGE)
    assert isinstance(first, Accepted)
    assert (first, 1) == (await stand.complete(job_id, LARGE), stand.blobs.puts)
    [canceled] = await stand.handle("job.cancel", ALICE, json.dumps({"job_id": job_id}).encode())
    assert Code.CONFLICT_STATE == code(canceled)


async def test_a_refusal_by_states_in_memory_is_decided_by_fresh_ones(stand: Stand) -> None:
    """Another process made the entry and the lease: memory does not know them yet."""
    other = Bench(stand.bench.log, more=[MinerCommands(cast("Any", None), MinerPeriods(1, 30), UNLIMITED)])
    await other.bus.start()
    job_id = await stand.running({})
    [answer] = await other.gateway.handle(
        [Intent(parse_command("job.fail", {**held(job_id, 1), "error_code": "LATE"}), RIG)]
    )
    assert isinstance(answer, Accepted)
    [answer] = await other.gateway.handle([Intent(parse_command("job.start", held(job_id, 2)), RIG)])
    assert isinstance(answer, Accepted)
    assert isinstance(await stand.complete(job_id, {"text": "hi"}, attempt=2), Accepted)
    assert Code.SERVICE_NOT_FOUND == code(await stand.submit({}, service="new"))
    await other.send(ServiceRegister(spec=a_spec(id="new", name="New")), by=SYSTEM)
    assert isinstance(await stand.submit({}, service="new"), Accepted)
    await other.bus.stop()


# --- results ------------------------------------------------------------------------------------------------
async def test_a_result_that_breaks_the_schema_costs_the_attempt(stand: Stand, costly: list[str]) -> None:
    """The miner gets INVALID_RESULT, a repeat gets it again, nothing is paid, and the job is queued anew."""
    job_id = await stand.running({"a": [1]}, service="numbers", max_attempts=2)
    costly.clear()
    refused = await stand.complete(job_id, {"a": ["secret"]})
    assert (
        Refused(
            Code.INVALID_RESULT,
            "numbers: a/0 does not fit the schema's type: number expected, string found; "
            "the attempt has failed",
        )
        == refused
    )
    assert refused == await stand.complete(job_id, {"a": ["secret"]})
    assert [] == costly
    state = await stand.bench.bus.state(UUID(job_id))
    assert isinstance(state, Queued)
    assert (2, 1, "failed") == (state.attempt, state.charged, state.ended[0].outcome)
    # The claim left out, and the last attempt: started, ended and failed in one decision.
    assert Code.INVALID_RESULT == code(await stand.complete(job_id, {"b": 1}, attempt=2))
    events = [recorded.event for recorded in stand.bench.log.load([UUID(job_id)])[UUID(job_id)]]
    ended = ["job.started.v1", "job.attempt_ended.v1"]
    assert ["job.submitted.v1", *ended, "job.requeued.v1", *ended, "job.failed.v1"] == [
        e.topic for e in events
    ]
    assert ["INVALID_RESULT"] * 3 == [e.error_code for e in events if hasattr(e, "error_code")]


async def test_a_stored_result_was_accepted(stand: Stand) -> None:
    """Readers of the stored results need no state beside them: no other result has a row."""
    breaking = await stand.running({"a": [1]}, service="numbers", max_attempts=1)
    assert Code.INVALID_RESULT == code(await stand.complete(breaking, {"a": ["no number"]}))
    late = await stand.running({})
    await stand.bench.send(JobCancel(job_id=UUID(late)), by=ALICE)
    assert isinstance(await stand.complete(late, {}), Refused)
    accepted = await stand.running({})
    assert isinstance(await stand.complete(accepted, {}), Accepted)
    jobs = [UUID(job_id) for job_id in (breaking, late, accepted)]
    assert {UUID(accepted)} == stand.bench.log.payloads("result", jobs).keys()


async def test_a_result_is_checked_by_the_version_that_the_job_was_submitted_under(stand: Stand) -> None:
    """Revisions of the entry, before and after a restart, change nothing for jobs that wait."""
    first = await stand.running({}, service="whisper")
    strict = a_spec(output_schema={"required": ["text"]})
    await stand.bench.send(ServiceRevise(spec=strict), by=ADMIN)
    second = await stand.running({}, service="whisper")
    third = await stand.running({}, service="whisper")
    await stand.bench.send(ServiceRevise(spec=a_spec(output_schema={"required": ["words"]})), by=ADMIN)
    assert isinstance(await stand.complete(first, {}), Accepted)
    assert isinstance(await stand.complete(second, {"text": "hi"}), Accepted)
    assert Code.INVALID_RESULT == code(await stand.complete(third, {"words": []}))
    assert isinstance(await stand.bench.bus.state(UUID(second)), Completed)


# --- prices -------------------------------------------------------------------------------------------------
async def test_units_end_at_the_limit_of_the_registry_entry(stand: Stand) -> None:
    """The receipt bills the limit, which the job has from its payload, and says what was measured."""
    limit = {"fixed": "0.5", "each": [{"member": "files", "default": 0, "units": "1"}]}
    await stand.bench.send(ServiceRevise(spec=a_spec(max_units=limit)), by=ADMIN)
    job_id = await stand.running({"files": ["a"]})
    state = await stand.bench.bus.state(UUID(job_id))
    assert isinstance(state, Running)
    assert "1.500" == state.job.max_units
    stand.bench.clock.millis += 12_000
    answer = await stand.complete(job_id, {}, completed_at_ms=state.job.at + 12_000)
    assert isinstance(answer, Accepted)
    receipt = answer.body["promise"]
    assert ("1.500", "0.003000") == (receipt["units"], receipt["price"])
    assert "12.000" == receipt["metadata"]["measured_units"]
    assert verify_receipt(receipt, [SigningKey(bytes(32)).key_id]).is_promise


async def test_a_repeat_gets_the_same_promise(stand: Stand) -> None:
    """Also from a process that has forgotten the job: whoever missed an answer loses nothing."""
    job_id = await stand.running({"files": ["a"]})
    first = await stand.complete(job_id, {})
    stand.bench.bus.cache.drop([UUID(job_id)])
    again = await stand.complete(job_id, {})
    assert isinstance(first, Accepted)
    assert isinstance(again, Accepted)
    assert first.body == again.body
    assert first.position == again.position


async def test_results_of_one_message_share_their_promises_signature(stand: Stand) -> None:
    """Each promise is its own job's, and verifies alone; refusals among them are answered in their places."""
    jobs = [await stand.running({"files": [str(n)]}) for n in range(3)]
    bodies = []
    for number, job_id in enumerate(jobs):
        state = await stand.bench.bus.state(UUID(job_id))
        result = {"n": number}
        statement = proof(state.job, 1, result, **({"session_id": "session-9"} if number == 1 else {}))
        given = {"result": result, "result_salt": SALT, "statement": statement}
        bodies.append({**held(job_id, 1), **given})
    answers = await stand.handle("job.complete", RIG, *[json.dumps(body).encode() for body in bodies])
    assert Code.INVALID_STATEMENT == code(answers[1])
    promises = [answer.body["promise"] for answer in (answers[0], answers[2]) if isinstance(answer, Accepted)]
    assert [jobs[0], jobs[2]] == [promise["job_id"] for promise in promises]
    assert 1 == len({promise["signature"]["sig"] for promise in promises})
    for promise in promises:
        assert verify_receipt(promise, [SigningKey(bytes(32)).key_id]).is_promise


def code(answer: Answer) -> Code:
    assert isinstance(answer, Refused), answer
    return answer.code
