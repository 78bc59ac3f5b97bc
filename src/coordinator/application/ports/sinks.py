"""Settlement sinks: what pays a batch out. Asynchronous, and without storage of their own.

    prepare → (the bytes are in the log) → submit → poll → … → poll

The log has the exact bytes before the first `submit`, and nothing else is ever sent: a crash at any moment
sends them again. So a sink must be able to tell a repeat from a second payment by the bytes alone: by a
nonce, a hash, an id or a name in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from coordinator.domain.messages import Millis
from coordinator.domain.settlement import Payout


class SinkUnavailable(Exception):
    """The sink could not be asked; nothing was sent. The text is for operators, without any secret."""


class SinkBatch(NamedTuple):
    """A batch, and the payouts of it that are to be paid next."""

    number: int
    digest: str
    closed_at: Millis
    payouts: Sequence[Payout]
    """All payouts of the batch."""
    first: int
    """The next payment begins with `payouts[first]`; those before it are paid or refused for good."""

    @property
    def left(self) -> Sequence[Payout]:
        """The payouts from `first` on, in the order in which they have to be paid."""
        return self.payouts[self.first :]


class SinkHistory(NamedTuple):
    """What this sink has paid for good, in all batches so far and the parts of this one."""

    paid: Mapping[str, int]
    """Amounts in 10⁻⁶ of the unit by address."""
    nonce: int | None
    """The last nonce that was used; None for none."""


class PreparedPayment(NamedTuple):
    """The exact bytes of one payment."""

    body: bytes
    hash: str
    """64 lower-case hex digits, with 0x before them if the sink writes it so. No two payments share one."""
    nonce: int | None = None
    """Two payments with the same nonce exclude each other. None: this payment can't be replaced."""
    covers: int = 1
    """How many payouts it pays, from `SinkBatch.first` on."""
    payout_root: str | None = None
    """The root by which payees claim, 64 lower-case hex digits; None if the sink has none."""


# --- answers to submit -------------------------------------------------------------------------------------
class Submitted(NamedTuple):
    """The sink has taken it, now or earlier."""


class SinkRefused(NamedTuple):
    """The sink does not take it, and never will. Believed only if `poll` does not know the payment either."""

    reason: str


class Unknown(NamedTuple):
    """No answer, or one that says nothing: it may have been taken. It is polled, and sent again later."""

    reason: str


# --- answers to poll ---------------------------------------------------------------------------------------
class Pending(NamedTuple):
    """Taken, and not final yet."""

    confirmations: int = 0


class Final(NamedTuple):
    """Paid for good."""

    confirmations: int = 0


class Gone(NamedTuple):
    """The sink does not know it: never arrived, or dropped (a fork). The same bytes are sent again."""


SubmitAnswer = Submitted | SinkRefused | Unknown
PollAnswer = Pending | Final | Gone | SinkRefused | Unknown


class SettlementSink(Protocol):
    """One way to pay batches. Its methods bound their own time, and raise nothing but SinkUnavailable."""

    name: str
    """Its kind, as in SETTLEMENT_SINK; events and payout addresses name it."""
    needs_address: bool
    """Whether a party is paid only if it has set a payout address."""
    quantum: int
    """It pays multiples of this amount only, in 10⁻⁶ of the unit; the rest stays with the payee."""

    def address_fault(self, address: str) -> str | None:
        """Why this sink can't pay this address, in a few words for its owner; None for a good one. Pure."""

    async def check(self) -> str | None:
        """Why the sink can't work as it is set up (another chain, no folder …); None if it can."""

    async def prepare(self, batch: SinkBatch, history: SinkHistory) -> PreparedPayment:
        """The next payment of a batch: `covers` payouts from `batch.first` on. Nothing is sent.

        Raises SinkUnavailable.
        """

    async def submit(self, payment: PreparedPayment) -> SubmitAnswer:
        """Send these bytes. Sent twice they pay once."""

    async def poll(self, payment: PreparedPayment) -> PollAnswer:
        """What became of a payment that may have been sent, before a crash for one."""

    async def replacement(
        self, payments: Sequence[PreparedPayment], pending_seconds: float
    ) -> PreparedPayment | None:
        """Other bytes with the same nonce, for payments that are pending for so long; None to wait on.

        Raises SinkUnavailable.
        """

    async def close(self) -> None:
        """Give back connections. May be called twice."""
