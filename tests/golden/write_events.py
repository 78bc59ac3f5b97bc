"""Writes the golden log of this version: at least one event of every topic, in streams that fold.

    python tests/golden/write_events.py tests/golden/events-0.1.jsonl

A released version's file is never written again; it has to be readable for ever (`test_mapping.py`). When the
events change, change this script and write a file for the next version.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from coordinator.domain.account import (
    PAYMENTS_STREAM,
    AccountCarried,
    AccountDismissed,
    AccountDisputed,
    AccountHeld,
    AccountPayoutAddressSet,
    AccountPosted,
    AccountReleased,
    Kept,
    Payment,
    PaymentBilled,
    PaymentDismissed,
    PaymentDisputed,
    PaymentLapsed,
    PaymentRefunded,
    PaymentsSettled,
    TransferMade,
    Unpaid,
    account_stream,
    payment_stream,
    transfer_stream,
)
from coordinator.domain.alarm import AlarmRaised, alarm_stream
from coordinator.domain.content import ContentErased, content_stream
from coordinator.domain.decision import fold
from coordinator.domain.job import (
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    job_stream,
)
from coordinator.domain.key import KeyCreated, KeyRevoked, KeyRotated, key_stream
from coordinator.domain.matching.needs import Capabilities, Constraints, Gpu
from coordinator.domain.messages import Event, Metadata
from coordinator.domain.miner import MinerDrained, MinerLeft, MinerLost, MinerRegistered, miner_stream
from coordinator.domain.name import NameClaimed, NameReleased, name_stream
from coordinator.domain.quota import OwnLimits, QuotaWasSet, quota_stream
from coordinator.domain.service import (
    Pricing,
    Requirements,
    ServiceRegistered,
    ServiceRetired,
    ServiceRevised,
    ServiceSpec,
    service_stream,
)
from coordinator.domain.settlement import (
    Payout,
    SettlementClosed,
    SettlementConfirmed,
    SettlementPrepared,
    SettlementRefused,
    SettlementReverted,
    SettlementSubmitted,
    settlement_stream,
)
from coordinator.domain.signing_key import SIGNING_KEYS, SigningKeyIntroduced
from coordinator.domain.standing import StandingQuarantined, StandingReleased, standing_stream
from coordinator.domain.webhook import (
    CallbacksRotated,
    WebhookChanged,
    WebhookCreated,
    WebhookDisabled,
    WebhookRemoved,
    WebhookReplayed,
    WebhookRotated,
    WebhookTested,
    callbacks_stream,
)
from coordinator.storage.log.mapping import encode

NOON = 1_780_000_000_000
KEY = "A" * 43
SPEC = ServiceSpec(
    id="whisper",
    name="Whisper",
    category="ai_ml",
    description="Speech to text: Käse, 音声, “quotes”.",
    input_schema={"type": "object", "properties": {"audio": {"type": "string"}}, "required": ["audio"]},
    output_schema={"type": "object"},
    requirements=Requirements(minimum=Constraints(gpu="any", min_vram_gb=4)),
    pricing=Pricing(unit="second", amount="0.25"),
    capabilities=("transcribe",),
    tags=("speech",),
    aliases=("speech_to_text",),
)


def a_job(key: str) -> tuple[UUID, dict[str, object]]:
    job_id = job_stream("alice", key)
    return job_id, {"by": "alice", "client": "alice", "job_id": job_id}


def submitted(common: dict[str, object]) -> JobSubmitted:
    return JobSubmitted(
        **common,
        at=NOON,
        service="whisper",
        service_version=1,
        constraints=Constraints(
            gpu="nvidia", cuda="12.4", min_vram_gb=8, models=("large-v3",), region="eu-west", max_price="0.5"
        ),
        job_class="whisper-0123456789abcdef0123",
        priority=5,
        max_attempts=2,
        payload_digest="ab" * 32,
        fingerprint="cd" * 32,
        payload_bytes=2048,
        timeout_seconds=3600,
        list_price="0.25",
        max_units="3600.000",
        expires_at=NOON + 900_000,
    )


def started(common: dict[str, object], attempt: int) -> JobStarted:
    return JobStarted(
        **common | {"by": "rig"},
        at=NOON + 1_000 * attempt,
        attempt=attempt,
        miner_id="node1@rig",
        session_id=f"session-{attempt}",
        miner_key=KEY,
        unit_price="0.25",
    )


def ended(common: dict[str, object], attempt: int, outcome: str) -> JobAttemptEnded:
    return JobAttemptEnded(
        **common | {"by": "rig"},
        at=NOON + 1_000 * attempt + 500,
        attempt=attempt,
        miner_id="node1@rig",
        session_id=f"session-{attempt}",
        outcome=outcome,
        error_code="OUT_OF_MEMORY",
        error_message='line one\nline "two" \\ 🎛',
        metrics={"gpu_seconds": 12, "note": "0.5"},
    )


def streams() -> list[tuple[UUID, list[Event]]]:
    job, its = a_job("completed")
    completed = JobCompleted(
        **its | {"by": "rig"},
        at=NOON + 9_000,
        attempt=2,
        miner_id="node1@rig",
        session_id="session-2",
        result_digest="ef" * 32,
        result_bytes=512,
        metrics={},
        units="11.000",
        price="2.750000",
        measured_units="12.000",
        started_at=NOON + 2_000,
        completed_at=NOON + 13_000,
        statement={
            "started_at_ms": NOON + 1_000,
            "completed_at_ms": NOON + 13_000,
            "signature": {
                "alg": "Ed25519",
                "key_id": KEY,
                "sig": "B" * 86,
                "tree": {"index": 1, "size": 2, "path": ["ab" * 32]},
            },
        },
    )
    requeued = JobRequeued(**its, at=NOON + 1_600, attempt=2)
    first: list[Event] = [submitted(its), started(its, 1), ended(its, 1, "lost"), requeued]
    all_streams: list[tuple[UUID, list[Event]]] = [(job, [*first, started(its, 2), completed])]

    job, its = a_job("failed")
    failed = JobFailed(
        **its, at=NOON + 2_000, attempt=1, error_code="OUT_OF_MEMORY", error_message="no memory left"
    )
    all_streams.append((job, [submitted(its), started(its, 1), ended(its, 1, "failed"), failed]))
    job, its = a_job("canceled")
    canceled = JobCanceled(**its, at=NOON + 2_000, attempt=1, reason="changed my mind")
    all_streams.append((job, [submitted(its), canceled]))
    job, its = a_job("expired")
    all_streams.append((job, [submitted(its), JobExpired(**its, at=NOON + 900_000, attempt=1)]))

    for miner, last in (("node1@rig", MinerLeft), ("node2@rig", MinerLost)):
        common = {"by": "rig", "miner_id": miner, "session_id": "session-1"}
        registered = MinerRegistered(
            **common,
            at=NOON,
            capabilities=Capabilities(
                services=("whisper",),
                gpus=(Gpu(name="NVIDIA GeForce RTX 4090", memory_mb=24_564),),
                cuda="12.4",
                models=("large-v3",),
                region="eu-west",
                price="0.25",
            ),
            profile="0123456789abcdef0123",
            concurrency=2,
            public_key=KEY,
        )
        reason = {"reason": "silent for 30 s"} if last is MinerLost else {}
        drained = MinerDrained(**common, at=NOON + 1)
        all_streams.append(
            (miner_stream(miner), [registered, drained, last(**common, at=NOON + 2, **reason)])
        )

    by = {"by": "coordinator"}
    revised = ServiceRevised(**by, at=NOON + 1, spec=SPEC, version=2)
    retired = ServiceRetired(**by, at=NOON + 2, service="whisper")
    registered_service = ServiceRegistered(**by, at=NOON, spec=SPEC)
    all_streams.append((service_stream("whisper"), [registered_service, revised, retired]))

    key_id = key_stream("root", "laptop")
    about: dict[str, Any] = {"by": "root", "key_id": key_id, "name": "alice"}
    created = KeyCreated(
        **about,
        at=NOON,
        role="client",
        label="Alice’s laptop",
        expires_at=NOON + 90 * 86_400_000,
        signed=True,
        salt="0f" * 16,
        digest="ab" * 32,
    )
    rotated = KeyRotated(
        **about, at=NOON + 1, generation=2, salt="1e" * 16, digest="cd" * 32, old_until=NOON + 60_001
    )
    revoked = KeyRevoked(**about, at=NOON + 2, reason="lost")
    all_streams.append((key_id, [created, rotated, revoked]))
    name = {"name": "speech_to_text", "service": "whisper"}
    named: list[Event] = [NameClaimed(**by, **name, at=NOON), NameReleased(**by, **name, at=NOON + 1)]
    all_streams.append((name_stream("speech_to_text"), named))
    own = OwnLimits(queued_jobs=500, stored_bytes="unlimited", max_priority=5)
    was_set = QuotaWasSet(by="root", at=NOON, name="alice", limits=own, reason="a trial")
    all_streams.append((quota_stream("alice"), [was_set]))
    keys: list[Event] = [
        SigningKeyIntroduced(**by, at=NOON, key_id=KEY, retires=None),
        SigningKeyIntroduced(**by, at=NOON + 1, key_id="B" * 43, retires=KEY),
    ]
    all_streams.append((SIGNING_KEYS, keys))
    erased = ContentErased(
        by="root",
        at=NOON,
        jobs=(UUID(int=1), UUID(int=2)),
        kinds=("payload", "result"),
        client="alice",
        reason="asked to be “forgotten”",
    )
    all_streams.append((content_stream(erased.jobs, erased.kinds), [erased]))
    hook: dict[str, Any] = {"by": "alice", "webhook_id": UUID(int=7), "owner": "alice"}
    where: dict[str, Any] = {"host": "hooks.example.org", "sealed_url": f"k1.{KEY}.AAAA", "label": "Küche"}
    hooked: list[Event] = [
        WebhookCreated(**hook, **where, at=NOON, role="client", events=("job.completed", "job.failed")),
        WebhookChanged(**hook, **where, at=NOON + 1, events=("job.expired",), enabled=True),
        WebhookRotated(**hook, at=NOON + 2, generation=2, old_until=NOON + 86_400_002),
        WebhookTested(**hook, at=NOON + 3),
        WebhookReplayed(**hook, at=NOON + 4, deliveries=(f"msg_{'0' * 32}",), since=None),
        WebhookDisabled(**hook, at=NOON + 5, reason="the receiver answered 410 Gone"),
        WebhookRemoved(**hook, at=NOON + 6),
    ]
    all_streams.append((UUID(int=7), hooked))
    called: dict[str, Any] = {**hook, "webhook_id": callbacks_stream("alice")}
    callbacks: list[Event] = [
        WebhookReplayed(**called, at=NOON, deliveries=None, since=NOON),
        CallbacksRotated(**called, at=NOON + 1, generation=2, old_until=NOON + 1),
    ]
    all_streams.append((callbacks_stream("alice"), callbacks))
    raised = AlarmRaised(
        by="root", at=NOON, type="audit.diverged", subject="price", fault_position=41, detail="“3” for “2”"
    )
    all_streams.append((alarm_stream("audit.diverged", "price", 41), [raised]))
    about = {"principal": "rig", "service": "whisper"}
    standing: list[Event] = [
        StandingQuarantined(**by, **about, at=NOON, reason="3 bad outcomes of late", probes=True),
        StandingReleased(**by, **about, at=NOON + 1, reason="completed a probe job"),
    ]
    all_streams.append((standing_stream("rig", "whisper"), standing))
    all_streams += _money()
    return all_streams


def _money() -> list[tuple[UUID, list[Event]]]:
    """A deposit, a hold of two jobs, their settlement, a dispute and a refund; a hold that returned; and two
    jobs that were cancelled at work, of which one is paid by its miner's partial statement."""
    job_id, later = UUID(int=1), NOON + 60_000
    by: dict[str, Any] = {"by": "root"}
    alice: dict[str, Any] = {"party": "alice", "disputed": 0}
    paid: dict[str, Any] = {"posting": "payments/1", "kind": "payment"}
    back: dict[str, Any] = {
        "posting": f"refund/{job_id}",
        "kind": "refund",
        "job_id": job_id,
        "attempt": 1,
        "units": "0.400",
        "unit_type": "gpu_seconds",
        "reason": "silent",
    }
    partial: dict[str, Any] = {
        "posting": f"partial/{UUID(int=4)}",
        "kind": "payment",
        "job_id": UUID(int=4),
        "attempt": 1,
        "units": "0.200",
        "unit_type": "gpu_seconds",
    }
    into: dict[str, Any] = {"posting": "deposit/alice/invoice-17", "kind": "deposit", "amount": 500}
    returned: dict[str, Any] = {"jobs": 1, "amount": 200}
    client: list[Event] = [
        AccountPosted(**by, **alice, **into, at=NOON, balance=500, held=0),
        AccountHeld(**by, **alice, at=NOON, balance=500, held=400, jobs=2, amount=400),
        AccountPosted(**by, **alice, **paid, at=NOON, balance=400, held=0, amount=-100, released=400),
        AccountHeld(**by, **alice, **returned, at=NOON, balance=400, held=200),
        AccountReleased(**by, **alice, **returned, at=NOON, balance=400, held=0),
        AccountPosted(**by, **alice, **back, at=NOON, balance=500, held=0, amount=100),
        AccountHeld(**by, **alice, at=NOON, balance=500, held=400, jobs=2, amount=400),
        AccountPosted(**by, **alice, **partial, at=NOON, balance=450, held=200, amount=-50, released=200),
        AccountReleased(**by, **alice, **returned, at=later, balance=450, held=0),
    ]
    rig: dict[str, Any] = {"party": "rig", "held": 0, "at": NOON}
    frozen: dict[str, Any] = {"job_id": job_id, "amount": 98, "available_at": later}
    whole: dict[str, Any] = {"pending": ((later, 98),), "earned": 98, "payout_sink": "", "payout_address": ""}
    miner: list[Event] = [
        AccountPosted(**by, **rig, **paid, balance=98, disputed=0, amount=98, available_at=later),
        AccountDisputed(**by, **rig, **frozen, balance=98, disputed=98),
        AccountDismissed(**by, **rig, **frozen, balance=98, disputed=0),
        AccountPosted(**by, **rig, **back, balance=0, disputed=0, amount=-98, available_at=later),
        AccountPayoutAddressSet(by="rig", **rig, balance=0, disputed=0, sink="file", address="account-17"),
        AccountPosted(**by, **rig, **partial, balance=49, disputed=0, amount=49, available_at=later),
    ]
    payment = Payment(
        job_id=job_id,
        client="alice",
        miner="rig",
        attempt=1,
        hold=200,
        amount=100,
        fee=2,
        units="0.400",
        unit_type="gpu_seconds",
    )
    costless = [Unpaid(job_id=UUID(int=number), client="alice", hold=200) for number in (2, 3)]
    settled: list[Event] = [
        PaymentsSettled(
            **by,
            at=NOON,
            number=1,
            after=0,
            until=17,
            available_at=later,
            payments=(payment,),
            unpaid=(costless[0],),
        ),
        PaymentsSettled(
            **by,
            at=NOON,
            number=2,
            after=17,
            until=23,
            available_at=later,
            payments=(),
            unpaid=(costless[1],),
        ),
        PaymentsSettled(
            **by,
            at=NOON,
            number=3,
            after=23,
            until=31,
            available_at=later,
            payments=(),
            unpaid=(),
            kept=tuple(
                Kept(job_id=UUID(int=number), client="alice", miner="rig", attempt=1, hold=200)
                for number in (4, 5)
            ),
            kept_until=later,
        ),
    ]
    about: dict[str, Any] = {
        "by": "root",
        "at": NOON,
        "job_id": job_id,
        "client": "alice",
        "miner": "rig",
        "amount": 100,
        "credit": 98,
        "available_at": later,
    }
    contested: list[Event] = [
        PaymentDisputed(**about, reason="silent"),
        PaymentDismissed(**about, reason="it is not"),
        PaymentRefunded(**about, disputed=False, reason="it was"),
    ]
    said = {
        "version": "1 partial",
        "job_id": str(UUID(int=4)),
        "attempt": 1,
        "miner_id": "rig",
        "session_id": "session-1",
        "service": "echo",
        "payload_digest": "0" * 64,
        "started_at_ms": NOON - 200,
        "stopped_at_ms": NOON,
        "signature": {"alg": "ed25519", "key_id": "k" * 43, "sig": "s" * 86},
    }
    cancelled = {**about, "job_id": UUID(int=4), "amount": 50, "credit": 49, "hold": 200}
    work: dict[str, Any] = {"attempt": 1, "units": "0.200", "unit_type": "gpu_seconds", "fee": 1}
    billed = PaymentBilled(**cancelled, **work, statement=said)
    lapsed = PaymentLapsed(**{**cancelled, "job_id": UUID(int=5), "at": later, "amount": 0, "credit": 0})
    made = TransferMade(
        **by, at=NOON, party="alice", business_id="invoice-17", kind="deposit", amount=500, reason="paid"
    )
    node: dict[str, Any] = {"party": "node", "held": 0, "at": NOON, "balance": 98, "disputed": 0}
    carried = AccountCarried(**by, **node, **whole, number=512)
    return [
        (account_stream("alice"), client),
        (account_stream("rig"), miner),
        (PAYMENTS_STREAM, settled),
        (payment_stream(job_id), contested),
        (payment_stream(billed.job_id), [billed]),
        (payment_stream(lapsed.job_id), [lapsed]),
        (transfer_stream("alice", "invoice-17"), [made]),
        *_settlement(),
        (account_stream("node"), [carried]),
    ]


def _settlement() -> list[tuple[UUID, list[Event]]]:
    """A batch of two parts: one is lost by the sink, sent again and confirmed, the other one refused."""
    about: dict[str, Any] = {"by": "coordinator", "at": NOON, "number": 1}
    payouts = (
        Payout(party="rig", address="account-17", amount=98),
        Payout(party="farm", address="", amount=2),
    )
    span: dict[str, Any] = {"after": 0, "until": 40, "receipts": 3, "receipts_root": "a" * 64}
    closed = SettlementClosed(
        **about, **span, sink="file", payouts=payouts, total=100, previous="0" * 64, digest="b" * 64
    )
    sent: dict[str, Any] = {"count": 1, "body": "e30="}
    first, second = "c" * 64, "d" * 64
    batch: list[Event] = [
        closed,
        SettlementPrepared(**about, **sent, part=0, nonce=7, hash=first, payout_root="e" * 64),
        SettlementSubmitted(**about, part=0, hash=first),
        SettlementReverted(**about, part=0),
        SettlementSubmitted(**about, part=0, hash=first),
        SettlementConfirmed(**about, part=0, hash=first, confirmations=12),
        SettlementPrepared(**about, **sent, part=1, nonce=None, hash=second),
        SettlementRefused(**about, part=1, reason="the account is closed"),
    ]
    return [(settlement_stream(1), batch)]


def metadata_of(number: int) -> Metadata:
    """Of the number-th event: with a message's own id in every other one, else with one made for it."""
    command = f"message-{number}:0" if number % 2 else str(UUID(int=number))
    return Metadata(command, f"00-{number + 1:032x}-{number + 1:016x}-{number % 2:02x}")


def main(path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        number = 0
        for stream, events in streams():
            for version, event in enumerate(events, start=1):
                topic, state = encode(event)
                line = {
                    "stream": str(stream),
                    "version": version,
                    "topic": topic,
                    "state": state.decode(),
                    "metadata": metadata_of(number).to_json().decode(),
                    "then": type(fold(events[:version])).__name__,
                }
                number += 1
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
