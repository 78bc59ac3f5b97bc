"""The auditor of settlement: a history as the rules write it is clean, and each change of it is found."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from coordinator.audit.entries import Found
from coordinator.audit.settlement.payments import MEMORY_BYTES, Payments
from coordinator.crypto.settlement import batch_digest, payment_leaf, payments_root
from coordinator.domain.account import OUTSIDE, account_stream
from tests.harness.cases import every
from tests.harness.settled import History, Line, event_of, place, replay


def test_a_history_is_clean() -> None:
    """Everything that was earned has left, without the fees."""
    money = replay(History().lines)
    earned = 210 + 220 + 230 + 240
    fees = 21 + 22 + 23 + 24
    balances = {party: totals[0] for party, totals in money.accounts.items() if totals[0]}
    assert balances == {"alice": 10_000 - earned, "@fees": fees, OUTSIDE: earned - fees - 10_000}
    assert (money.batches.number, money.batches.in_transit, len(money.batches.paid)) == (2, 0, 2)


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


def test_payments_are_found_up_to_a_position() -> None:
    """Also those in a file, after parts of them were covered, and by an audit that goes on from a file."""
    leaves = [hashlib.sha256(b"%d" % n).digest() for n in range(2 * MEMORY_BYTES // 40)]
    payments = Payments()
    assert (0, payments_root([])) == payments.up_to(10**18)
    for number, leaf in enumerate(leaves):
        payments.add(3 * number, leaf)
    covered = 0
    for end in (0, 1, 1024, 1025, 2048, 100_000, 150_001, len(leaves)):
        for until in (3 * end - 3, 3 * end - 1):
            assert (end - covered, payments_root(leaves[covered:end])) == payments.up_to(until)
        payments.cover(end - covered)
        covered = end
        if end == 100_000:
            payments = Payments.load(payments.dump())
    payments.add(2**63 - 1, leaves[0])
    assert (1, leaves[0].hex()) == payments.up_to(2**63 - 1)
    assert (0, payments_root([])) == payments.up_to(2**63 - 2)


@every("dumped,problem", [("AAAA", "no payments"), ("not base64", "base64"), ("A" * 55, "padding")])
def test_a_file_without_payments(dumped: str, problem: str) -> None:
    """An audit does not go on from it."""
    with pytest.raises(ValueError, match=problem):
        Payments.load(dumped)
