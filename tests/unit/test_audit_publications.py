"""The auditor of roots that a contract was sent: those of the rules are clean, each spoilt one is found."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.audit.entries import Found
from coordinator.audit.settlement.publications import read_publication
from coordinator.crypto.evm.addresses import address_of
from coordinator.crypto.evm.payout_tree import EMPTY_ROOT, PayoutTree
from coordinator.domain import account, settlement
from coordinator.domain.messages import Principal, Role
from coordinator.domain.settlement import SinkTerms, settlement_stream
from coordinator.settlement.evm.contract import claim, set_root
from coordinator.settlement.evm.signer import GWEI, EvmSigner, Fees
from tests.harness.cases import every
from tests.harness.deciding import T0
from tests.harness.settled import History, Line, event_of, replay

CHAIN, CONTRACT = 1337, address_of(b"\x42" * 20)
RIG, FARM, STRANGER = (address_of(bytes([0xCE, n]) * 10) for n in (1, 2, 3))
SIGNER = EvmSigner("01" * 32)
EVM = SinkTerms("evm", needs_address=True, fault_of=lambda address: None, minimum=1)
TOKEN = 10**12
"""The token's smallest units in 10⁻⁶ of one unit: it has 18 decimals."""
FEES = Fees(GWEI, GWEI)


class Sent(NamedTuple):
    """The facts of a transaction; a test spoils one of them."""

    old: bytes
    new: bytes
    total: int
    batch: int
    nonce: int
    chain: int = CHAIN
    contract: str = CONTRACT
    fees: Fees = FEES

    def members(self) -> dict[str, Any]:
        data = set_root(self.old, self.new, self.total, self.batch)
        signed = SIGNER.sign(
            chain_id=self.chain, nonce=self.nonce, to=self.contract, data=data, gas=100_000, fees=self.fees
        )
        body = base64.b64encode(signed.raw).decode()
        return {"nonce": self.nonce, "hash": signed.hash, "body": body, "payout_root": self.new.hex()}


def root_of(sums: dict[str, int], contract: str = CONTRACT) -> bytes:
    return PayoutTree(CHAIN, contract, {address: micros * TOKEN for address, micros in sums.items()}).root


class ContractHistory(History):
    """Three batches: one is paid by a replacement with a higher fee, one refused, one pays the rest."""

    sink = EVM

    def settle(self) -> None:
        self.sums: dict[str, int] = {}
        self.sent: dict[int, Sent] = {}
        """The last bytes of each batch."""
        self.move("rig", RIG.lower())
        self.move("farm", FARM)
        self.close(1)
        self.publish(1, nonce=4)
        self.publish(1, nonce=4, fees=Fees(2 * GWEI, 2 * GWEI))
        self.end(1)
        self.work(4, "rig")
        self.close(2)
        self.publish(2, nonce=5)
        self.end(2, refused=True)
        self.move("farm", RIG)
        self.work(5, "farm")
        self.close(3)
        self.publish(3, nonce=6)
        self.end(3)

    def move(self, party: str, address: str) -> None:
        command = account.AccountSetPayoutAddress(address=address)
        context = account.AddressContext(T0, Principal(party, Role.MINER), "evm")
        self.add(account.decide(self.of(party)[0], command, context))

    def after(self, number: int) -> dict[str, int]:
        """The sums once this batch is paid."""
        sums = dict(self.sums)
        for payout in self.states[settlement_stream(number)].closed.payouts:
            sums[payout.address.lower()] = sums.get(payout.address.lower(), 0) + payout.amount
        return sums

    def publish(self, number: int, *, nonce: int, fees: Fees = FEES) -> None:
        sums = self.after(number)
        total = sum(sums.values()) * TOKEN
        sent = Sent(root_of(self.sums), root_of(sums), total, number, nonce, fees=fees)
        members = sent.members()
        count = len(self.states[settlement_stream(number)].closed.payouts)
        self.send(settlement.SettlementPrepare(number=number, part=0, count=count, **members))
        self.send(settlement.SettlementSubmit(number=number, part=0, hash=members["hash"]))
        self.sent[number] = sent

    def end(self, number: int, *, refused: bool = False) -> None:
        if refused:
            self.send(settlement.SettlementRefuse(number=number, part=0, reason="the transaction failed"))
            return
        digest = self.sent[number].members()["hash"]
        self.send(settlement.SettlementConfirm(number=number, part=0, hash=digest, confirmations=2))
        self.sums = self.after(number)


def spoil(lines: list[Line], number: int, **members: Any) -> None:
    """Other bytes in all events of the only prepared part of a batch."""
    for topic in ("prepared", "submitted", "confirmed"):
        event = event_of(lines, f"settlement.{topic}.v1", number=number)
        event.update({name: value for name, value in members.items() if name in event})


def test_roots_of_the_rules_are_clean() -> None:
    """Each batch's root has all sums that are paid, by address; a refused one is of no sum."""
    history = ContractHistory()
    publications = replay(history.lines).batches.publications
    assert publications.contract == [CHAIN, CONTRACT.lower(), 10**18]
    assert publications.sums == history.sums
    assert set(history.sums) == {RIG.lower(), FARM.lower()}
    assert publications.root == root_of(history.sums).hex()


SPOILT: list[tuple[str, Callable[[ContractHistory, Sent], dict[str, Any]]]] = [
    (
        "the one over all sums",
        lambda history, sent: sent._replace(new=root_of({**history.sums, STRANGER: 1})).members(),
    ),
    (
        "the one over all sums",  # the micros of one account went to another
        lambda history, sent: sent._replace(
            new=root_of(
                {RIG.lower(): history.sums[RIG.lower()] + 1, FARM.lower(): history.sums[FARM.lower()] - 1}
            )
        ).members(),
    ),
    ("the one over all sums", lambda history, sent: sent._replace(new=EMPTY_ROOT).members()),
    ("follows the one before", lambda history, sent: sent._replace(old=EMPTY_ROOT).members()),
    ("follows the one before", lambda history, sent: sent._replace(old=sent.new).members()),
    ("published total", lambda history, sent: sent._replace(total=sent.total + 1).members()),
    ("of one contract and token", lambda history, sent: sent._replace(total=sent.total // 10).members()),
    ("of one contract and token", lambda history, sent: sent._replace(chain=1).members()),
    ("of one contract and token", lambda history, sent: sent._replace(contract=RIG).members()),
    ("what the bytes publish", lambda history, sent: sent._replace(batch=4).members()),
    ("what the bytes publish", lambda history, sent: {**sent.members(), "nonce": 7}),
    ("what the bytes publish", lambda history, sent: {**sent.members(), "payout_root": "ab" * 32}),
    ("what the bytes publish", lambda history, sent: {**sent.members(), "payout_root": None}),
    ("hash is that of the bytes", lambda history, sent: {**sent.members(), "hash": "0x" + "ab" * 32}),
    ("base64", lambda history, sent: {**sent.members(), "body": "a"}),
]


@every("detail,change", SPOILT)
def test_a_spoilt_root_is_found(
    detail: str, change: Callable[[ContractHistory, Sent], dict[str, Any]]
) -> None:
    """The publisher's key signs whatever a forger of the log wants: the sums do not."""
    history = ContractHistory()
    spoil(history.lines, 3, **change(history, history.sent[3]))
    with pytest.raises(Found, match=detail) as found:
        replay(history.lines)
    assert found.value.kind == "settlement"


def test_a_spoilt_first_root_is_found() -> None:
    """The first transaction says which contract and token: its root and its total fit each other."""
    for changes in ({"total": 3}, {"new": EMPTY_ROOT}, {"old": b"\1" * 32}, {"contract": RIG}):
        history = ContractHistory()
        first = event_of(history.lines, "settlement.prepared.v1", number=1)
        sent = history.sent[1]._replace(fees=FEES, **changes)
        first.update(sent.members())
        with pytest.raises(Found):
            replay(history.lines)


def test_a_replacement_has_the_same_root() -> None:
    """A higher fee must not bring in another root."""
    history = ContractHistory()
    other = history.sent[1]._replace(new=root_of({STRANGER: 1})).members()
    last = history.sent[1].members()["hash"]
    for _, topic, event in history.lines:
        if topic.startswith("settlement.") and event.get("hash") == last:
            event.update({name: value for name, value in other.items() if name in event})
    with pytest.raises(Found, match="the one over all sums"):
        replay(history.lines)


RAW = base64.b64decode(Sent(EMPTY_ROOT, b"\1" * 32, 5, 1, 0).members()["body"])


@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(lambda content: b"\x02" + content),
        st.integers(0, len(RAW) - 1).map(lambda end: RAW[:end]),
        st.tuples(st.integers(0, 30), st.binary(min_size=1, max_size=12)).map(
            lambda change: RAW[: change[0]] + change[1] + RAW[change[0] + len(change[1]) :]
        ),
    )
)
def test_bytes_of_any_form_are_read_or_refused(raw: bytes) -> None:
    """Nothing but ValueError, whatever the lengths in them say."""
    try:
        sent = read_publication(raw)
    except ValueError:
        return
    assert len(sent.old_root) == len(sent.new_root) == 32


@every(
    "data,to,problem",
    [
        (claim(RIG, 1, []), CONTRACT, "set_root"),
        (b"", CONTRACT, "set_root"),
        (set_root(EMPTY_ROOT, EMPTY_ROOT, 1, 1) + b"\0", CONTRACT, "set_root"),
        (set_root(EMPTY_ROOT, EMPTY_ROOT, 1, 1), None, "a call"),
    ],
)
def test_other_transactions_publish_nothing(data: bytes, to: str | None, problem: str) -> None:
    """A claim, a call with more data, the creation of a contract."""
    signed = SIGNER.sign(chain_id=CHAIN, nonce=0, to=to, data=data, gas=1, fees=FEES)
    with pytest.raises(ValueError, match=problem):
        read_publication(signed.raw)
