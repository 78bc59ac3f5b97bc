"""A log of jobs, payments and settlement batches, as the rules write it, and its replay by the auditor."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any
from uuid import UUID

from coordinator.audit.money import Money
from coordinator.crypto.settlement import payment_leaf, payments_root
from coordinator.domain import account, settlement
from coordinator.domain.account import OUTSIDE, PAYMENTS_STREAM, SETTLEMENT, EndedJob, Terms, account_stream
from coordinator.domain.decision import EVOLVE, Decision
from coordinator.domain.messages import SYSTEM
from coordinator.domain.settlement import BatchPlan, SinkTerms, settlement_stream
from tests.harness.deciding import ADMIN, ALICE, T0

Line = tuple[str, str, dict[str, Any]]
"""Stream, topic and members of an event; its position is its place."""

FILE = SinkTerms("file", needs_address=False, fault_of=lambda address: None, minimum=1)


class History:
    """Jobs that two miners did, and two batches: of the first one's parts one is paid, one refused."""

    sink = FILE

    def __init__(self) -> None:
        self.states: dict[UUID, Any] = {}
        self.lines: list[Line] = []
        deposit = account.AccountDeposit(party="alice", amount=10_000, business_id="d1")
        self.add(account.decide(None, deposit, account.TransferContext(T0, ADMIN, None, None)))
        for number, miner in enumerate(("rig", "farm", "rig"), 1):
            self.work(number, miner)
        self.settle()

    def settle(self) -> None:
        """The batches, with more work between them."""
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
        command = account.AccountSettle(after=0, jobs=((job_id, position),))
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
        context = settlement.CloseContext(T0, SYSTEM, plan, before, accounts, self.sink)
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


def place(lines: list[Line], topic: str, **members: Any) -> int:
    """The first event of this topic with these members."""
    return next(
        number
        for number, (_, found, event) in enumerate(lines)
        if found == topic and all(event[name] == value for name, value in members.items())
    )


def event_of(lines: list[Line], topic: str, **members: Any) -> dict[str, Any]:
    return lines[place(lines, topic, **members)][2]
