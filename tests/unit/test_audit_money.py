"""The auditor of money: a history as the rules write it is clean, and each change of it is found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from coordinator.audit.checks import check_statements
from coordinator.audit.entries import Found
from coordinator.audit.jobs import Statement
from coordinator.audit.money import Money
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.statement import sign_statement
from coordinator.domain import account
from coordinator.domain.account import PAYMENTS_STREAM, Terms, account_stream, payment_stream
from coordinator.domain.decision import EVOLVE, Decision
from coordinator.domain.messages import SYSTEM, Principal, Role
from tests.harness.cases import every
from tests.harness.deciding import ADMIN, ALICE, JOB_ID, T0

Line = tuple[str, str, dict[str, Any]]
"""Stream, topic and members of an event. A job's events have only what counts, and its end its position."""

JOBS: dict[str, dict[str, Any]] = {
    str(JOB_ID): {"job_id": str(JOB_ID), "client": "alice", "hold": 300},
    str(UUID(int=2)): {"job_id": str(UUID(int=2)), "client": "alice", "hold": 200},
    str(UUID(int=3)): {"job_id": str(UUID(int=3)), "client": "bob", "hold": 100},
    str(UUID(int=4)): {"job_id": str(UUID(int=4)), "client": "bob", "hold": 100},
}
"""Their submits. The first one and the last one are completed, the others canceled."""


STOPPED: dict[str, dict[str, Any]] = {
    str(UUID(int=number)): {
        "job_id": str(UUID(int=number)),
        "client": "alice",
        "hold": 300,
        "service": "echo",
        "payload_digest": "a" * 64,
        "max_units": "1.000",
    }
    for number in (5, 6)
}
"""The submits of jobs that were cancelled at work: one is paid by a statement, one is not."""
BILLED, LAPSED = STOPPED
KEY = SigningKey(bytes(32))
SEEN = 500
"""Milliseconds between the claim and the cancellation."""
STATED = 100
SUBMITS = JOBS | STOPPED
WORK = account.StoppedWork("0.100", "gpu_seconds", 20)
"""What the statement is worth, at 0.0002 a second."""


class History:
    """Deposits, a hold of two jobs, a settlement of three, a dispute and a refund, and another settlement."""

    terms = Terms(1000, 60_000)

    def __init__(self) -> None:
        self.states: dict[UUID, Any] = {}
        self.lines: list[Line] = []
        self.ended: list[account.EndedJob] = []
        for party in ("alice", "bob"):
            deposit = account.AccountDeposit(party=party, amount=1000, business_id="d1")
            context = account.TransferContext(T0, ADMIN, self.of(party), self.of("@outside"))
            self.add(account.decide(None, deposit, context))
        first, second, third, fourth = JOBS
        self.submit("alice", first, second)
        self.submit("bob", third)
        self.end(first, miner="rig", price=200)
        self.end(second)
        self.end(third)
        self.settle()
        for command in (account.AccountDispute(job_id=JOB_ID), account.AccountRefund(job_id=JOB_ID)):
            state = self.states.get(payment_stream(JOB_ID))
            self.add(account.decide(state, command, self.payment()))
        self.submit("bob", fourth)
        self.end(fourth, miner="rig", price=90)
        self.settle()

    def add(self, decision: Decision) -> None:
        for stream, event in decision:
            self.states[stream] = EVOLVE[event.noun](self.states.get(stream), event)
            self.lines.append((str(stream), event.topic, json.loads(event.model_dump_json())))

    def of(self, party: str) -> Any:
        return self.states.get(account_stream(party))

    def submit(self, client: str, *jobs: str) -> None:
        """Together: they have one hold."""
        before: Any = self.of(client)
        held: account.AccountHeld | None = None
        for job_id in jobs:
            [(stream, one)] = account.hold(self.of(client), client, SUBMITS[job_id]["hold"], T0, ALICE)
            assert isinstance(one, account.AccountHeld)
            held = one if held is None else account.together(held, one)
            self.states[stream] = EVOLVE["account"](before, held)
        assert held is not None
        self.lines.append((str(stream), held.topic, json.loads(held.model_dump_json())))
        self.lines += [("", "job.submitted.v1", dict(SUBMITS[job_id])) for job_id in jobs]

    def end(self, job_id: str, miner: str | None = None, price: int = 0) -> None:
        submitted, position = SUBMITS[job_id], len(self.lines)
        job = account.EndedJob(UUID(job_id), position, submitted["client"], submitted["hold"])
        event: dict[str, Any] = {"job_id": job_id, "attempt": 1, "position": position}
        if miner is not None:
            job = job._replace(miner=miner, price=price, attempt=2, units="0.100", unit_type="gpu_seconds")
            event |= {"attempt": 2, "miner_id": f"node@{miner}", "price": f"0.{price:06}", "units": "0.100"}
        self.ended.append(job)
        self.lines.append(("", "job.canceled.v1" if miner is None else "job.completed.v1", event))

    def settle(self) -> None:
        accounts = {party: self.of(party) for party in ("alice", "bob", "rig", "@fees")}
        context = account.SettleContext(T0, SYSTEM, tuple(self.ended), accounts, self.terms)
        command = account.AccountSettle(after=0, jobs=tuple((job.job_id, job.position) for job in self.ended))
        self.add(account.decide(self.states.get(PAYMENTS_STREAM), command, context))

    def payment(self) -> account.PaymentContext:
        settled = next(event for _, topic, event in self.lines if topic == "payments.settled.v1")
        payment = account.Payment.model_validate_json(json.dumps(settled["payments"][0]))
        known = account.SettledJob(payment, "alice", settled["available_at"])
        return account.PaymentContext(T0, ADMIN, known, self.of("alice"), self.of("rig"), self.of("@fees"))


class Stopped(History):
    """And two jobs that were cancelled at work: the payment of one is disputed, the other one is free."""

    terms = Terms(1000, 60_000, 30_000)

    def __init__(
        self,
        work: account.StoppedWork = WORK,
        stated: int = STATED,
        miner: str = "rig",
        said: dict[str, Any] | None = None,
        key: SigningKey = KEY,
    ) -> None:
        """`work`: what the coordinator paid for; `stated`, `said`: the miner's statement; `miner`: who was
        paid."""
        super().__init__()
        self.submit("alice", *STOPPED)
        for job_id in STOPPED:
            self.cancel(job_id)
        self.settle()
        statement = {
            "version": "1 partial",
            "job_id": BILLED,
            "attempt": 1,
            "miner_id": "node@rig",
            "session_id": "session-1",
            "service": "echo",
            "payload_digest": "a" * 64,
            "started_at_ms": T0,
            "stopped_at_ms": T0 + stated,
        }
        command = account.AccountBill(
            job_id=UUID(BILLED),
            attempt=1,
            miner_id="node@rig",
            session_id="session-1",
            statement=sign_statement(key, {**statement, **(said or {})}),
        )
        self.stop(command, Principal(miner, Role.MINER), T0, miner, work)
        self.lapse(LAPSED)
        billed = self.states[payment_stream(UUID(BILLED))].billed
        known = account.SettledJob(None, "alice", 0)
        context = account.PaymentContext(T0, ALICE, known, self.of("alice"), self.of(miner), self.of("@fees"))
        dispute = account.AccountDispute(job_id=billed.job_id)
        self.add(account.decide(self.states[payment_stream(billed.job_id)], dispute, context))

    def cancel(self, job_id: str) -> None:
        """At work, as the auditor knows it by the claim."""
        self.end(job_id)
        self.ended[-1] = self.ended[-1]._replace(stopped="rig")
        claim = {"attempt": 1, "miner_id": "node@rig", "session_id": "session-1", "at": T0 - SEEN}
        claim |= {"miner_key": KEY.key_id, "unit_price": "0.0002"}
        self.lines[-1][2].update(at=T0, claim=claim)

    def stop(
        self,
        command: account.AccountBill | account.AccountLapse,
        by: Principal,
        now: int,
        miner: str = "rig",
        work: account.StoppedWork | None = None,
    ) -> None:
        kept = account.Kept(job_id=command.job_id, client="alice", miner=miner, attempt=1, hold=300)
        settled = account.SettledJob(None, "alice", 0, kept, T0 + 30_000)
        accounts = self.of("alice"), self.of(miner), self.of("@fees")
        context = account.BillContext(now, by, settled, work, *accounts, self.terms)
        self.add(account.decide(None, command, context))

    def lapse(self, job_id: str) -> None:
        """As the rules do where nothing became of the payment yet."""
        self.stop(account.AccountLapse(job_id=UUID(job_id)), SYSTEM, T0 + 30_000)


def history() -> list[Line]:
    return History().lines


def replay(lines: list[Line], signed: list[Statement] | None = None) -> Money:
    """`signed`: gets the statements to verify."""
    money, submits = (
        Money(),
        SUBMITS | {event["job_id"]: event for _, topic, event in lines if topic == "job.submitted.v1"},
    )
    for position, (stream, topic, event) in enumerate(lines):
        if topic == "job.submitted.v1":
            money.submitted(event)
        elif topic.startswith("job."):
            submitted, completed = submits[event["job_id"]], topic == "job.completed.v1"
            claim = event.get("claim")
            money.job_ended(submitted, event, event["position"], completed=completed, stopped=claim)
        else:
            found = money.follow(stream, topic, event)
            if found is not None and signed is not None:
                signed.append(Statement(position, *found))
        money = Money.load(json.loads(json.dumps(money.dump())))  # an audit may stop and go on anywhere
    money.finish()
    return money


def test_a_history_is_clean_and_adds_up() -> None:
    """The refunded client has its deposit, the other one paid for the job that completed."""
    money = replay(history())
    balances = {party: totals for party, totals in money.accounts.items() if any(totals)}
    assert balances == {
        "alice": [1000, 0, 0],
        "bob": [910, 0, 0],
        "rig": [81, 0, 0],
        "@fees": [9, 0, 0],
        "@outside": [-2000, 0, 0],
    }
    assert {job_id: paid[5] for job_id, paid in money.paid.items()} == {
        str(JOB_ID): "REFUNDED",
        str(UUID(int=4)): "PAID",
    }
    assert (money.set_aside, money.ended, money.posting, money.released) == ({}, [], [], [])
    assert money.settled[0] == 2


def place(lines: list[Line], topic: str, **members: Any) -> int:
    """The first event of this topic with these members."""
    return next(
        number
        for number, (_, found, event) in enumerate(lines)
        if found == topic and all(event[name] == value for name, value in members.items())
    )


def settled(lines: list[Line], number: int = 1) -> dict[str, Any]:
    return lines[place(lines, "payments.settled.v1", number=number)][2]


def _more(lines: list[Line]) -> None:
    """A miner gets more than the client paid."""
    entry = lines[place(lines, "account.posted.v1", party="rig")][2]
    entry["amount"] += 1
    entry["balance"] += 1


def _fee(lines: list[Line]) -> None:
    """A fee is taken that the payment does not name."""
    settled(lines)["payments"][0]["fee"] -= 1


def _total(lines: list[Line]) -> None:
    """An account's totals do not follow from its events."""
    lines[place(lines, "account.held.v1")][2]["held"] = 0


def _twice(lines: list[Line]) -> None:
    """A settlement is made twice."""
    begin = place(lines, "account.posted.v1", kind="payment")
    end = place(lines, "payments.settled.v1") + 1
    lines[end:end] = copy.deepcopy(lines[begin:end])


def _twice_in_one(lines: list[Line]) -> None:
    """A job is twice in a settlement."""
    settled(lines)["payments"] *= 2


def _in_the_next(lines: list[Line]) -> None:
    """A job is in the next settlement, too."""
    settled(lines, 2)["payments"].insert(0, dict(settled(lines)["payments"][0]))


def _other_order(lines: list[Line]) -> None:
    """The jobs are in another order than their ends."""
    settled(lines)["unpaid"].reverse()


def _left_out(lines: list[Line]) -> None:
    """A job that ended in the range of a settlement is not in it."""
    settled(lines)["unpaid"].pop()


def _short(lines: list[Line]) -> None:
    """A settlement says that it reaches less far than its last job."""
    settled(lines)["until"] -= 1


def _far(lines: list[Line]) -> None:
    """A settlement says that it reaches farther than its last job: the next ones would be skipped."""
    settled(lines, 2)["until"] += 1


def _gap(lines: list[Line]) -> None:
    """A settlement does not begin where the one before ended."""
    settled(lines, 2)["after"] += 1


def _skipped(lines: list[Line]) -> None:
    """The numbers of settlements have a gap."""
    settled(lines, 2)["number"] = 3


def _elsewhere(lines: list[Line]) -> None:
    """A settlement is in another stream than the others."""
    number = place(lines, "payments.settled.v1", number=2)
    lines[number] = (str(payment_stream(JOB_ID)), *lines[number][1:])


def _paid_for_nothing(lines: list[Line]) -> None:
    """A canceled job is paid."""
    event, entry = settled(lines), lines[place(lines, "account.posted.v1", party="rig")][2]
    unpaid = event["unpaid"].pop(0)
    event["payments"].append({**event["payments"][0], "job_id": unpaid["job_id"], "hold": unpaid["hold"]})
    entry["amount"] += 180


def _hold_kept(lines: list[Line]) -> None:
    """A settlement ends less of a client's holds than its jobs had."""
    for number in range(place(lines, "account.posted.v1", kind="payment"), len(lines)):
        _, topic, event = lines[number]
        if topic.startswith("account.") and event["party"] == "alice":
            event["held"] += 1
    lines[place(lines, "account.posted.v1", kind="payment")][2]["released"] -= 1


def _release_left_out(lines: list[Line]) -> None:
    """The hold of a client whose jobs cost nothing does not end."""
    number = place(lines, "account.released.v1")
    del lines[number]
    for _, topic, event in lines[number:]:
        if topic.startswith("account.") and event["party"] == "bob":
            event["held"] += 100


def _release_alone(lines: list[Line]) -> None:
    """A hold ends without any settlement."""
    lines.append(copy.deepcopy(lines[place(lines, "account.released.v1")]))
    lines[-1][2].update(amount=0, balance=910, held=0)


def _released_early(lines: list[Line]) -> None:
    """A miner's credit is available before the time for disputes is over."""
    lines[place(lines, "account.posted.v1", party="rig")][2]["available_at"] -= 1


def _again(lines: list[Line]) -> None:
    """A deposit counts twice."""
    end = place(lines, "transfer.made.v1") + 1
    copies = copy.deepcopy(lines[:end])
    copies[0][2]["balance"] += 1000
    copies[1][2]["balance"] -= 1000
    lines[end:end] = copies


def _free(lines: list[Line]) -> None:
    """Jobs were submitted without their hold."""
    del lines[place(lines, "account.held.v1")]


def _one_too_many(lines: list[Line]) -> None:
    """Three jobs follow a hold of two."""
    lines.insert(place(lines, "job.submitted.v1"), ("", "job.submitted.v1", dict(JOBS[str(UUID(int=2))])))


def _one_too_few(lines: list[Line]) -> None:
    """One job follows a hold of two."""
    del lines[place(lines, "job.submitted.v1", job_id=str(UUID(int=2)))]


def _held_less(lines: list[Line]) -> None:
    """Two jobs have more than was held for them."""
    lines[place(lines, "job.submitted.v1")][2]["hold"] += 1


def _held_more(lines: list[Line]) -> None:
    """Two jobs have less than was held for them."""
    lines[place(lines, "job.submitted.v1", job_id=str(UUID(int=2)))][2]["hold"] -= 1


def _in_between(lines: list[Line]) -> None:
    """The account goes on before the jobs of its hold."""
    address = {"party": "alice", "by": "alice", "at": T0, "balance": 1000, "held": 500, "disputed": 0}
    place_of_job = place(lines, "job.submitted.v1")
    stream = lines[place_of_job - 1][0]
    event = {**address, "sink": "file", "address": "account-17"}
    lines.insert(place_of_job, (stream, "account.payout_address_set.v1", event))


def _stranger(lines: list[Line]) -> None:
    """Another miner is paid."""
    number = place(lines, "account.posted.v1", party="rig", posting="payments/2")
    _, topic, event = lines[number]
    lines[number] = (str(account_stream("thief")), topic, {**event, "party": "thief"})


def _early(lines: list[Line]) -> None:
    """A job is paid before its end."""
    del lines[place(lines, "job.completed.v1")]


def _price(lines: list[Line]) -> None:
    """The receipt has another price."""
    lines[place(lines, "job.completed.v1")][2]["price"] = "0.000199"


def _attempt(lines: list[Line]) -> None:
    """The receipt is of another attempt."""
    settled(lines)["payments"][0]["attempt"] = 1


def _units(lines: list[Line]) -> None:
    """The receipt has other units."""
    settled(lines)["payments"][0]["units"] = "0.200"


def _open(lines: list[Line]) -> None:
    """A posting is not whole at the log's end."""
    del lines[-1]


def _back_twice(lines: list[Line]) -> None:
    """A refund of what was refunded."""
    begin, end = place(lines, "account.posted.v1", kind="refund"), place(lines, "payment.refunded.v1") + 1
    lines[end:end] = copy.deepcopy(lines[begin:end])


def _undisputed(lines: list[Line]) -> None:
    """A refund says that there was no dispute."""
    lines[place(lines, "payment.refunded.v1")][2]["disputed"] = False


def _other_payment(lines: list[Line]) -> None:
    """A dispute names another credit than the payment's."""
    lines[place(lines, "payment.disputed.v1")][2]["credit"] += 1


def _another_stream(lines: list[Line]) -> None:
    """A dispute is in the stream of another payment."""
    number = place(lines, "payment.disputed.v1")
    lines[number] = (str(payment_stream(UUID(int=2))), *lines[number][1:])


def _disputed_after_all(lines: list[Line]) -> None:
    """A refunded payment is disputed."""
    lines.append(copy.deepcopy(lines[place(lines, "payment.disputed.v1")]))


def _hold_alone(lines: list[Line]) -> None:
    """A hold is for no job."""
    stream, topic, event = copy.deepcopy(lines[place(lines, "account.held.v1", party="bob")])
    lines.append((stream, topic, {**event, "balance": 910, "held": 100}))


def _unpaid_refund(lines: list[Line]) -> None:
    """A job that cost nothing is disputed."""
    lines[place(lines, "payment.disputed.v1")] = (
        str(payment_stream(UUID(int=2))),
        "payment.disputed.v1",
        {**lines[place(lines, "payment.disputed.v1")][2], "job_id": str(UUID(int=2))},
    )


CHANGES: list[Callable[[list[Line]], None]] = [
    _more,
    _fee,
    _total,
    _twice,
    _twice_in_one,
    _in_the_next,
    _other_order,
    _left_out,
    _short,
    _far,
    _gap,
    _skipped,
    _elsewhere,
    _paid_for_nothing,
    _hold_kept,
    _release_left_out,
    _release_alone,
    _released_early,
    _again,
    _free,
    _one_too_many,
    _one_too_few,
    _held_less,
    _held_more,
    _in_between,
    _stranger,
    _early,
    _price,
    _attempt,
    _units,
    _open,
    _back_twice,
    _undisputed,
    _other_payment,
    _another_stream,
    _disputed_after_all,
    _hold_alone,
    _unpaid_refund,
]


@every("change", CHANGES)
def test_each_change_is_found(change: Callable[[list[Line]], None]) -> None:
    """Money from nowhere, paid twice, to another, for nothing, or before the job's end."""
    lines = history()
    change(lines)
    with pytest.raises(Found) as found:
        replay(lines)
    assert found.value.kind in ("money", "stream")


@every(
    "change",
    [
        *({}, {"pending": []}, {"number": 9}, {"balance": 181}, {"held": 1}, {"earned": 1}),
        *({"payout_sink": "file"}, {"payout_address": "account-17"}),
    ],
)
def test_a_state_that_is_carried_on_is_compared(change: dict[str, Any]) -> None:
    """It is the state that follows from the events before, with all credits that are pending."""
    lines = history()
    lines = lines[: place(lines, "payments.settled.v1") + 1]
    money = replay(lines)
    [balance, held, disputed] = money.accounts["rig"]
    totals: dict[str, Any] = {"balance": balance, "held": held, "disputed": disputed}
    totals |= {"earned": money.earned["rig"], "payout_sink": "", "payout_address": ""}
    pending = [[int(at), amount] for at, amount in money.pending["rig"].items()]
    assert pending
    carried = {"party": "rig", "at": T0, **totals, "number": 2, "pending": pending, **change}
    lines.append((str(account_stream("rig")), "account.carried.v1", carried))
    if not change:
        assert replay(lines).pending["rig"] == money.pending["rig"]
        return
    with pytest.raises(Found, match="rig"):
        replay(lines)


# --- work on cancelled jobs ---------------------------------------------------------------------------------
def test_paid_work_on_a_cancelled_job_is_clean_and_adds_up() -> None:
    """By its statement; the hold of the job without one ends, and nobody is paid."""
    signed: list[Statement] = []
    money = replay(Stopped().lines, signed)
    balances = {party: money.accounts[party] for party in ("alice", "rig", "@fees")}
    assert balances == {"alice": [980, 0, 0], "rig": [99, 0, 18], "@fees": [11, 0, 0]}
    assert money.paid[BILLED][:4] + money.paid[BILLED][5:] == ["alice", "rig", 20, 2, "DISPUTED"]
    assert (money.kept, LAPSED in money.paid) == ({}, False)
    assert [(one.document["job_id"], one.key_id) for one in signed] == [(BILLED, KEY.key_id)]
    assert check_statements(signed) is None


@every(
    "stated, units, price",
    [(0, "0.000", None), (99, "0.099", 20), (SEEN, "0.500", 100), (10**9, "0.500", 100), (-7, "0.000", None)],
)
def test_work_is_paid_for_the_less_of_stated_and_seen(stated: int, units: str, price: int | None) -> None:
    """Rounded as a receipt's price; work of no time is no payment, and another sum is found."""
    work = account.StoppedWork(units, "gpu_seconds", price or 1)
    if price is not None:
        assert replay(Stopped(work, stated).lines).paid[BILLED][2] == price
    wrong = work._replace(price=(price or 0) + 1)
    with pytest.raises(Found) as found:
        replay(Stopped(wrong, stated).lines)
    assert found.value.kind == "price"


@every(
    "facts",
    [
        {"work": WORK._replace(price=21)},
        {"work": WORK._replace(price=19)},
        {"work": WORK._replace(units="0.101")},
        {"work": account.StoppedWork("0.900", "gpu_seconds", 180), "stated": 900},
        {"stated": STATED + 10},
        {"miner": "farm"},
        {"said": {"job_id": LAPSED}},
        {"said": {"attempt": 2}},
        {"said": {"miner_id": "other@rig"}},
        {"said": {"session_id": "session-2"}},
        {"said": {"service": "whisper"}},
        {"said": {"payload_digest": "b" * 64}},
    ],
)
def test_work_that_is_not_paid_by_its_statement_is_found(facts: dict[str, Any]) -> None:
    """Another amount or number of units, more than was seen, another miner, a statement about other work."""
    with pytest.raises(Found) as found:
        replay(Stopped(**facts).lines)
    assert found.value.kind in ("money", "price", "statement")


def test_a_statement_has_the_signature_of_the_miner_that_claimed_the_job() -> None:
    """The key is that of the claim, and no member may change: also where it changes no sum."""
    changed = Stopped().lines
    said = billed(changed)["statement"]
    said |= {name: said[name] + 1 for name in ("started_at_ms", "stopped_at_ms")}
    for lines, code in (
        (Stopped(key=SigningKey(bytes([1]) * 32)).lines, "STATEMENT_KEY"),
        (changed, "STATEMENT_SIGNATURE"),
    ):
        signed: list[Statement] = []
        replay(lines, signed)
        found = check_statements(signed)
        assert found is not None
        assert (found.position, found.kind) == (place(lines, "payment.billed.v1"), "statement")
        assert found.detail.startswith(code)


def billed(lines: list[Line]) -> dict[str, Any]:
    return lines[place(lines, "payment.billed.v1")][2]


def _shift_held(lines: list[Line], begin: int, amount: int) -> None:
    for _, topic, event in lines[begin:]:
        if topic.startswith("account.") and event["party"] == "alice":
            event["held"] += amount


def _not_ended(lines: list[Line]) -> None:
    """The client pays, and its hold does not end."""
    number = place(lines, "account.posted.v1", posting=f"partial/{BILLED}", party="alice")
    lines[number][2]["released"] = 0
    _shift_held(lines, number, 300)


def _ended_in_part(lines: list[Line]) -> None:
    """A part of the hold stays."""
    number = place(lines, "account.posted.v1", posting=f"partial/{BILLED}", party="alice")
    lines[number][2]["released"] -= 1
    _shift_held(lines, number, 1)


def _lapse_without_end(lines: list[Line]) -> None:
    """A hold is said to be over, and does not end."""
    number = place(lines, "payment.lapsed.v1") - 1
    del lines[number]
    _shift_held(lines, number, 300)


def _paid_twice(lines: list[Line]) -> None:
    """The same work is paid again, from what another job has."""
    begin = place(lines, "account.posted.v1", posting=f"partial/{BILLED}")
    end = place(lines, "payment.billed.v1") + 1
    again = copy.deepcopy(lines[begin:end])
    for _, topic, event in again:
        if topic == "account.posted.v1":
            event["balance"] += event["amount"]
            event["held"] -= event["released"]
    lines[end:] = again


def _billed_and_lapsed(lines: list[Line]) -> None:
    """The hold of work that was paid ends once more, instead of the other one."""
    lapsed = lines[place(lines, "payment.lapsed.v1")][2]
    number = place(lines, "payment.lapsed.v1")
    lines[number] = (str(payment_stream(UUID(BILLED))), lines[number][1], {**lapsed, "job_id": BILLED})


def _lapsed_and_billed(lines: list[Line]) -> None:
    """Work is paid after its hold ended in vain."""
    begin, end = place(lines, "payment.lapsed.v1") - 1, place(lines, "payment.lapsed.v1") + 1
    both = copy.deepcopy(lines[begin:end])
    both[1] = (str(payment_stream(UUID(BILLED))), both[1][1], {**both[1][2], "job_id": BILLED})
    before = place(lines, "account.posted.v1", posting=f"partial/{BILLED}")
    both[0][2].update(balance=1000, held=300)
    lines[before:end] = [*both, *lines[before:begin]]
    lines[before + 2][2]["held"] = 0


def _queued(lines: list[Line]) -> None:
    """The hold of a job that nobody worked on waits for a statement."""
    lines[place(lines, "job.canceled.v1", job_id=BILLED)][2]["claim"] = None


def _by_unit(lines: list[Line]) -> None:
    """A job is paid by images, whose number no partial statement tells."""
    lines[place(lines, "job.submitted.v1", job_id=BILLED)][2]["unit"] = "image"


def _other_hold(lines: list[Line]) -> None:
    """A kept hold is not the one of the job."""
    settled(lines, 3)["kept"][0]["hold"] += 1


def _kept_for_another(lines: list[Line]) -> None:
    """A hold waits for another miner."""
    settled(lines, 3)["kept"][1]["miner"] = "farm"


def _not_kept(lines: list[Line]) -> None:
    """A cancelled job is in no list of its settlement."""
    settled(lines, 3)["kept"].pop()


def _kept_twice(lines: list[Line]) -> None:
    """A hold waits twice."""
    settled(lines, 3)["kept"].append(dict(settled(lines, 3)["kept"][1]))


def _lapsed_hold(lines: list[Line]) -> None:
    """The end of a hold says another amount."""
    lines[place(lines, "payment.lapsed.v1")][2]["hold"] -= 1


def _billed_elsewhere(lines: list[Line]) -> None:
    """It is in the stream of another payment."""
    number = place(lines, "payment.billed.v1")
    lines[number] = (str(payment_stream(UUID(LAPSED))), *lines[number][1:])


def _billed_attempt(lines: list[Line]) -> None:
    """Another attempt than the cancelled one is paid."""
    billed(lines)["attempt"] = 2


def _never_kept(lines: list[Line]) -> None:
    """A completed job, which is paid, is paid by a statement, too."""
    number = place(lines, "payment.billed.v1")
    lines[number] = (str(payment_stream(JOB_ID)), lines[number][1], {**billed(lines), "job_id": str(JOB_ID)})


def _fee_of_work(lines: list[Line]) -> None:
    """The fee is not what the miner lacks."""
    billed(lines)["fee"] += 1


def _at_once(lines: list[Line]) -> None:
    """The miner's credit for work is available at once."""
    credit = next(e for _, topic, e in lines if topic == "account.posted.v1" and is_credit_of_work(e))
    credit["available_at"] = None


def is_credit_of_work(event: dict[str, Any]) -> bool:
    return bool(event["posting"].startswith("partial/") and event["party"] == "rig")


def _until_later(lines: list[Line]) -> None:
    """Work may be disputed for longer than its credits are pending."""
    billed(lines)["available_at"] += 1


def _other_unit(lines: list[Line]) -> None:
    """Work is paid in frames."""
    billed(lines)["unit_type"] = "frames"


def _lapsed_early(lines: list[Line]) -> None:
    """A hold does not wait as long as it was told to."""
    settled(lines, 3)["kept_until"] = lines[place(lines, "payment.lapsed.v1")][2]["at"] + 1


def _lapsed_for_something(lines: list[Line]) -> None:
    """A job of which nothing was paid has cost something."""
    lines[place(lines, "payment.lapsed.v1")][2]["amount"] = 5


def _other_credit(lines: list[Line]) -> None:
    """A dispute of work names another sum."""
    lines[place(lines, "payment.disputed.v1", job_id=BILLED)][2]["amount"] += 1


@every(
    "change",
    [
        *(
            _not_ended,
            _ended_in_part,
            _lapse_without_end,
            _paid_twice,
            _billed_and_lapsed,
            _lapsed_and_billed,
        ),
        *(_queued, _by_unit, _other_hold, _kept_for_another, _not_kept, _kept_twice, _lapsed_hold),
        *(_billed_elsewhere, _billed_attempt, _never_kept, _fee_of_work, _other_credit),
        *(_at_once, _until_later, _other_unit, _lapsed_early, _lapsed_for_something),
    ],
)
def test_each_change_of_paid_work_is_found(change: Callable[[list[Line]], None]) -> None:
    """Holds that do not end, end twice, or wait for nothing; work that is paid twice, or by other names."""
    lines = Stopped().lines
    change(lines)
    with pytest.raises(Found) as found:
        replay(lines)
    assert found.value.kind in ("money", "stream", "price")
