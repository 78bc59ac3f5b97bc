"""What names may use: the rules of a quota, the counters, and the checks in the bus."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from coordinator.application.ports import Intent, Recorded
from coordinator.application.quotas.quotas import Quotas
from coordinator.application.quotas.rates import CommandRates
from coordinator.application.quotas.under_way import FORGOTTEN_SECONDS, UnderWay
from coordinator.application.quotas.usage import OpenRow, QuotaUsage, StoredRow
from coordinator.domain.decision import Context, fold
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import (
    JobAttemptEnded,
    JobCancel,
    JobCanceled,
    JobRequeued,
    JobStarted,
    job_stream,
)
from coordinator.domain.matching.needs import Capabilities
from coordinator.domain.messages import Principal, Role
from coordinator.domain.miner import MinerLeft, MinerRegistered
from coordinator.domain.quota import Limits, OwnLimits, Quota, QuotaSet, QuotaWasSet, decide
from coordinator.domain.service import ServiceRegister
from tests.harness.bus import ALICE, BOB, Bench, WatchedLog, codes, submit
from tests.harness.deciding import ADMIN, JOB_ID, T0, a_spec
from tests.harness.metadata import METADATA

RIG = Principal("rig", Role.MINER)


class Moment:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def a_bench(**limits: Any) -> Bench:
    bench = Bench(WatchedLog(), limits=Limits(**limits))
    await bench.bus.start()
    answers = await bench.gateway.handle([Intent(ServiceRegister(spec=a_spec()), ADMIN)])
    assert codes(answers) == ["accepted"]
    return bench


async def send(bench: Bench, *commands: Any, by: Principal = ALICE) -> list[str]:
    return codes(await bench.gateway.handle([Intent(c, by) for c in commands]))


# --- the aggregate -----------------------------------------------------------------------------------------
def test_a_change_keeps_the_other_limits_and_null_brings_back_the_settings() -> None:
    """Each event has all own limits; a repeat and a change to the same values lead to none."""
    state: Any = None
    steps: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
        ({"queued_jobs": 5, "stored_bytes": "unlimited"}, {"queued_jobs": 5, "stored_bytes": "unlimited"}),
        ({"max_priority": 3}, {"queued_jobs": 5, "stored_bytes": "unlimited", "max_priority": 3}),
        ({"max_priority": 3}, None),
        ({"queued_jobs": None}, {"stored_bytes": "unlimited", "max_priority": 3}),
        ({}, None),
    ]
    for given, then in steps:
        command = QuotaSet(name="alice", limits=OwnLimits(**given), reason="why")
        decision = decide(state, command, Context(T0, ADMIN))
        events = (
            []
            if then is None
            else [QuotaWasSet(at=T0, by="root", name="alice", limits=OwnLimits(**then), reason="why")]
        )
        assert [e.event for e in decision] == events
        state = fold(events, state)
    assert state == Quota("alice", OwnLimits(stored_bytes="unlimited", max_priority=3))


def test_own_limits_replace_those_of_the_settings() -> None:
    """A number, nothing at all, or no limit; the others are those of the settings."""
    usual = Limits(queued_jobs=100, stored_bytes=1000, miners=5)
    own = OwnLimits(queued_jobs=0, stored_bytes="unlimited", max_priority=2)
    assert usual.with_own(own) == Limits(queued_jobs=0, miners=5, max_priority=2)


def test_the_coordinator_itself_has_no_limits() -> None:
    """Its name is reserved."""
    with pytest.raises(Refusal) as refused:
        decide(None, QuotaSet(name="coordinator", limits=OwnLimits(miners=1)), Context(T0, ADMIN))
    assert refused.value.code is Code.INVALID_PAYLOAD


# --- queued jobs -------------------------------------------------------------------------------------------
async def test_of_one_array_as_many_are_accepted_as_there_is_room_for() -> None:
    """Of 500 submits at once the first 7 are accepted and the others refused singly; others are not hurt."""
    bench = await a_bench(queued_jobs=7)
    answers = await bench.gateway.handle([Intent(submit(f"job-{n}"), ALICE) for n in range(500)])
    assert codes(answers) == ["accepted"] * 7 + ["QUEUE_FULL"] * 493
    told = answers[-1].to_wire()
    assert told["retry_after"] == 10.0
    assert "7 queued jobs of 7 allowed" in told["detail"]
    assert await send(bench, submit("job-0"), by=BOB) == ["accepted"]
    assert bench.quotas.metrics().refusals == {"queued_jobs": 493}


async def test_a_repeat_uses_nothing_and_is_answered_when_the_queue_is_full() -> None:
    """The same idempotency keys again and again: the first answers, and no place less."""
    bench = await a_bench(queued_jobs=3)
    for _ in range(3):
        assert await send(bench, submit("one"), submit("two")) == ["accepted"] * 2
    assert bench.quotas.usage.queued("alice") == 2
    assert await send(bench, submit("three"), submit("one"), submit("four")) == [
        "accepted",
        "accepted",
        "QUEUE_FULL",
    ]
    assert await send(bench, submit("two"), submit("three")) == ["accepted"] * 2


async def test_repeats_in_one_array_do_not_give_back_the_places_of_first_submits() -> None:
    """Each key twice in one array: as many jobs as there is room for, and their repeats; no more."""
    bench = await a_bench(queued_jobs=3)
    twice = [submit(f"job-{n // 2}") for n in range(20)]
    assert await send(bench, *twice) == ["accepted"] * 6 + ["QUEUE_FULL"] * 14
    # A refused repeat gives back nothing either, also at once after the batch.
    other = submit("job-0", payload={"text": "another"})
    assert await send(bench, other, submit("job-9")) == ["IDEMPOTENCY_MISMATCH", "QUEUE_FULL"]
    assert 3 == bench.quotas.usage_of("alice").queued_jobs


async def test_a_cancelled_job_gives_its_place_back_at_once() -> None:
    """The next submit has room, even in the same array."""
    bench = await a_bench(queued_jobs=1)
    assert await send(bench, submit("one"), submit("two")) == ["accepted", "QUEUE_FULL"]
    assert await send(bench, JobCancel(job_id=job_stream("alice", "one"))) == ["accepted"]
    assert await send(bench, submit("two")) == ["accepted"]


async def test_a_refused_submit_gives_its_place_back() -> None:
    """Payloads that break the schema, and services that are not there, use nothing."""
    bench = await a_bench(queued_jobs=1)
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    strict = a_spec(id="strict", input_schema=schema)
    assert await send(bench, ServiceRegister(spec=strict), by=ADMIN) == ["accepted"]
    for number in range(3):
        bad = submit(f"bad-{number}", service="strict", payload={"text": 5})
        nothing = submit(f"none-{number}", service="nothing")
        assert await send(bench, bad, nothing) == ["INVALID_PAYLOAD", "SERVICE_NOT_FOUND"]
    assert await send(bench, bad, submit("good")) == ["INVALID_PAYLOAD", "accepted"]


async def test_payloads_count_towards_the_stored_bytes_with_those_under_way() -> None:
    """Of many payloads in one array as many are stored as the limit allows, and not one byte more."""
    bench = await a_bench(stored_bytes=1000)
    text = "x" * 189  # 200 bytes of JSON
    jobs = [submit(f"job-{n}", payload={"text": text}) for n in range(20)]
    assert await send(bench, *jobs) == ["accepted"] * 5 + ["QUOTA_EXCEEDED"] * 15
    assert bench.quotas.usage.of("alice").payload_bytes == 1000


async def test_a_priority_above_the_names_limit_is_refused_with_the_way_out() -> None:
    """Everybody has 0 to 9 by default; with a lower setting, an admin gives names more."""
    bench = await a_bench(max_priority=4)
    assert await send(bench, submit("low", priority=4), submit("high", priority=5)) == [
        "accepted",
        "FORBIDDEN",
    ]
    bench.quotas.set_own("alice", OwnLimits(max_priority=9))
    assert await send(bench, submit("high", priority=9)) == ["accepted"]
    assert await send(bench, submit("high", priority=9), by=BOB) == ["FORBIDDEN"]
    assert await send(bench, submit("high", priority=9), by=ADMIN) == ["accepted"]
    free = await a_bench()
    assert await send(free, submit("high", priority=9)) == ["accepted"]


async def test_a_limit_below_what_is_in_use_takes_nothing_away() -> None:
    """Queued jobs stay; new ones are refused until there is room again."""
    bench = await a_bench(queued_jobs=5)
    assert await send(bench, *[submit(f"job-{n}") for n in range(5)]) == ["accepted"] * 5
    bench.quotas.set_own("alice", OwnLimits(queued_jobs=2))
    assert await send(bench, submit("more")) == ["QUEUE_FULL"]
    assert bench.quotas.usage.queued("alice") == 5
    for number in range(4):
        assert await send(bench, JobCancel(job_id=job_stream("alice", f"job-{number}"))) == ["accepted"]
    assert await send(bench, submit("more")) == ["accepted"]


# --- counters ----------------------------------------------------------------------------------------------
async def test_the_counters_equal_a_fold_of_the_log_from_any_position() -> None:
    """Begun with rows as of any position, and the events from the beginning, they say the same."""
    bench = await a_bench()
    await send(bench, *[submit(f"job-{n}") for n in range(4)])
    await send(bench, submit("other"), by=BOB)
    await send(bench, JobCancel(job_id=job_stream("alice", "job-1")))
    events = bench.log.read(0, 1000)
    size = len(b'{"text":"job-0"}')
    for cut in range(len(events) + 1):
        before = QuotaUsage()
        for recorded in events[:cut]:
            before.note(recorded)
        position = events[cut - 1].position if cut else 0
        names = ("alice", "bob")
        begun = QuotaUsage()
        begun.begin(
            position, [OpenRow("open", n, "", before.queued(n), "") for n in names if before.queued(n)]
        )
        begun.begin_stored(position, [StoredRow(n, before.stored(n), 0) for n in names])
        for recorded in events:
            begun.note(recorded)
        figures = {n: (begun.queued(n), begun.stored(n)) for n in names}
        assert figures == {"alice": (3, 4 * size), "bob": (1, len(b'{"text":"other"}'))}


def test_stored_bytes_read_again_keep_the_events_after_them() -> None:
    """The table is behind the log: the bytes of later events are counted besides, and once."""
    usage = QuotaUsage()
    usage._note_bytes(1, "alice", 10)
    usage._note_bytes(2, "alice", 20)
    usage.begin_stored(1, [StoredRow("alice", 10, 5)])
    assert usage.stored("alice") == 35
    usage.begin_stored(2, [StoredRow("alice", 30, 0)])
    assert usage.stored("alice") == 30


# --- miners ------------------------------------------------------------------------------------------------
def registered(miner_id: str, profile: str, position: int) -> Recorded:
    event = MinerRegistered(
        at=T0,
        by="rig",
        miner_id=miner_id,
        session_id=f"session-{position}",
        capabilities=Capabilities(services=("whisper",)),
        profile=profile,
        concurrency=1,
        public_key="k" * 43,
    )
    return Recorded(position, uuid4(), 1, event, b"", METADATA.to_json(), "")


def test_miners_and_profiles_of_a_name_are_bounded_with_those_under_way() -> None:
    """A third node, or a second profile, is refused; a new session of a known node is not."""
    quotas = Quotas(Limits(miners=2, profiles=1), Moment())
    assert quotas.reserve_miner(RIG, "a@rig", "p") is None
    quotas.usage.note(registered("a@rig", "p", 1))
    quotas.miner_decided("rig", "a@rig")
    assert quotas.reserve_miner(RIG, "b@rig", "p") is None  # under way
    third = quotas.reserve_miner(RIG, "c@rig", "p")
    assert third is not None
    assert (third.code, "2 other miners of 2" in third.detail) == (Code.QUOTA_EXCEEDED, True)
    assert quotas.reserve_miner(RIG, "a@rig", "p") is None
    quotas.miner_decided("rig", "a@rig")
    quotas.miner_decided("rig", "b@rig")  # it was refused
    other = quotas.reserve_miner(RIG, "c@rig", "q")
    assert other is not None
    assert "1 profiles of 1" in other.detail
    assert quotas.reserve_miner(RIG, "a@rig", "q") is None  # its own profile changes
    quotas.usage.note(
        Recorded(
            2,
            uuid4(),
            2,
            MinerLeft(at=T0, by="rig", miner_id="a@rig", session_id="session-1"),
            b"",
            b"",
            "",
        )
    )
    quotas.miner_decided("rig", "a@rig")
    assert quotas.usage.of("rig").miners == 0
    assert quotas.reserve_miner(RIG, "c@rig", "q") is None


# --- amounts under way, and rates --------------------------------------------------------------------------
@drawn(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.integers(0, 9), st.booleans())))
def test_amounts_under_way_add_up(steps: list[tuple[str, int, int, bool]]) -> None:
    """Whatever is put, replaced and dropped: count and total are those of a dictionary."""
    under_way, model = UnderWay(Moment()), dict[tuple[str, int], int]()
    for name, key, amount, put in steps:
        if put:
            under_way.put(name, key, amount)
            model[name, key] = amount
        else:
            under_way.drop(name, key)
            model.pop((name, key), None)
        for each in "ab":
            own = [amount for (n, _), amount in model.items() if n == each]
            assert (under_way.count(each), under_way.total(each)) == (len(own), sum(own))


def test_an_amount_whose_outcome_never_came_is_forgotten() -> None:
    """A cancelled caller does not use up a limit for ever."""
    moment = Moment()
    under_way = UnderWay(moment)
    under_way.put("alice", 1, 10)
    moment.now = FORGOTTEN_SECONDS - 1
    under_way.put("alice", 2, 20)
    moment.now = FORGOTTEN_SECONDS + 1
    under_way.forget_old()
    assert (under_way.count("alice"), under_way.total("alice")) == (1, 20)


def test_a_bucket_gives_a_minutes_worth_and_fills_evenly() -> None:
    """60 a minute: 60 at once, then one each second, whatever is asked for; a lower limit holds at once."""
    moment = Moment()
    rates = CommandRates(moment)
    first = rates.take("alice", 60, 100)
    assert (first.allowed, round(first.retry_after, 6)) == (60, 1.0)
    assert rates.take("bob", 60, 1).allowed == 1
    moment.now = 2.5
    assert rates.take("alice", 60, 100).allowed == 2
    moment.now = 1000.0
    later = rates.take("alice", 6, 100)
    assert (later.allowed, round(later.retry_after, 6)) == (6, 10.0)
    assert rates.take("carol", 0, 1) == (0, 60.0)


async def test_commands_above_the_rate_are_refused_singly_with_the_seconds_to_wait() -> None:
    """Of an array the first ones go on; admins have no rate, and names have one of their own."""
    bench = await a_bench(commands_per_minute=10)
    answers = await bench.gateway.handle([Intent(submit(f"job-{n}"), ALICE) for n in range(15)])
    assert Counter(codes(answers)) == {"accepted": 10, "RATE_LIMITED": 5}
    assert answers[-1].to_wire()["retry_after"] == pytest.approx(6.0)
    assert await send(bench, submit("one"), by=BOB) == ["accepted"]
    bench.quotas.set_own("alice", OwnLimits(commands_per_minute="unlimited"))
    assert await send(bench, *[submit(f"more-{n}") for n in range(50)]) == ["accepted"] * 50


def test_running_jobs_are_not_queued_jobs() -> None:
    """A job that a miner takes gives its place to the next one; once it is queued again it counts."""
    usage, job, common = QuotaUsage(), JOB_ID, {"at": T0, "by": "rig", "client": "alice", "job_id": JOB_ID}
    usage.begin(5, [OpenRow("open", "alice", "", 3, ""), OpenRow("running", "alice", "other", 1, "")])
    figures = []
    ran = {"attempt": 1, "miner_id": "rig", "session_id": "session-1"}
    lost = {"outcome": "lost", "error_code": "LEASE_LOST", "error_message": "", "metrics": {}}
    for position, event in enumerate(
        (
            JobStarted(**common, **ran, miner_key="k" * 43, unit_price="0"),
            JobAttemptEnded(**common, **ran, **lost),
            JobRequeued(**common, attempt=2),
            JobCanceled(**common, attempt=2, reason=""),
        ),
        start=6,
    ):
        usage.note(Recorded(position, job, position, event, b"", b"", str(job)))
        figures.append((usage.queued("alice"), usage.of("alice").running_jobs))
    assert figures == [(1, 2), (2, 1), (2, 1), (1, 1)]
