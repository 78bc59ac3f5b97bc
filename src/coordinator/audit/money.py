"""Money by the rules of the protocol: entries that sum to zero, holds before jobs, one payment for each."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from coordinator.audit.entries import Found
from coordinator.audit.parties import in_stream
from coordinator.audit.settlement import TRANSIT, Batches
from coordinator.audit.units import UNIT_TYPES

Event = dict[str, Any]
TOPICS: Final = ("account.", "payment.", "payments.", "transfer.", "settlement.")
OUTSIDE: Final = "@outside"
MILLION: Final = 1_000_000


class Money:
    """The accounts, holds and payments after the events so far.

    A decision's events are neighbours in the log: its entries come first, and then the event of the transfer,
    the settlement or the payment, which closes the posting. So a posting is whole before the next one begins.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, list[int]] = {}
        """Balance, held and disputed, by party."""
        self.events: dict[str, int] = {}
        """The number of events, by party."""
        self.pending: dict[str, dict[str, int]] = {}
        """Sums of credits that are not available, by party and by the moment at which they become so."""
        self.earned: dict[str, int] = {}
        """The part of a balance that came from payments, and that no batch has paid out, by party."""
        self.addresses: dict[str, list[str]] = {}
        """The sink and the payout address, by party."""
        self.set_aside: dict[str, list[int]] = {}
        """The number and the sum of holds that were set aside, and whose jobs follow, by client."""
        self.ended: list[list[Any]] = []
        """Ended jobs that are not settled, in their order: position, job, client, hold, miner, price, …"""
        self.settled: list[int] = [0, 0]
        """The number of the last settlement, and how far it reaches."""
        self.paid: dict[str, list[Any]] = {}
        """Client, miner, amount, fee, end of the time for disputes, attempt, units and status, by job."""
        self.transfers: set[str] = set()
        self.posting: list[Event] = []
        """The entries whose posting is not closed yet."""
        self.released: list[Event] = []
        """The ends of holds whose settlement follows."""
        self.batches = Batches()

    # --- jobs -----------------------------------------------------------------------------------------------
    def submitted(self, event: Event) -> None:
        """Raise Found unless exactly the job's hold was set aside before."""
        amount, client = event.get("hold"), event["client"]
        if not amount:
            return
        jobs, left = self.set_aside.pop(client, [0, 0])
        if not jobs or left < amount or (jobs == 1 and left != amount):
            raise Found("money", "a job's hold is set aside with its submit", amount, left)
        if jobs > 1:
            self.set_aside[client] = [jobs - 1, left - amount]

    def job_ended(self, submitted: Event, event: Event, position: int, *, completed: bool) -> None:
        """Note what is to be paid for a job that has ended."""
        if not submitted.get("hold"):
            return
        miner, price = None, 0
        if completed:
            miner, price = event["miner_id"].rpartition("@")[2], int(Decimal(event["price"]) * MILLION)
        self.ended.append(
            [
                position,
                submitted["job_id"],
                submitted["client"],
                submitted["hold"],
                miner,
                price,
                event["attempt"],
                event.get("units"),
                UNIT_TYPES[submitted.get("unit")],
            ]
        )

    # --- money ----------------------------------------------------------------------------------------------
    def follow(self, stream: str, topic: str, event: Event, position: int = 0) -> None:
        """Follow one event of an account, a payment, a transfer or a batch. Raises Found."""
        if topic.startswith("account."):
            self._account(stream, topic, event)
            return
        entries, self.posting = self.posting, []
        total = sum(entry["amount"] for entry in entries)
        if total:
            raise Found("money", "the entries of a posting sum to zero", 0, total)
        if topic == "transfer.made.v1":
            self._transfer(stream, event, entries)
        elif topic.startswith("settlement."):
            _check(entries, self.batches.follow(stream, topic, event, position))
        elif topic == "payments.settled.v1":
            released, self.released = self.released, []
            self._settled(stream, event, entries, released)
            self.batches.settled(event, position)
        else:
            self._payment(stream, topic, event, entries)

    def _account(self, stream: str, topic: str, event: Event) -> None:
        party = event["party"]
        in_stream(stream, "account", party)
        if party in self.set_aside and topic != "account.carried.v1":
            raise Found("money", f"the jobs of a hold of {party} follow it", self.set_aside[party], topic)
        before = self.accounts.get(party, [0, 0, 0])
        balance, held, disputed = before
        amount = event.get("amount", 0)
        self.events[party] = self.events.get(party, 0) + 1
        pending = self.pending.setdefault(party, {})
        match topic:
            case "account.held.v1":
                held += amount
                self.set_aside[party] = [event["jobs"], amount]
            case "account.released.v1":
                held -= amount
                self.released.append(event)
            case "account.posted.v1":
                balance, held, disputed = (
                    balance + amount,
                    held - event["released"],
                    disputed - event["unfrozen"],
                )
                if self.posting and self.posting[0]["posting"] != event["posting"]:
                    whole = self.posting[0]["posting"]
                    raise Found("money", "a posting is whole", whole, event["posting"])
                self.posting.append(event)
                self.earned[party] = _earned(self.earned.get(party, 0), event)
                if event["available_at"] is not None:
                    _add(pending, event["available_at"], amount)
            case "account.disputed.v1":
                disputed += amount
                _add(pending, event["available_at"], -amount)
            case "account.dismissed.v1":
                disputed -= amount
                _add(pending, event["available_at"], amount)
            case "account.payout_address_set.v1":
                if event["by"] != party:
                    raise Found("settlement", "a party sets its own payout address", party, event["by"])
                self.addresses[party] = [event["sink"], event["address"]]
            case "account.carried.v1":
                whole = [self.events[party], sorted((int(at), total) for at, total in pending.items())]
                whole += [self.earned.get(party, 0), *self.addresses.get(party, ("", ""))]
                carried = [event["number"], [tuple(entry) for entry in event["pending"]], event["earned"]]
                carried += [event["payout_sink"], event["payout_address"]]
                if whole != carried:
                    raise Found("money", f"the state of {party} is carried on as it is", whole, carried)
        self.pending[party] = {at: total for at, total in pending.items() if int(at) > event["at"]}
        after, told = [balance, held, disputed], [event["balance"], event["held"], event["disputed"]]
        if after != told:
            raise Found("money", f"the totals of {party} follow from its events", after, told)
        if party != OUTSIDE and (min(held, disputed) < 0 or balance < held + disputed):
            raise Found("money", f"{party} has less than is set aside", held + disputed, balance)
        self.accounts[party] = after

    def _transfer(self, stream: str, event: Event, entries: list[Event]) -> None:
        in_stream(stream, "transfer", event["party"], event["business_id"])
        if stream in self.transfers:
            raise Found("money", "a transfer is made once")
        self.transfers.add(stream)
        amount = event["amount"] if event["kind"] == "deposit" else -event["amount"]
        _check(entries, {event["party"]: amount, OUTSIDE: -amount})

    def _settled(self, stream: str, event: Event, entries: list[Event], released: list[Event]) -> None:
        """Every job that ended since the settlement before is settled, by its receipt, and no other one."""
        in_stream(stream, "payments", "all")
        number, after, until = event["number"], event["after"], event["until"]
        if [number - 1, after] != self.settled:
            raise Found("money", "a settlement follows the one before", self.settled, [number - 1, after])
        due = [job for job in self.ended if job[0] <= until]
        if not due or due[-1][0] != until:
            raise Found("money", "a settlement reaches to the end of a job", due[-1:], until)
        self.ended, self.settled = self.ended[len(due) :], [number, until]
        payments, unpaid = iter(event["payments"]), iter(event["unpaid"])
        moved: dict[str, int] = {}
        freed: dict[str, int] = {}
        for _, job_id, client, hold, miner, price, attempt, units, unit_type in due:
            amount = min(price, hold)
            freed[client] = freed.get(client, 0) + hold
            if miner is None or not amount:
                told = next(unpaid, None)
                expected = {"job_id": job_id, "client": client, "hold": hold}
                if told != expected:
                    raise Found(
                        "money", f"the hold of job {job_id} ends, and it costs nothing", expected, told
                    )
                continue
            told = next(payments, None)
            fee = 0 if told is None else told["fee"]
            expected = {"job_id": job_id, "client": client, "miner": miner, "attempt": attempt, "hold": hold}
            expected |= {"amount": amount, "fee": fee, "units": units, "unit_type": unit_type}
            if told != expected or not 0 <= fee <= amount:
                raise Found("money", f"job {job_id} is paid its price, within its hold", expected, told)
            for party, part in _moved(client, miner, amount, fee).items():
                moved[party] = moved.get(party, 0) + part
            self.paid[job_id] = [client, miner, amount, fee, event["available_at"], "PAID"]
        if (further := next(payments, None) or next(unpaid, None)) is not None:
            raise Found("money", f"job {further['job_id']} is settled once, after its end")
        _check(entries, moved)
        told_freed: dict[str, int] = {}
        for entry in (*entries, *released):
            amount = entry["released"] if "released" in entry else entry["amount"]
            told_freed[entry["party"]] = told_freed.get(entry["party"], 0) + amount
        told_freed = {party: amount for party, amount in told_freed.items() if amount}
        if told_freed != freed:
            raise Found("money", "the holds of settled jobs end, and no others", freed, told_freed)
        late = [e["party"] for e in entries if e["amount"] > 0 and e["available_at"] != event["available_at"]]
        if late:
            raise Found("money", "credits are pending until their disputes are over", [], late)

    def _payment(self, stream: str, topic: str, event: Event, entries: list[Event]) -> None:
        job_id = event["job_id"]
        in_stream(stream, "payment", job_id)
        paid = self.paid.get(job_id)
        if paid is None:
            raise Found("money", f"job {job_id} was not paid")
        client, miner, amount, fee, available_at, status = paid
        facts = [event["client"], event["miner"], event["credit"], event["available_at"]]
        if facts != [client, miner, amount - fee, available_at]:
            expected = [client, miner, amount - fee, available_at]
            raise Found("money", f"{topic} names the payment of job {job_id}", expected, facts)
        follows = {"payment.disputed.v1": ("PAID",), "payment.dismissed.v1": ("DISPUTED",)}
        if status not in follows.get(topic, ("PAID", "DISPUTED", "KEPT")):
            raise Found("money", f"{topic} can't follow {status}")
        refunded = topic == "payment.refunded.v1"
        if refunded and event["disputed"] != (status == "DISPUTED"):
            raise Found("money", f"{topic} tells whether job {job_id} was disputed", status)
        _check(entries, _moved(client, miner, -amount, -fee) if refunded else {})
        paid[5] = {"payment.disputed.v1": "DISPUTED", "payment.dismissed.v1": "KEPT"}.get(topic, "REFUNDED")

    def finish(self) -> None:
        """At the end of the log. Raises Found if a posting is not whole, or if money came from nowhere."""
        if self.posting:
            raise Found("money", "a posting is whole", None, self.posting[0]["posting"])
        if self.set_aside or self.released:
            left = [*self.set_aside, *(event["party"] for event in self.released)]
            raise Found("money", "holds are of jobs", [], left)
        total = sum(balance for balance, _, _ in self.accounts.values())
        if total:
            raise Found("money", "all balances sum to zero", 0, total)
        transit = self.accounts.get(TRANSIT, [0])[0]
        if transit != self.batches.in_transit:
            raise Found("settlement", "the open batch is in transit", self.batches.in_transit, transit)

    # --- a file ---------------------------------------------------------------------------------------------
    def dump(self) -> dict[str, Any]:
        """For a file; see `load`."""
        batches = self.batches.dump()
        return {**vars(self), "transfers": sorted(self.transfers), "batches": batches}

    @classmethod
    def load(cls, values: dict[str, Any]) -> Money:
        """The money of `dump`, read from JSON."""
        money = cls()
        vars(money).update(values)
        money.transfers = set(values["transfers"])
        money.batches = Batches.load(values["batches"])
        return money


def _add(pending: dict[str, int], moment: int, amount: int) -> None:
    total = pending.pop(str(moment), 0) + amount
    if total > 0:  # what is taken from a credit that is available is not taken from those that are not
        pending[str(moment)] = total


def _earned(earned: int, entry: Event) -> int:
    """The earned part of a balance after an entry: it is never more than the balance."""
    kind, amount = entry["kind"], entry["amount"]
    if (
        kind in ("payout", "payout_returned")
        or (kind == "payment" and amount > 0)
        or (kind == "refund" and amount < 0)
    ):
        earned += amount
    return max(0, min(earned, int(entry["balance"])))


def _moved(client: str, miner: str, amount: int, fee: int) -> dict[str, int]:
    moved = {client: -amount}
    moved[miner] = moved.get(miner, 0) + amount - fee
    return {**moved, "@fees": fee}


def _check(entries: list[Event], expected: dict[str, int]) -> None:
    found: dict[str, int] = {}
    for entry in entries:
        found[entry["party"]] = found.get(entry["party"], 0) + entry["amount"]
    wanted = {party: amount for party, amount in expected.items() if amount}
    found = {party: amount for party, amount in found.items() if amount}
    if found != wanted:
        raise Found("money", "a posting moves the amount of its fact", wanted, found)
