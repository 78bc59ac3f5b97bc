"""The auditor of money: a history as the rules write it is clean, and each change of it is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from coordinator.audit.entries import Found
from coordinator.audit.money import Money
from coordinator.domain import account
from coordinator.domain.account import Terms, account_stream, payment_stream
from coordinator.domain.decision import EVOLVE, Decision
from coordinator.domain.messages import SYSTEM
from tests.harness.cases import every
from tests.harness.deciding import ADMIN, ALICE, JOB_ID, T0

Line = tuple[str, str, dict[str, Any]]
"""Stream, topic and members of an event; of a job's end, the job's submit, its event and its state."""


def history() -> list[Line]:
    """A deposit, a hold, its job, the payment, a dispute and a refund."""
    states: dict[UUID, Any] = {}
    lines: list[Line] = []

    def add(decision: Decision) -> None:
        for stream, event in decision:
            states[stream] = EVOLVE[event.noun](states.get(stream), event)
            lines.append((str(stream), event.topic, json.loads(event.model_dump_json())))

    def of(party: str) -> Any:
        return states.get(account_stream(party))

    deposit = account.AccountDeposit(party="alice", amount=1000, business_id="d1")
    transfer = account.TransferContext(T0, ADMIN, None, None)
    add(account.decide(None, deposit, transfer))
    add(account.hold(of("alice"), "alice", JOB_ID, 300, T0, ALICE))
    submitted = {"job_id": str(JOB_ID), "client": "alice", "hold": 300}
    lines.append(("", "job.submitted.v1", submitted))
    completed = {"miner_id": "node@rig", "price": "0.000200", "attempt": 2}
    lines.append(("", "job.completed.v1", completed))
    ended = account.EndedJob(JOB_ID, "alice", 300, "rig", 200, 2)
    terms = Terms(1000, 60_000)
    settle = account.SettleContext(T0, SYSTEM, ended, of("alice"), None, None, terms)
    add(account.decide(None, account.AccountSettle(job_id=JOB_ID), settle))
    for command in (account.AccountDispute(job_id=JOB_ID), account.AccountRefund(job_id=JOB_ID)):
        context = account.PaymentContext(T0, ADMIN, of("alice"), of("rig"), of("@fees"))
        add(account.decide(states[payment_stream(JOB_ID)], command, context))
    return lines


def replay(lines: list[Line]) -> Money:
    money, submitted = Money(), {"job_id": str(JOB_ID), "client": "alice", "hold": 300}
    for stream, topic, event in lines:
        if topic == "job.submitted.v1":
            money.submitted(event)
        elif topic == "job.completed.v1":
            money.job_ended(submitted, event, completed=True)
        else:
            money.follow(stream, topic, event)
        money = Money.load(json.loads(json.dumps(money.dump())))  # an audit may stop and go on anywhere
    money.finish()
    return money


def test_a_history_is_clean_and_adds_up() -> None:
    """All is as before after the refund: the client has its deposit, nobody has anything else."""
    money = replay(history())
    balances = {party: totals for party, totals in money.accounts.items() if any(totals)}
    assert balances == {"alice": [1000, 0, 0], "@outside": [-1000, 0, 0]}
    assert money.paid[str(JOB_ID)][4] == "REFUNDED"
    assert (money.holds, money.ended, money.posting) == ({}, {}, [])


def place(lines: list[Line], topic: str, **members: Any) -> int:
    """The first event of this topic with these members."""
    return next(
        number
        for number, (_, found, event) in enumerate(lines)
        if found == topic and all(event[name] == value for name, value in members.items())
    )


def _more(lines: list[Line]) -> None:
    """A miner gets more than the client paid."""
    entry = lines[place(lines, "account.posted.v1", party="rig")][2]
    entry["amount"] += 1
    entry["balance"] += 1


def _fee(lines: list[Line]) -> None:
    """A fee is taken that the payment does not name."""
    lines[place(lines, "payment.settled.v1")][2]["fee"] -= 1


def _total(lines: list[Line]) -> None:
    """An account's totals do not follow from its events."""
    lines[place(lines, "account.held.v1")][2]["held"] = 0


def _twice(lines: list[Line]) -> None:
    """A job is paid twice."""
    begin = place(lines, "account.posted.v1", kind="payment")
    end = place(lines, "payment.settled.v1") + 1
    lines[end:end] = [(s, t, dict(e)) for s, t, e in lines[begin:end]]


def _again(lines: list[Line]) -> None:
    """A deposit counts twice."""
    end = place(lines, "transfer.made.v1") + 1
    copies = [(s, t, dict(e)) for s, t, e in lines[:end]]
    copies[0][2]["balance"] += 1000
    copies[1][2]["balance"] -= 1000
    lines[end:end] = copies


def _free(lines: list[Line]) -> None:
    """A job was submitted without its hold."""
    del lines[place(lines, "account.held.v1")]


def _stranger(lines: list[Line]) -> None:
    """Another miner is paid."""
    number = place(lines, "account.posted.v1", party="rig")
    _, topic, event = lines[number]
    lines[number] = (str(account_stream("thief")), topic, {**event, "party": "thief"})


def _early(lines: list[Line]) -> None:
    """A job is paid before its end."""
    del lines[place(lines, "job.completed.v1")]


def _price(lines: list[Line]) -> None:
    """The receipt has another price."""
    lines[place(lines, "job.completed.v1")][2]["price"] = "0.000199"


def _open(lines: list[Line]) -> None:
    """A posting is not whole at the log's end."""
    del lines[-1]


def _back_twice(lines: list[Line]) -> None:
    """A refund of what was refunded."""
    begin = place(lines, "account.posted.v1", kind="refund")
    lines += [(s, t, dict(e)) for s, t, e in lines[begin:]]


CHANGES: list[Callable[[list[Line]], None]] = [
    _more,
    _fee,
    _total,
    _twice,
    _again,
    _free,
    _stranger,
    _early,
    _price,
    _open,
    _back_twice,
]


@every("change", CHANGES)
def test_each_change_is_found(change: Callable[[list[Line]], None]) -> None:
    """Money from nowhere, paid twice, to another, for nothing, or before the job's end."""
    lines = history()
    change(lines)
    with pytest.raises(Found) as found:
        replay(lines)
    assert found.value.kind in ("money", "stream")


@every("change", [{}, {"pending": []}, {"number": 9}, {"balance": 181}, {"held": 1}])
def test_a_state_that_is_carried_on_is_compared(change: dict[str, Any]) -> None:
    """It is the state that follows from the events before, with all credits that are pending."""
    lines = history()
    lines = lines[: place(lines, "payment.settled.v1") + 1]
    money = replay(lines)
    [balance, held, disputed] = money.accounts["rig"]
    totals = {"balance": balance, "held": held, "disputed": disputed}
    pending = [[int(at), amount] for at, amount in money.pending["rig"].items()]
    assert pending
    carried = {"party": "rig", "at": T0, **totals, "number": 2, "pending": pending, **change}
    lines.append((str(account_stream("rig")), "account.carried.v1", carried))
    if not change:
        assert replay(lines).pending["rig"] == money.pending["rig"]
        return
    with pytest.raises(Found, match="rig"):
        replay(lines)
