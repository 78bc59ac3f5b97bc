"""The cost of matching in the dispatcher, by the number of miners, profiles and classes.

A job of a new class is compared with every profile, a job of a known class with none. `us_per_pair` is the
extra cost of the former per profile; with few profiles that is mostly the publishing of its offers. A look is
a tick without news, which the dispatcher makes several times a second.

The dispatcher is the real one, fed with events. Only time is measured, so its reads find nothing and its
offers are dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID, uuid4

from bench.processes import Failed
from coordinator.application.dispatch.dispatcher import Dispatcher
from coordinator.application.dispatch.payloads import Payloads
from coordinator.application.dispatch.standing import Standing
from coordinator.application.ports import (
    Clock,
    Database,
    Hints,
    Intent,
    Recorded,
    Row,
    StoredPayload,
    Tables,
    WorkQueues,
)
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.offer_tokens import OfferTokens
from coordinator.domain.job import JobSubmitted, is_job_event
from coordinator.domain.matching.needs import Capabilities, Constraints, profile_of, wanted
from coordinator.domain.messages import SYSTEM, Event, Metadata
from coordinator.domain.miner import MinerRegistered
from coordinator.wire.answers import Answer
from coordinator.wire.offers import Offer

FLEETS = ((10, 1), (10, 10), (1_000, 1), (1_000, 1_000), (100_000, 1), (100_000, 1_000))
"""(miners, profiles)"""
CLASSES = (10, 1_000)
MORE_JOBS = 2_000
LOOKS = 20


def matching(tell: Callable[[str], None]) -> list[dict[str, Any]]:
    found = []
    for miners, profiles in FLEETS:
        for classes in CLASSES:
            found.append(asyncio.run(measure(miners, profiles, classes)))
            shown = ", ".join(f"{name} {value:,}" for name, value in found[-1].items())
            tell(f"matching: {shown}")
    return found


async def measure(miners: int, profiles: int, classes: int) -> dict[str, Any]:
    dispatcher = Dispatcher(
        cast(Payloads, _NoPayloads()),
        cast(Database, _NoDatabase()),
        cast(WorkQueues, _NoQueues()),
        cast(Hints, None),
        Clock(now=lambda: time.time_ns() // 1_000_000, monotonic=time.monotonic),
        3600.0,
        OfferTokens(SigningKey(bytes(32))),
        _no_commands,
    )
    # The principal of all miners has earned a slot of each: a newcomer would get eight offers at a time.
    dispatcher.work.fleet.load(Standing("rig", "checksum", completed=miners, slots=miners))
    capabilities = [_capabilities(number) for number in range(profiles)]
    registered = _recorded([_registered(capabilities[n % profiles]) for n in range(miners)])
    wants = [_wants(number, profiles) for number in range(classes)]
    first_of_class = _recorded([_submitted(w) for w in wants])
    more = _recorded([_submitted(wants[n % classes]) for n in range(MORE_JOBS)])

    async def note(events: Sequence[Recorded]) -> float:
        begun = time.perf_counter()
        for start in range(0, len(events), dispatcher.batch):
            batch = events[start : start + dispatcher.batch]
            await dispatcher.act(batch)
            dispatcher.gather()
            dispatcher.apply(cast(Tables, _NoTables()), batch)
            await dispatcher.tick(10**9)
        return time.perf_counter() - begun

    async def look() -> float:
        begun = time.perf_counter()
        await dispatcher.tick(10**9)
        return time.perf_counter() - begun

    registering = await note(registered)
    of_new = await note(first_of_class) / classes
    of_known = await note(more) / MORE_JOBS
    looks = sorted([await look() for _ in range(LOOKS)])
    seen = dispatcher.work.metrics()
    if (seen.sessions["ONLINE"], seen.profiles, seen.classes) != (miners, profiles, classes):
        raise Failed(f"the dispatcher did not take all events: {seen}")
    fitting = miners * min(profiles, classes) // profiles
    if seen.offered != min(fitting, classes + MORE_JOBS):
        raise Failed(f"{seen.offered} jobs are offered to {fitting} slots")
    return {
        "miners": miners,
        "profiles": profiles,
        "classes": classes,
        "us_per_miner": round(registering / miners * 1e6, 1),
        "us_per_job_of_a_new_class": round(of_new * 1e6, 1),
        "us_per_job_of_a_known_class": round(of_known * 1e6, 1),
        "us_per_pair": round(max(0.0, of_new - of_known) / profiles * 1e6, 2),
        "ms_look": round(looks[LOOKS // 2] * 1e3, 2),
    }


def _capabilities(number: int) -> Capabilities:
    return Capabilities(services=("checksum",), models=(f"model-{number}",), region=f"region-{number % 10}")


def _wants(number: int, profiles: int) -> Constraints:
    return Constraints(models=(f"model-{number % profiles}",), max_price=str(1 + number // profiles))


async def _no_commands(intents: Sequence[Intent]) -> list[Answer]:
    return []


def _registered(has: Capabilities) -> MinerRegistered:
    return MinerRegistered(
        at=0,
        by=SYSTEM.name,
        miner_id=f"{uuid4().hex}@rig",
        session_id=uuid4().hex,
        capabilities=has,
        profile=profile_of(has, "rig"),
        concurrency=1,
        public_key="A" * 43,
    )


def _submitted(wants: Constraints) -> JobSubmitted:
    return JobSubmitted(
        at=0,
        by=SYSTEM.name,
        job_id=uuid4(),
        client="bench",
        service="checksum",
        service_version=1,
        constraints=wants,
        job_class=wanted("checksum", wants).job_class,
        priority=0,
        max_attempts=1,
        payload_digest="0" * 64,
        fingerprint="0" * 64,
        timeout_seconds=60,
        list_price="1",
        max_units="3600.000",
        expires_at=2**40,
    )


def _recorded(events: Sequence[Event]) -> list[Recorded]:
    streams = [event.job_id if is_job_event(event) else uuid4() for event in events]
    return [
        Recorded(number, stream, 1, event, b"", Metadata("", "").to_json(), str(stream))
        for number, (stream, event) in enumerate(zip(streams, events, strict=True), 1)
    ]


class _NoPayloads:
    async def of(self, job_ids: Sequence[UUID]) -> dict[UUID, StoredPayload]:
        return {}


class _NoQueues:
    system = "none"

    def on_reset(self, callback: Callable[[], None]) -> None:
        pass

    async def publish(self, profile: str, bundles: Sequence[Sequence[Offer]]) -> list[Offer]:
        return []


class _NoTables:
    def query(self, statement: str, **params: Any) -> list[Row]:
        return []

    def put(self, table: str, rows: Sequence[Row]) -> None:
        pass

    def remove(self, table: str, keys: Collection[str]) -> None:
        pass


class _NoDatabase:
    @contextmanager
    def transaction(self) -> Iterator[Tables]:
        yield cast(Tables, _NoTables())
