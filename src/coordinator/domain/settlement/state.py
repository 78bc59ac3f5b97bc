"""The state of a settlement batch, and how it follows from events.

    nothing --close--> OPEN --prepare--> PREPARED --submit--> SUBMITTED --confirm--> the next part, or SETTLED
                                            ^  ^-----revert------+ |
                                            +--prepare, same nonce-+ --refuse--> the next part, or SETTLED

Each batch has its own stream, so that the state does not grow with the history of all batches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, assert_never
from uuid import UUID

from coordinator.domain.decision import evolves
from coordinator.domain.messages import CannotFollow, stream_id
from coordinator.domain.settlement.events import (
    Payout,
    SettlementClosed,
    SettlementConfirmed,
    SettlementEvent,
    SettlementPrepared,
    SettlementRefused,
    SettlementReverted,
    SettlementSubmitted,
)

SettlementStatus = Literal["OPEN", "PREPARED", "SUBMITTED", "SETTLED"]


@dataclass(frozen=True, slots=True)
class Settlement:
    """A batch. Its parts before `part` are confirmed or refused."""

    closed: SettlementClosed
    part: int = 0
    first: int = 0
    """The first payout that is neither confirmed nor refused."""
    prepared: tuple[SettlementPrepared, ...] = ()
    """The bytes of this part, the last ones last; more than one have the same nonce."""
    submitted: str | None = None
    """The hash that the sink has taken."""
    confirmed: int = 0
    """The amount that has left."""
    refused: int = 0
    """The amount that returned to its payees."""

    @property
    def status(self) -> SettlementStatus:
        if self.first == len(self.closed.payouts):
            return "SETTLED"
        if not self.prepared:
            return "OPEN"
        return "PREPARED" if self.submitted is None else "SUBMITTED"

    @property
    def in_part(self) -> tuple[Payout, ...]:
        """The payouts of the part that is prepared; all that are left if none is."""
        payouts = self.closed.payouts[self.first :]
        return payouts[: self.prepared[0].count] if self.prepared else payouts

    @property
    def in_transit(self) -> int:
        """The amount that is neither confirmed nor refused."""
        return self.closed.total - self.confirmed - self.refused


SettlementState = Settlement | None


def settlement_stream(number: int) -> UUID:
    """The id of this batch's stream. The streams of batches have numbers without gaps."""
    return stream_id("settlement", str(number))


@evolves("settlement")
def evolve(state: SettlementState, event: SettlementEvent) -> Settlement:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    if state is None:
        if not isinstance(event, SettlementClosed):
            raise CannotFollow(state, event)
        return Settlement(event)
    if isinstance(event, SettlementClosed) or event.part != state.part or state.status == "SETTLED":
        raise CannotFollow(state, event)
    match event:
        case SettlementPrepared():
            if event.count > len(state.closed.payouts) - state.first:
                raise CannotFollow(state, event)
            # A new fee for the same payment: the sink may have taken any of them.
            return replace(state, prepared=(*state.prepared, event), submitted=None)
        case SettlementSubmitted():
            if state.status == "PREPARED" and event.hash in hashes(state):
                return replace(state, submitted=event.hash)
        case SettlementReverted():
            if state.status == "SUBMITTED":
                return replace(state, submitted=None)
        case SettlementConfirmed():
            if event.hash in hashes(state):
                return _ended(state, confirmed=True)
        case SettlementRefused():
            return _ended(state, confirmed=False)
        case _:
            assert_never(event)
    raise CannotFollow(state, event)


def hashes(state: Settlement) -> tuple[str, ...]:
    """The hashes of all bytes that were prepared for the current part."""
    return tuple(prepared.hash for prepared in state.prepared)


def _ended(state: Settlement, *, confirmed: bool) -> Settlement:
    payouts = state.in_part
    amount = sum(payout.amount for payout in payouts)
    return replace(
        state,
        part=state.part + 1,
        first=state.first + len(payouts),
        prepared=(),
        submitted=None,
        confirmed=state.confirmed + (amount if confirmed else 0),
        refused=state.refused + (0 if confirmed else amount),
    )
