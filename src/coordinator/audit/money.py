"""Money by the rules of the protocol: entries that sum to zero, holds before jobs, one payment for each."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from coordinator.audit.entries import Found
from coordinator.audit.parties import in_stream
from coordinator.audit.settlement import TRANSIT, Batches
from coordinator.audit.units import UNIT_TYPES

Event = dict[str, Any]
Signed = tuple[Event, str]
"""A statement, and the key that must have signed it."""
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
        """Client, miner, amount, fee, end of the time for disputes, and status, by job."""
        self.kept: dict[str, list[Any]] = {}
        """Client, hold, miner, attempt, and the facts of the work, of cancelled jobs whose holds wait."""
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

    def job_ended(
        self,
        submitted: Event,
        event: Event,
        position: int,
        *,
        completed: bool,
        stopped: Event | None = None,
    ) -> None:
        """Note what is to be paid for a job that has ended; `stopped`: the claim of the work that a
        cancellation ended."""
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
                None if stopped is None or submitted.get("unit") else _work(submitted, stopped, event),
            ]
        )

    # --- money ----------------------------------------------------------------------------------------------
    def follow(self, stream: str, topic: str, event: Event, position: int = 0) -> Signed | None:
        """Follow one event of an account, a payment, a transfer or a batch; a statement to verify.

        Raises Found.
        """
        if topic.startswith("account."):
            self._account(stream, topic, event)
            return None
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
            signed = self._payment(stream, topic, event, entries)
            if topic == "payment.billed.v1":
                self.batches.settled({"payments": [event]}, position)
            return signed
        return None

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
        waiting = iter(event["kept"])
        kept_ids = {kept["job_id"] for kept in event["kept"]}
        for _, job_id, client, hold, miner, price, attempt, units, unit_type, work in due:
            amount = min(price, hold)
            if job_id in kept_ids:
                told, at_work = next(waiting, None), None if work is None else work["miner"]
                expected = {"job_id": job_id, "client": client, "miner": at_work, "attempt": attempt}
                if told != {**expected, "hold": hold}:
                    raise Found("money", f"job {job_id} was cancelled at work", expected, told)
                self.kept[job_id] = [client, hold, at_work, attempt, work, event["kept_until"]]
                continue
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
        if (further := next(payments, None) or next(unpaid, None) or next(waiting, None)) is not None:
            raise Found("money", f"job {further['job_id']} is settled once, after its end")
        _check(entries, moved)
        told_freed: dict[str, int] = {}
        for entry in (*entries, *released):
            amount = entry["released"] if "released" in entry else entry["amount"]
            told_freed[entry["party"]] = told_freed.get(entry["party"], 0) + amount
        told_freed = {party: amount for party, amount in told_freed.items() if amount}
        if told_freed != freed:
            raise Found("money", "the holds of settled jobs end, and no others", freed, told_freed)
        _check_pending(entries, event)

    def _stopped(
        self, topic: str, event: Event, entries: list[Event], released: list[Event]
    ) -> Signed | None:
        """The work on a cancelled job is paid by its statement, or not at all."""
        job_id = event["job_id"]
        kept = self.kept.pop(job_id, None)
        if kept is None:
            raise Found("money", f"the hold of job {job_id} waits for a statement, and ends once")
        client, hold, miner, attempt, work, until = kept
        billed = topic == "payment.billed.v1"
        facts = [event["client"], event["miner"], event["hold"], event["attempt"] if billed else attempt]
        if facts != [client, miner, hold, attempt]:
            raise Found("money", f"{topic} names the work on job {job_id}", kept[:4], facts)
        freed = [e["party"] for e in entries if e["released"]] + [e["party"] for e in released]
        sums = sum(e["released"] for e in entries) + sum(e["amount"] for e in released)
        if freed != [client] or sums != hold:
            raise Found(
                "money", f"the hold of job {job_id} ends once, and whole", [client, hold], [freed, sums]
            )
        if not billed:
            if event["by"] != miner and event["at"] < until:
                raise Found("money", f"the hold of job {job_id} waits for a statement", until, event["at"])
            if event["amount"] or event["credit"]:
                raise Found("money", f"no work on job {job_id} is paid", 0, event["amount"])
            _check(entries, {})
            return None
        said, amount, fee = event["statement"], event["amount"], event["fee"]
        about = {name: said[name] for name in work["about"]}
        if {**about, "job_id": said["job_id"]} != {**work["about"], "job_id": job_id}:
            raise Found("statement", f"the statement is about the work on job {job_id}", work["about"], about)
        stated = said["stopped_at_ms"] - said["started_at_ms"]
        units, price = _time_bill(max(0, min(stated, work["millis"])), work["price"], work["most"])
        owed = [units, UNIT_TYPES[None], min(price, hold), amount - fee]
        found = [event["units"], event["unit_type"], amount, event["credit"]]
        if found != owed or not 0 <= fee <= amount:
            raise Found("price", f"the work on job {job_id} is paid by its time", owed, found)
        _check(entries, _moved(client, miner, amount, fee))
        _check_pending(entries, event)
        self.paid[job_id] = [client, miner, amount, fee, event["available_at"], "PAID"]
        return said, work["key"]

    def _payment(self, stream: str, topic: str, event: Event, entries: list[Event]) -> Signed | None:
        job_id = event["job_id"]
        in_stream(stream, "payment", job_id)
        if topic in ("payment.billed.v1", "payment.lapsed.v1"):
            released, self.released = self.released, []
            return self._stopped(topic, event, entries, released)
        paid = self.paid.get(job_id)
        if paid is None:
            raise Found("money", f"job {job_id} was not paid")
        client, miner, amount, fee, available_at, status = paid
        facts = [event[name] for name in ("client", "miner", "amount", "credit", "available_at")]
        expected = [client, miner, amount, amount - fee, available_at]
        if facts != expected:
            raise Found("money", f"{topic} names the payment of job {job_id}", expected, facts)
        follows = {"payment.disputed.v1": ("PAID",), "payment.dismissed.v1": ("DISPUTED",)}
        if status not in follows.get(topic, ("PAID", "DISPUTED", "KEPT")):
            raise Found("money", f"{topic} can't follow {status}")
        refunded = topic == "payment.refunded.v1"
        if refunded and event["disputed"] != (status == "DISPUTED"):
            raise Found("money", f"{topic} tells whether job {job_id} was disputed", status)
        _check(entries, _moved(client, miner, -amount, -fee) if refunded else {})
        paid[5] = {"payment.disputed.v1": "DISPUTED", "payment.dismissed.v1": "KEPT"}.get(topic, "REFUNDED")
        return None

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


def _work(submitted: Event, started: Event, canceled: Event) -> Event:
    """The facts of the work that a cancellation ended, as far as they decide its pay."""
    return {
        "miner": started["miner_id"].rpartition("@")[2],
        "about": {
            **{name: started[name] for name in ("attempt", "miner_id", "session_id")},
            **{name: submitted[name] for name in ("service", "payload_digest")},
        },
        "key": started["miner_key"],
        "millis": max(0, canceled["at"] - started["at"]),
        "price": started["unit_price"],
        "most": submitted["max_units"],
    }


def _time_bill(millis: int, price: str, most: str) -> tuple[str, int]:
    """Units and price of so much work."""
    paid = min(millis, int(Decimal(most) * 1000))
    total = (paid * Decimal(price) / 1000).quantize(Decimal("0.000001"), ROUND_HALF_UP)
    return f"{paid // 1000}.{paid % 1000:03d}", int(total * MILLION)


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


def _check_pending(entries: list[Event], fact: Event) -> None:
    other = [e["party"] for e in entries if e["amount"] > 0 and e["available_at"] != fact["available_at"]]
    if other:
        raise Found("money", "credits are pending until their disputes are over", [], other)


def _check(entries: list[Event], expected: dict[str, int]) -> None:
    found: dict[str, int] = {}
    for entry in entries:
        found[entry["party"]] = found.get(entry["party"], 0) + entry["amount"]
    wanted = {party: amount for party, amount in expected.items() if amount}
    found = {party: amount for party, amount in found.items() if amount}
    if found != wanted:
        raise Found("money", "a posting moves the amount of its fact", wanted, found)
