"""The auditor of settlement: a history as the rules write it is clean, and each change of it is found."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from coordinator.audit.entries import Found
from coordinator.audit.money import Money
from coordinator.crypto.settlement import batch_digest, payment_leaf, payments_root
from coordinator.domain import account, settlement
from coordinator.domain.account import OUTSIDE, PAYMENTS_STREAM, SETTLEMENT, EndedJob, Terms, account_stream
from coordinator.domain.decision import EVOLVE, Decision
from coordinator.domain.messages import SYSTEM
from coordinator.domain.settlement import BatchPlan, SinkTerms, settlement_stream
from tests.harness.cases import every
from tests.harness.deciding import ADMIN, ALICE, T0

Line = tuple[str, str, dict[str, Any]]
"""Stream, topic and members of an event; its position is its place."""

FILE = SinkTerms("file", needs_address=False, fault_of=lambda address: None, minimum=1)


class History:
    """Jobs that two miners did, and two batches: of the first one's parts one is paid, one refused."""

    def __init__(self) -> None:
        self.states: dict[UUID, Any] = {}
        self.lines: list[Line] = []
        deposit = account.AccountDeposit(party="alice", amount=10_000, business_id="d1")
        self.add(account.decide(None, deposit, account.TransferContext(T0, ADMIN, None, None)))
        for number, miner in enumerate(("rig", "farm", "rig"), 1):
            self.work(number, miner)
        self.close(1)
        self.part(1, 0, 1, revert=True)
        self.part(1, 1, 1, refuse=True)
        self.work(4, "rig")
        self.close(2)
        self.part(2, 0, 1)

    def add(self, decision: Decision) -> None:
        for stream, event in decision:
            self.states[stream] = EVOLVE[event.noun](self.states.get(stream), event)
            self.lines.append((str(stream), event.topic, json.loads(event.model_dump_json())))

    def of(self, *parties: str) -> list[Any]:
        return [self.states.get(account_stream(party)) for party in parties]

    def work(self, number: int, miner: str) -> None:
        job_id = UUID(int=number)
        self.add(account.hold(self.of("alice")[0], "alice", 300, T0, ALICE))
        self.lines.append(("", "job.submitted.v1", {"job_id": str(job_id), "client": "alice", "hold": 300}))
        position = len(self.lines)
        completed = {"miner_id": miner, "price": f"0.0002{number}0", "attempt": 1, "job_id": str(job_id)}
        completed |= {"units": "0.100"}
        self.lines.append(("", "job.completed.v1", completed))
        price = 200 + 10 * number
        ended = EndedJob(job_id, position, "alice", 300, miner, price, 1, "0.100", "gpu_seconds")
        parties = ("alice", miner, "@fees")
        accounts = dict(zip(parties, self.of(*parties), strict=True))
        context = account.SettleContext(T0, SYSTEM, (ended,), accounts, Terms(1000, 0))
        command = account.AccountSettle(jobs=((job_id, position),))
        self.add(account.decide(self.states.get(PAYMENTS_STREAM), command, context))

    def close(self, number: int) -> None:
        before = self.states.get(settlement_stream(number - 1))
        after, until = (before.closed.until if before else 0), len(self.lines) - 1
        leaves = [
            payment_leaf(payment)
            for position, (_, topic, event) in enumerate(self.lines)
            if topic == "payments.settled.v1" and after < position <= until
            for payment in event["payments"]
        ]
        parties = ("farm", "rig")
        plan = BatchPlan(number, after, until, len(leaves), payments_root(leaves), parties)
        accounts = dict(zip((*parties, SETTLEMENT), self.of(*parties, SETTLEMENT), strict=True))
        context = settlement.CloseContext(T0, SYSTEM, plan, before, accounts, FILE)
        self.add(settlement.decide(None, settlement.SettlementClose(number=number), context))

    def part(self, number: int, part: int, count: int, *, revert: bool = False, refuse: bool = False) -> None:
        body = f"{number}/{part}".encode()
        digest = hashlib.sha256(body).hexdigest()
        about: dict[str, Any] = {"number": number, "part": part}
        text = base64.b64encode(body).decode()
        self.send(settlement.SettlementPrepare(**about, count=count, nonce=part, hash=digest, body=text))
        self.send(settlement.SettlementSubmit(**about, hash=digest))
        if revert:
            self.send(settlement.SettlementRevert(**about))
            self.send(settlement.SettlementSubmit(**about, hash=digest))
        end = settlement.SettlementRefuse(**about, reason="no") if refuse else None
        self.send(end or settlement.SettlementConfirm(**about, hash=digest, confirmations=2))

    def send(self, command: Any) -> None:
        parties = ("farm", "rig", SETTLEMENT, OUTSIDE)
        accounts = dict(zip(parties, self.of(*parties), strict=True))
        state = self.states[settlement_stream(command.number)]
        context = settlement.PartContext(T0, SYSTEM, accounts)
        self.add(settlement.decide(state, command, context))


def replay(lines: list[Line]) -> Money:
    money, submitted = Money(), {}
    for position, (stream, topic, event) in enumerate(lines):
        if topic == "job.submitted.v1":
            submitted[event["job_id"]] = event
            money.submitted(event)
        elif topic == "job.completed.v1":
            money.job_ended(submitted[event["job_id"]], event, position, completed=True)
        else:
            money.follow(stream, topic, event, position)
        money = Money.load(json.loads(json.dumps(money.dump())))  # an audit may stop and go on anywhere
    money.finish()
    return money


def test_a_history_is_clean() -> None:
    """Everything that was earned has left, without the fees."""
    money = replay(History().lines)
    earned = 210 + 220 + 230 + 240
    fees = 21 + 22 + 23 + 24
    balances = {party: totals[0] for party, totals in money.accounts.items() if totals[0]}
    assert balances == {"alice": 10_000 - earned, "@fees": fees, OUTSIDE: earned - fees - 10_000}
    assert (money.batches.number, money.batches.in_transit, len(money.batches.paid)) == (2, 0, 2)


def place(lines: list[Line], topic: str, **members: Any) -> int:
    """The first event of this topic with these members."""
    return next(
        number
        for number, (_, found, event) in enumerate(lines)
        if found == topic and all(event[name] == value for name, value in members.items())
    )


def event_of(lines: list[Line], topic: str, **members: Any) -> dict[str, Any]:
    return lines[place(lines, topic, **members)][2]


def redone(event: dict[str, Any]) -> None:
    """A forger gives the batch the digest of its new facts."""
    event["digest"] = batch_digest(event)


def _payout(lines: list[Line]) -> None:
    """A batch tells another amount than the entry."""
    event = event_of(lines, "settlement.closed.v1", number=1)
    event["payouts"][0]["amount"] += 1
    event["total"] += 1
    redone(event)


def _total(lines: list[Line]) -> None:
    event = event_of(lines, "settlement.closed.v1", number=1)
    event["total"] += 1
    redone(event)


def _digest(lines: list[Line]) -> None:
    event_of(lines, "settlement.closed.v1", number=1)["payouts"][0]["address"] = "elsewhere"


def _previous(lines: list[Line]) -> None:
    event = event_of(lines, "settlement.closed.v1", number=2)
    event["previous"] = "0" * 64
    redone(event)


def _gap(lines: list[Line]) -> None:
    event = event_of(lines, "settlement.closed.v1", number=2)
    event["after"] += 1
    redone(event)


def _overlap(lines: list[Line]) -> None:
    event = event_of(lines, "settlement.closed.v1", number=2)
    event["after"] -= 1
    redone(event)


def _root(lines: list[Line]) -> None:
    event = event_of(lines, "settlement.closed.v1", number=1)
    event["receipts_root"] = payments_root([])
    redone(event)


def _left_out(lines: list[Line]) -> None:
    """A payment is covered by no batch."""
    event = event_of(lines, "settlement.closed.v1", number=1)
    leaves = [
        payment_leaf(payment)
        for _, topic, settled in lines[: place(lines, "settlement.closed.v1")]
        if topic == "payments.settled.v1"
        for payment in settled["payments"]
    ]
    event["receipts"], event["receipts_root"] = 2, payments_root(leaves[:2])
    redone(event)


def _future(lines: list[Line]) -> None:
    event = event_of(lines, "settlement.closed.v1", number=2)
    event["until"] = len(lines)
    redone(event)


def _unprepared(lines: list[Line]) -> None:
    """Bytes were sent that the log does not have."""
    event_of(lines, "settlement.submitted.v1", number=1)["hash"] = "f" * 64


def _other_bytes(lines: list[Line]) -> None:
    event_of(lines, "settlement.prepared.v1", number=1)["body"] = "eHg="


def _paid_unprepared(lines: list[Line]) -> None:
    event_of(lines, "settlement.confirmed.v1", number=1)["hash"] = "f" * 64


def _confirmed_twice(lines: list[Line]) -> None:
    """A part is paid twice, with its entries."""
    end = place(lines, "settlement.confirmed.v1", number=1) + 1
    copies = [(s, t, dict(e)) for s, t, e in lines[end - 3 : end]]
    copies[0][2]["balance"] += copies[0][2]["amount"]
    copies[1][2]["balance"] += copies[1][2]["amount"]
    lines[end:end] = copies


def _same_bytes(lines: list[Line]) -> None:
    """The second batch is paid by the bytes of the first one."""
    first = event_of(lines, "settlement.prepared.v1", number=1)
    for topic in ("prepared", "submitted", "confirmed"):
        event = event_of(lines, f"settlement.{topic}.v1", number=2)
        event["hash"] = first["hash"]
        if topic == "prepared":
            event["body"] = first["body"]


def _refused_and_kept(lines: list[Line]) -> None:
    """A refusal returns nothing."""
    end = place(lines, "settlement.refused.v1")
    del lines[end - 2 : end]


def _refused_to_another(lines: list[Line]) -> None:
    """The refused money goes to the other payee."""
    end = place(lines, "settlement.refused.v1")
    _, topic, event = lines[end - 1]
    other = "farm" if event["party"] == "rig" else "rig"
    lines[end - 1] = (str(account_stream(other)), topic, {**event, "party": other})


def _two_open(lines: list[Line]) -> None:
    """The second batch is closed while the first one is open."""
    begin = place(lines, "account.posted.v1", kind="payout_returned")
    end = place(lines, "settlement.refused.v1") + 1
    del lines[begin:end]


def _twice(lines: list[Line]) -> None:
    """A batch is closed twice."""
    end = place(lines, "settlement.closed.v1") + 1
    lines.insert(end, (lines[end - 1][0], lines[end - 1][1], dict(lines[end - 1][2])))


def _other_nonce(lines: list[Line]) -> None:
    """A second payment of a part under another nonce: the sink may take both."""
    end = place(lines, "settlement.prepared.v1") + 1
    stream, topic, event = lines[end - 1]
    body = b"other"
    changed = {**event, "nonce": 9, "body": base64.b64encode(body).decode()}
    lines.insert(end, (stream, topic, {**changed, "hash": hashlib.sha256(body).hexdigest()}))


def _transit(lines: list[Line]) -> None:
    """The log ends, and the open batch's money is somewhere else."""
    end = place(lines, "settlement.confirmed.v1", number=2)
    del lines[end:]


CHANGES: list[Callable[[list[Line]], None]] = [
    _payout,
    _total,
    _digest,
    _previous,
    _gap,
    _overlap,
    _root,
    _left_out,
    _future,
    _unprepared,
    _other_bytes,
    _paid_unprepared,
    _confirmed_twice,
    _same_bytes,
    _refused_and_kept,
    _refused_to_another,
    _two_open,
    _twice,
    _other_nonce,
    _transit,
]


@every("change", CHANGES)
def test_each_change_is_found(change: Callable[[list[Line]], None]) -> None:
    """Paid twice, to another, from nowhere, over a gap, or by bytes that the log does not have."""
    lines = History().lines
    change(lines)
    with pytest.raises(Found) as found:
        replay(lines)
    assert found.value.kind in ("money", "settlement", "stream")
