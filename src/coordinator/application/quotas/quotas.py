"""Quotas: whether a name may do what it asks for, from counters in memory. Used on the event loop only.

A check is a few look-ups in dictionaries. The counters are behind the log by a fraction of a second; commands
under way are counted besides, so that of many in one array no more pass than are allowed. Before a refusal
the counters are brought up to date with all events that this process knows. With several processes, those of
the others may be late by a batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from coordinator.application.metrics import QuotaMetrics
from coordinator.application.ports import Intent
from coordinator.application.quotas.rates import CommandRates
from coordinator.application.quotas.under_way import UnderWay
from coordinator.application.quotas.usage import NameUsage, QuotaUsage
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal, Role
from coordinator.domain.quota import Limits, OwnLimits
from coordinator.wire.answers import Refused

_EXEMPT = (Role.OPERATOR, Role.ADMIN, Role.SYSTEM)
QUEUE_RETRY_SECONDS = 10.0
"""When a client with a full queue should ask again: jobs are taken all the time."""


class _Fault(NamedTuple):
    kind: str
    """The limit that is reached."""
    refusal: Refusal


class Quotas:
    """Limits and usage of all names, as known to this process."""

    def __init__(
        self,
        defaults: Limits,
        monotonic: Callable[[], float],
        catch_up: Callable[[], None] = lambda: None,
    ) -> None:
        """`defaults`: the limits of the settings. `catch_up` brings the usage up to date, without I/O."""
        self.usage = QuotaUsage()
        self.catch_up = catch_up
        self.defaults = defaults
        self.uploads = UnderWay(monotonic)
        """Bytes of uploads under way in this process."""
        self._own: dict[str, OwnLimits] = {}
        self._limits: dict[str, Limits] = {}
        """Of the names with limits of their own."""
        self._jobs = UnderWay(monotonic)
        """Bytes of jobs whose submits are under way."""
        self._miners = UnderWay(monotonic)
        self._profiles: dict[str, str] = {}
        """Of miners whose registrations are under way."""
        self._rates = CommandRates(monotonic)
        self._refused: Counter[str] = Counter()
        self.expired: Counter[str] = Counter()
        """What the expiry of this process removed, by kind."""

    # --- limits ---------------------------------------------------------------------------------------------
    def limits_of(self, name: str) -> Limits:
        """The limits in force for this name."""
        return self._limits.get(name, self.defaults)

    def own_limits(self) -> Mapping[str, OwnLimits]:
        """The names with limits of their own."""
        return self._own

    def set_own(self, name: str, own: OwnLimits) -> None:
        """Replace a name's own limits."""
        if own == OwnLimits():
            self._own.pop(name, None)
            self._limits.pop(name, None)
        else:
            self._own[name] = own
            self._limits[name] = self.defaults.with_own(own)

    def usage_of(self, name: str) -> NameUsage:
        """What this name uses, as far as this process knows."""
        self.catch_up()
        return self.usage.of(name)

    def names(self) -> list[str]:
        """All names that use anything, or have limits of their own, sorted."""
        return sorted(self.usage.names() | self._own.keys())

    # --- jobs -----------------------------------------------------------------------------------------------
    def reserve_job(self, principal: Principal, job_id: UUID, size: int, priority: int) -> Refusal | None:
        """Count a new job of `size` bytes as under way, or say why it is refused.

        A job that is counted already is not counted again: a decision may be repeated.
        """
        if principal.role in _EXEMPT:
            return None
        name = principal.name
        limits = self._limits.get(name, self.defaults)
        if priority > limits.max_priority:
            forbidden = Refusal(
                Code.FORBIDDEN,
                f"priority {priority} needs a permission: {name} may use 0 to {limits.max_priority}; "
                "send a lower priority, or ask the operator for a higher limit",
            )
            return self._counted(_Fault("max_priority", forbidden))
        jobs = self._jobs
        if jobs.holds(name, job_id):
            return None
        refusal = self._checked(lambda: self._full(name, limits, size))
        if refusal is None:
            jobs.put(name, job_id, size)
        return refusal

    def has_room_for_a_job(self, principal: Principal) -> Refusal | None:
        """Why no new job of this principal would be accepted now, if so; counts nothing."""
        if principal.role in _EXEMPT:
            return None
        name = principal.name
        limits = self._limits.get(name, self.defaults)
        return self._checked(lambda: self._full(name, limits, 0))

    def job_decided(self, name: str, job_id: UUID) -> None:
        """The outcome of a submit is known: it is in the log and counted there, or it was refused."""
        self._jobs.drop(name, job_id)

    def _full(self, name: str, limits: Limits, size: int) -> _Fault | None:
        most = limits.queued_jobs
        if most is not None:
            used = self.usage.queued(name) + self._jobs.count(name)
            if used >= most:
                refusal = Refusal(
                    Code.QUEUE_FULL,
                    f"{name} has {used} queued jobs of {most} allowed; wait until miners have taken some, "
                    "cancel some, or ask the operator for a higher limit",
                    retry_after=QUEUE_RETRY_SECONDS,
                )
                return _Fault("queued_jobs", refusal)
        return self._bytes_fault(name, limits, size)

    # --- stored bytes ---------------------------------------------------------------------------------------
    def bytes_fault(self, principal: Principal, size: int) -> Refusal | None:
        """Why `size` more bytes of this principal can't be stored, if so."""
        if principal.role in _EXEMPT:
            return None
        name = principal.name
        limits = self._limits.get(name, self.defaults)
        return self._checked(lambda: self._bytes_fault(name, limits, size))

    def stored_limit(self, principal: Principal) -> int | None:
        """The bytes that this principal may store; None for any number."""
        return None if principal.role in _EXEMPT else self.limits_of(principal.name).stored_bytes

    def _bytes_fault(self, name: str, limits: Limits, size: int) -> _Fault | None:
        most = limits.stored_bytes
        if most is None:
            return None
        used = self.usage.stored(name) + self._jobs.total(name) + self.uploads.total(name)
        if used + size <= most:
            return None
        return _Fault("stored_bytes", bytes_refusal(name, used, size, most))

    # --- miners ---------------------------------------------------------------------------------------------
    def reserve_miner(self, principal: Principal, miner_id: str, profile: str) -> Refusal | None:
        """Count a miner's session as under way, or say why it is refused."""
        if principal.role in _EXEMPT:
            return None
        name = principal.name
        limits = self._limits.get(name, self.defaults)
        if limits.miners is None and limits.profiles is None:
            return None
        refusal = self._checked(lambda: self._miners_fault(name, limits, miner_id, profile))
        if refusal is None:
            self._miners.put(name, miner_id, 1)
            self._profiles[miner_id] = profile
        return refusal

    def miner_decided(self, name: str, miner_id: str) -> None:
        """The outcome of a registration is known."""
        self._miners.drop(name, miner_id)
        self._profiles.pop(miner_id, None)

    def _miners_fault(self, name: str, limits: Limits, miner_id: str, profile: str) -> _Fault | None:
        live = dict(self.usage.miners(name))
        for key in self._miners.keys(name):
            live.setdefault(str(key), self._profiles.get(str(key), ""))
        live.pop(miner_id, None)
        if limits.miners is not None and len(live) >= limits.miners:
            refusal = Refusal(
                Code.QUOTA_EXCEEDED,
                f"{name} has {len(live)} other miners of {limits.miners} allowed; stop one, or ask the "
                "operator for a higher limit",
            )
            return _Fault("miners", refusal)
        profiles = {p for p in live.values() if p}
        if limits.profiles is not None and profile not in profiles and len(profiles) >= limits.profiles:
            refusal = Refusal(
                Code.QUOTA_EXCEEDED,
                f"the miners of {name} have {len(profiles)} profiles of {limits.profiles} allowed; give "
                "miners the same capabilities, or ask the operator for a higher limit",
            )
            return _Fault("profiles", refusal)
        return None

    # --- rates ----------------------------------------------------------------------------------------------
    def admitted(self, intents: Sequence[Intent]) -> tuple[int, Refused | None]:
        """How many of these commands of one message or request may go on now, and the refusal of the others.

        They have one sender: the first one's.
        """
        principal = intents[0].principal
        if principal.role in _EXEMPT:
            return len(intents), None
        per_minute = self._limits.get(principal.name, self.defaults).commands_per_minute
        if per_minute is None:
            return len(intents), None
        allowed, retry_after = self._rates.take(principal.name, per_minute, len(intents))
        if allowed == len(intents):
            return allowed, None
        self._refused["commands_per_minute"] += len(intents) - allowed
        refused = Refused(
            Code.RATE_LIMITED,
            f"{principal.name} has sent more than {per_minute} commands a minute; send it again in "
            f"{math.ceil(retry_after)} s, and fewer at a time",
            retry_after=round(retry_after, 3),
        )
        return allowed, refused

    # --- figures --------------------------------------------------------------------------------------------
    def forget_old(self) -> None:
        """Drop amounts under way whose outcome never came."""
        for under_way in (self._jobs, self._miners, self.uploads):
            under_way.forget_old()

    def metrics(self) -> QuotaMetrics:
        """The figures of all names together; no name is shown."""
        stored = self.usage.total_stored()
        return QuotaMetrics(
            names=len(self.usage.names()),
            own_limits=len(self._own),
            payload_bytes=stored.payloads,
            blob_bytes=stored.blobs,
            refusals=dict(self._refused),
            expired=dict(self.expired),
        )

    def _checked(self, find: Callable[[], _Fault | None]) -> Refusal | None:
        """The refusal, if the fault is still there once the counters are up to date."""
        if find() is None:
            return None
        self.catch_up()
        fault = find()
        return None if fault is None else self._counted(fault)

    def _counted(self, fault: _Fault) -> Refusal:
        self._refused[fault.kind] += 1
        return fault.refusal


def bytes_refusal(name: str, used: int, size: int, most: int) -> Refusal:
    """The refusal of more bytes than a name may store."""
    return Refusal(
        Code.QUOTA_EXCEEDED,
        f"{name} stores {used} bytes of {most} allowed, and this would add {size}; wait until unused files "
        "and old results expire, or ask the operator for a higher limit",
    )
