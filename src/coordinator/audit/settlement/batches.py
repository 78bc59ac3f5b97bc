"""Settlement batches by the rules of the protocol: chained, without gaps, and paid once."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any, Final

from coordinator.audit.entries import Found
from coordinator.audit.parties import in_stream
from coordinator.audit.settlement.payments import Payments
from coordinator.audit.settlement.publications import Publications
from coordinator.crypto.settlement import NO_BATCH, batch_digest, payment_leaf

Event = dict[str, Any]
TRANSIT: Final = "@settlement"
OUTSIDE: Final = "@outside"
HASHED: Final = ("file", "webhook")
"""Sinks whose hash is the SHA-256 of the bytes."""
CONTRACT: Final = "evm"
"""The sink whose bytes publish a root in a contract."""


class Batches:
    """The batches after the events so far. At most one is not settled."""

    def __init__(self) -> None:
        self.payments = Payments()
        """Those that no batch covers yet."""
        self.publications = Publications()
        self.number = 0
        self.until = 0
        self.digest = NO_BATCH
        self.payouts: list[list[Any]] = []
        """Party, address and amount of the open batch's payouts that are neither paid nor back."""
        self.part = 0
        self.sink = ""
        self.prepared: list[Event] = []
        """The open part: hash, nonce and count of all bytes that were prepared."""
        self.submitted = False
        self.paid: set[str] = set()
        """The hashes of all confirmed parts."""

    def settled(self, event: Event, position: int) -> None:
        """Note the payments of a settlement."""
        for payment in event["payments"]:
            self.payments.add(position, payment_leaf(payment))

    def follow(self, stream: str, topic: str, event: Event, position: int) -> dict[str, int]:
        """Follow one event of a batch; the amounts that it moves, by party. Raises Found."""
        number = event["number"]
        in_stream(stream, "settlement", str(number))
        if topic == "settlement.closed.v1":
            return self._closed(event, position)
        if number != self.number or not self.payouts or event["part"] != self.part:
            raise Found(
                "settlement",
                f"{topic} is of the open part of the open batch",
                [self.number, self.part],
                number,
            )
        hashes = [prepared["hash"] for prepared in self.prepared]
        match topic:
            case "settlement.prepared.v1":
                return self._prepared(event)
            case "settlement.submitted.v1":
                if self.submitted or event["hash"] not in hashes:
                    raise Found("settlement", "only prepared bytes are sent", hashes, event["hash"])
                self.submitted = True
                return {}
            case "settlement.reverted.v1":
                if not self.submitted:
                    raise Found("settlement", "only bytes that were taken are lost")
                self.submitted = False
                return {}
            case "settlement.confirmed.v1":
                if event["hash"] not in hashes:
                    raise Found("settlement", "only prepared bytes are paid", hashes, event["hash"])
                if event["hash"] in self.paid:
                    raise Found("settlement", "the same bytes pay once", None, event["hash"])
                self.paid.add(event["hash"])
                if self.sink == CONTRACT:
                    self.publications.confirmed()
                total = sum(self._end().values())
                return {TRANSIT: -total, OUTSIDE: total}
            case "settlement.refused.v1":
                self.publications.refused()
                ended = self._end()
                return {TRANSIT: -sum(ended.values()), **ended}
        raise Found("event", f"the auditor does not know {topic}")

    def _closed(self, event: Event, position: int) -> dict[str, int]:
        if self.payouts:
            raise Found("settlement", f"batch {self.number} is settled before the next one is closed")
        told = [event["number"], event["after"], event["previous"]]
        expected = [self.number + 1, self.until, self.digest]
        if told != expected:
            raise Found(
                "settlement", "a batch follows the one before, without gap or overlap", expected, told
            )
        if not event["after"] <= event["until"] < position:
            raise Found("settlement", "a batch covers events before it", event["after"], event["until"])
        count, root = self.payments.up_to(event["until"])
        if [event["receipts"], event["receipts_root"]] != [count, root]:
            raise Found(
                "settlement",
                "a batch has the root of the payments that it covers",
                [count, root],
                [event["receipts"], event["receipts_root"]],
            )
        self.payments.cover(count)
        payouts = [[payout["party"], payout["address"], payout["amount"]] for payout in event["payouts"]]
        moved = {party: amount for party, _, amount in payouts}
        if len(moved) != len(payouts) or sum(moved.values()) != event["total"]:
            raise Found(
                "settlement", "a batch pays each party once, its total in all", event["total"], payouts
            )
        if batch_digest(event) != event["digest"]:
            raise Found(
                "settlement", "a batch has the digest of its facts", batch_digest(event), event["digest"]
            )
        self.number, self.until, self.digest = event["number"], event["until"], event["digest"]
        self.payouts, self.part, self.sink = payouts, 0, event["sink"]
        return {**{party: -amount for party, amount in moved.items()}, TRANSIT: event["total"]}

    def _prepared(self, event: Event) -> dict[str, int]:
        if not 1 <= event["count"] <= len(self.payouts):
            raise Found("settlement", "a part pays what is left", len(self.payouts), event["count"])
        if self.prepared:
            last = self.prepared[-1]
            expected, told = [last["nonce"], last["count"]], [event["nonce"], event["count"]]
            if event["nonce"] is None or expected != told:
                raise Found("settlement", "other bytes of a part have the same nonce", expected, told)
        raw = _bytes(event["body"])
        if self.sink in HASHED and (digest := hashlib.sha256(raw).hexdigest()) != event["hash"]:
            raise Found("settlement", "the hash is that of the bytes", digest, event["hash"])
        if self.sink == CONTRACT:
            paid = [(address, amount) for _, address, amount in self.payouts[: event["count"]]]
            self.publications.prepared(event, raw, paid)
        self.prepared.append({"hash": event["hash"], "nonce": event["nonce"], "count": event["count"]})
        self.submitted = False
        return {}

    def _end(self) -> dict[str, int]:
        """End the open part; its amounts by party."""
        count = self.prepared[0]["count"] if self.prepared else len(self.payouts)
        ended, self.payouts = self.payouts[:count], self.payouts[count:]
        self.part, self.prepared, self.submitted = self.part + 1, [], False
        return {party: amount for party, _, amount in ended}

    @property
    def in_transit(self) -> int:
        """The amount that `@settlement` has to have."""
        return sum(amount for _, _, amount in self.payouts)

    def dump(self) -> dict[str, Any]:
        """For a file; see `load`."""
        return {
            **vars(self),
            "payments": self.payments.dump(),
            "publications": self.publications.dump(),
            "paid": sorted(self.paid),
        }

    @classmethod
    def load(cls, values: dict[str, Any]) -> Batches:
        """The batches of `dump`, read from JSON. Raises ValueError."""
        batches = cls()
        vars(batches).update(values)
        batches.payments = Payments.load(values["payments"])
        batches.publications = Publications.load(values["publications"])
        batches.paid = set(values["paid"])
        return batches


def _bytes(body: str) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        raise Found("settlement", "the bytes are in base64", None, body) from None
