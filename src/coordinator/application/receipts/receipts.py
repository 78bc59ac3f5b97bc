"""Receipts on demand: the same events give the same bytes, whichever process makes them and whenever."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from coordinator.application.ports import EventLog
from coordinator.application.receipts.contents import receipt_content
from coordinator.application.receipts.signing_keys import KeyPeriod, SigningKeys, key_periods
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.receipt import attest_receipt, sign_receipt
from coordinator.domain.decision import fold
from coordinator.domain.job import Completed
from coordinator.domain.signing_key import SIGNING_KEYS

MAX_KEPT: Final = 1000
"""Receipts in memory, some 5 KiB each."""

PERIODS_SECONDS: Final = 1.0

Receipt = dict[str, Any]


class Receipts:
    """Makes receipts from the log. Used on the event loop; reads the log in threads."""

    def __init__(
        self,
        event_log: EventLog,
        keys: SigningKeys,
        attests: SigningKey | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`attests` signs every receipt once more."""
        self._log = event_log
        self._keys = keys
        self._attests = attests
        self._kept: OrderedDict[UUID, Receipt] = OrderedDict()
        """By job, the least recently used first. They never change: events don't."""
        self._monotonic = monotonic
        self._reading = asyncio.Lock()
        self._periods: list[KeyPeriod] = []
        self._periods_until = -math.inf

    @property
    def attestation_key_id(self) -> str | None:
        """The key of the attestations."""
        return None if self._attests is None else self._attests.key_id

    async def of(self, job_id: UUID) -> Receipt | None:
        """The receipt of this job; None unless it is completed. Raises LogUnavailable."""
        kept = self._kept.get(job_id)
        if kept is not None:
            self._kept.move_to_end(job_id)
            return kept
        made = await asyncio.to_thread(self._make, job_id)
        if made is not None:
            self._kept[job_id] = made
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return made

    async def key_periods(self) -> list[KeyPeriod]:
        """The periods of the coordinator's signing keys, the oldest first. Raises LogUnavailable.

        Anybody may ask for them, so the log is read once in PERIODS_SECONDS at most.
        """
        async with self._reading:
            if self._monotonic() >= self._periods_until:
                loaded = await asyncio.to_thread(self._log.load, [SIGNING_KEYS])
                self._periods = key_periods(loaded.get(SIGNING_KEYS, ()))
                self._periods_until = self._monotonic() + PERIODS_SECONDS
        return self._periods

    def _make(self, job_id: UUID) -> Receipt | None:
        loaded = self._log.load([job_id, SIGNING_KEYS])
        events = loaded.get(job_id, ())
        if job_id == SIGNING_KEYS or not events:
            return None
        state = fold(recorded.event for recorded in events)
        if not isinstance(state, Completed):
            return None
        # Nothing follows the completion in a job's stream.
        key, recorded_under = self._keys.for_receipt(
            key_periods(loaded.get(SIGNING_KEYS, ())), events[-1].position
        )
        signed = sign_receipt(key, receipt_content(state, recorded_under=recorded_under))
        return signed if self._attests is None else attest_receipt(self._attests, signed)
