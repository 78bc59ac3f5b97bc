"""Receipts are made from the events of a job: always the same bytes, signed with the key of their time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

import pytest
from pydantic_core import to_json

from coordinator.application.health import Health
from coordinator.application.ports import Recorded
from coordinator.application.receipts import receipts as room
from coordinator.application.receipts.contents import promise_content
from coordinator.application.receipts.receipts import Receipts
from coordinator.application.receipts.signing_keys import KeyPeriod, SigningKeys, key_at, key_periods
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.receipt import sign_promises, verify_receipt
from coordinator.crypto.statement import sign_statements
from coordinator.domain.decision import Context, fold
from coordinator.domain.job import Completed, JobCompleted
from coordinator.domain.messages import SYSTEM, Event
from coordinator.domain.signing_key import (
    SIGNING_KEYS,
    InForce,
    SigningKeyIntroduce,
    SigningKeyIntroduced,
    decide,
)
from coordinator.runtime.signing import other_keys
from coordinator.storage.log.mapping import decode, encode
from tests.harness.cases import every
from tests.harness.deciding import (
    JOB_ID,
    PAYLOAD_DIGEST,
    RESULT_DIGEST,
    SECOND,
    SESSION,
    T0,
    completed,
    started,
    submitted,
)
from tests.harness.metadata import METADATA

OLD, NEW, ATTESTER = (SigningKey(bytes([n]) * 32) for n in (1, 2, 3))
MINER = SigningKey(bytes([9]) * 32)
JOB_AT = 12
"""The position of the completion."""
STATEMENT = {
    "version": "1",
    "job_id": str(JOB_ID),
    "attempt": 1,
    "miner_id": "rig",
    "session_id": SESSION,
    "service": "whisper",
    "payload_digest": PAYLOAD_DIGEST,
    "result_digest": RESULT_DIGEST,
    "started_at_ms": T0 + SECOND,
    "completed_at_ms": T0 + 2 * SECOND,
}


def a_completion() -> JobCompleted:
    """With a statement that shares its signature with another one."""
    signed, _ = sign_statements(MINER, [STATEMENT, {**STATEMENT, "attempt": 2}])
    part = {name: signed[name] for name in ("started_at_ms", "completed_at_ms", "signature")}
    return completed().model_copy(update={"statement": part})


class Log:
    """A log with one job, and these keys introduced at these positions."""

    def __init__(self, introduced: dict[int, SigningKey], last: Event | None = None) -> None:
        job: list[Event] = [submitted(), started(), last or a_completion()]
        keys = [
            introduction(key, at, retires)
            for (at, key), retires in zip(introduced.items(), (None, *introduced.values()), strict=False)
        ]
        self.streams = {JOB_ID: recorded(job, JOB_ID, JOB_AT - len(job) + 1), SIGNING_KEYS: keys}
        self.loads = 0

    def load(self, streams: Sequence[UUID]) -> dict[UUID, list[Recorded]]:
        self.loads += 1
        return {stream: self.streams[stream] for stream in streams if self.streams.get(stream)}


def introduction(key: SigningKey, at: int, retires: SigningKey | None) -> Recorded:
    event = SigningKeyIntroduced(
        at=T0, by="coordinator", key_id=key.key_id, retires=retires and retires.key_id
    )
    return Recorded(at, SIGNING_KEYS, 1, event, b"", METADATA.to_json(), str(SIGNING_KEYS))


def recorded(events: Sequence[Event], stream: UUID, first: int) -> list[Recorded]:
    """As the log gives them back: encoded and decoded."""
    return [
        Recorded(first + n, stream, n + 1, decode(*encode(event)), b"", METADATA.to_json(), str(stream))
        for n, event in enumerate(events)
    ]


def receipts(log: Log, keys: SigningKeys, attests: SigningKey | None = None, **more: Any) -> Receipts:
    return Receipts(cast("Any", log), keys, attests, **more)


async def test_the_same_events_give_the_same_bytes() -> None:
    """Twice, from memory, from another process, and from one that knows more keys."""
    log = Log({1: OLD})
    one, other = receipts(log, SigningKeys(OLD)), receipts(log, SigningKeys(OLD, [NEW]))
    first = await one.of(JOB_ID)
    assert first is not None
    for again in (await one.of(JOB_ID), await receipts(log, SigningKeys(OLD)).of(JOB_ID)):
        assert to_json(first) == to_json(again)
    assert to_json(first) == to_json(await other.of(JOB_ID))
    verified = verify_receipt(first, [OLD.key_id], {"rig": MINER.key_id})
    assert (str(JOB_ID), False, ()) == (verified.job_id, verified.is_promise, verified.attestations)
    assert STATEMENT == {name: first["metadata"]["statement"][name] for name in STATEMENT}


async def test_there_is_none_before_the_job_is_completed() -> None:
    """Nor for an unknown job, nor for the stream of the keys."""
    log = Log({1: OLD}, last=started())
    log.streams[JOB_ID] = log.streams[JOB_ID][:2]
    made = receipts(log, SigningKeys(OLD))
    assert [None] * 3 == [await made.of(job) for job in (JOB_ID, UUID(int=7), SIGNING_KEYS)]


@every(
    ("introduced", "held", "signer", "recorded_under"),
    [
        ({1: OLD}, SigningKeys(OLD), OLD, None),
        ({1: OLD, JOB_AT + 1: NEW}, SigningKeys(NEW, [OLD]), OLD, None),
        ({1: OLD, JOB_AT - 1: NEW}, SigningKeys(NEW, [OLD]), NEW, None),
        ({1: OLD, JOB_AT + 1: NEW}, SigningKeys(NEW), NEW, OLD),
        ({1: OLD, 2: NEW, 5: OLD, JOB_AT + 9: NEW}, SigningKeys(NEW, [OLD]), OLD, None),
        ({JOB_AT + 1: NEW}, SigningKeys(NEW), NEW, None),
    ],
)
async def test_the_key_of_its_time_signs(
    introduced: dict[int, SigningKey],
    held: SigningKeys,
    signer: SigningKey,
    recorded_under: SigningKey | None,
) -> None:
    """A rotation changes no receipt; where the old private key is gone, the receipt says so, and verifies."""
    receipt = await receipts(Log(introduced), held).of(JOB_ID)
    assert receipt is not None
    assert signer.key_id == verify_receipt(receipt, [signer.key_id], {"rig": MINER.key_id}).key_id
    assert (recorded_under and recorded_under.key_id) == receipt["metadata"].get("recorded_under")


async def test_an_attestation_key_attests_every_receipt() -> None:
    """Over the same receipt: without the setting, only the attestation is missing."""
    log = Log({1: OLD})
    plain = await receipts(log, SigningKeys(OLD)).of(JOB_ID)
    made = receipts(log, SigningKeys(OLD), ATTESTER)
    attested = await made.of(JOB_ID)
    assert plain is not None
    assert attested is not None
    assert ATTESTER.key_id == made.attestation_key_id
    assert {**attested, "attestations": []} == plain
    [attestation] = verify_receipt(attested, [OLD.key_id]).attestations
    assert (ATTESTER.key_id, True) == (attestation.key_id, attestation.covers_signature)


async def test_a_promise_says_what_the_receipt_says() -> None:
    """All of it but the miner's statement."""
    log = Log({1: OLD})
    state = fold(entry.event for entry in log.streams[JOB_ID])
    assert isinstance(state, Completed)
    [promise] = sign_promises(OLD, [promise_content(state)])
    receipt = await receipts(log, SigningKeys(OLD)).of(JOB_ID)
    assert receipt is not None
    del receipt["metadata"]["statement"], receipt["signature"], receipt["attestations"], promise["signature"]
    assert receipt == promise


async def test_receipts_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept one costs no query; the least recently used one goes first."""
    monkeypatch.setattr(room, "MAX_KEPT", 2)
    log = Log({1: OLD})
    jobs = [JOB_ID, UUID(int=1), UUID(int=2)]
    for job in jobs:
        log.streams[job] = log.streams[JOB_ID]
    made = receipts(log, SigningKeys(OLD))
    for job in (jobs[0], jobs[1], jobs[0], jobs[2], jobs[0]):
        await made.of(job)
    assert 3 == log.loads
    await made.of(jobs[1])
    assert 4 == log.loads


async def test_the_keys_are_read_once_in_a_while() -> None:
    """Anybody may ask for them, so a flood of questions must not become a flood of queries."""
    log, now = Log({1: OLD, 7: NEW}), [0.0]
    made = receipts(log, SigningKeys(NEW), monotonic=lambda: now[0])
    periods = [KeyPeriod(OLD.key_id, 1, 7), KeyPeriod(NEW.key_id, 7, None)]
    assert [periods] * 3 == [await made.key_periods() for _ in range(3)]
    assert 1 == log.loads
    now[0] += room.PERIODS_SECONDS
    await made.key_periods()
    assert 2 == log.loads


def test_a_period_begins_after_the_introduction_and_ends_with_the_next() -> None:
    """The positions of the introductions themselves belong to the key before."""
    periods = key_periods(Log({3: OLD, 5: NEW}).streams[SIGNING_KEYS])
    assert [None, OLD.key_id, OLD.key_id, NEW.key_id] == [key_at(periods, at) for at in (3, 4, 5, 6)]
    assert [] == key_periods([])


def test_a_key_is_introduced_once() -> None:
    """The key in force gives no event; another one retires it."""
    same = SigningKeyIntroduce(key_id=OLD.key_id)
    context = Context(T0, SYSTEM)
    [(stream, first)] = decide(None, same, context)
    assert isinstance(first, SigningKeyIntroduced)
    assert (SIGNING_KEYS, OLD.key_id, None) == (stream, first.key_id, first.retires)
    assert [] == decide(InForce(OLD.key_id), same, context)
    [(_, second)] = decide(InForce(OLD.key_id), SigningKeyIntroduce(key_id=NEW.key_id), context)
    assert isinstance(second, SigningKeyIntroduced)
    assert (NEW.key_id, OLD.key_id) == (second.key_id, second.retires)


def test_another_process_with_another_key_is_a_warning() -> None:
    """Until this process's key is in force again; other events mean nothing."""
    health = Health(lambda: 0.0)
    part = health.part("signing_key", essential=False)
    note = other_keys(OLD.key_id, part)
    note([introduction(NEW, 5, OLD), *Log({}).streams[JOB_ID]])
    assert part.problem is not None
    assert "RECEIPT_SIGNING_KEY_HEX" in part.problem
    assert [] == list(health.reasons())
    note([introduction(OLD, 6, NEW)])
    assert part.ok


def test_no_secret_shows() -> None:
    """Neither in the text of the keys nor in that of the receipts' maker."""
    keys = SigningKeys(OLD, [NEW])
    shown = f"{keys!r} {receipts(Log({}), keys, ATTESTER)!r} {keys.current!r}"
    assert all(bytes([n]).hex() * 4 not in shown for n in (1, 2, 3))
