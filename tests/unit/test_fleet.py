"""The miners as the dispatcher sees them."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.application.dispatch.fair_queue import QueuedWork
from coordinator.application.dispatch.fleet import Fleet, OutstandingOffer, Profile, Rooms, Session
from coordinator.application.dispatch.standing import NEWCOMER_TOTAL, WINDOW_SECONDS
from coordinator.domain.matching.needs import Capabilities, Gpu, Needs

CPU = Capabilities(services=("checksum",))
GPU = Capabilities(services=("checksum", "llm_inference"), gpus=(Gpu(name="RTX 4090", memory_mb=24_564),))


def work(number: int) -> QueuedWork:
    return QueuedWork(f"job-{number}", 1, "c", "alice", 0, number, "checksum", "d", 60, 10**15, "")


def session(miner: str = "m", concurrency: int = 2, running: int = 0) -> Session:
    return Session(miner, f"session-of-{miner}", concurrency, "ONLINE", running)


def fleet_of(*sessions: Session, capabilities: Capabilities = CPU) -> tuple[Fleet, Profile]:
    fleet = Fleet()
    for each in sessions:
        fleet.register("p", capabilities, each)
    return fleet, fleet.profiles["p"]


def test_the_window_is_the_free_slots_while_nothing_completes() -> None:
    """Slow work: a profile gets as many offers as it has free slots, and no more."""
    _, profile = fleet_of(session("a", 2, running=1), session("b", 3))
    profile.offered["job-1"] = OutstandingOffer(work(1), 0.0)
    assert profile.room(0.0) == 3


def test_the_window_grows_with_what_has_lately_ended() -> None:
    """Quick work: about one second of completions is on the queue in advance."""
    _, profile = fleet_of(session("a", 1, running=1))
    for tenth in range(10):
        profile.completions.add(5, tenth / 10)
    assert profile.room(0.95) == 50
    assert profile.room(WINDOW_SECONDS + 2) == 0


def test_the_free_slots_are_those_of_the_sessions_that_take_work() -> None:
    """Whatever begins, ends, drains, comes back or exceeds its slots: the sum is what it would be."""
    fleet, profile = fleet_of(session("a", 2), session("b", 3, running=1))
    steps: list[Callable[[], object]] = [
        lambda: fleet.count_running("a", "session-of-a", +1),
        lambda: fleet.count_running("a", "session-of-a", +2),  # more than its slots
        lambda: fleet.count_running("a", "session-of-a", -2),
        lambda: fleet.drain("b"),
        lambda: fleet.count_running("b", "session-of-b", -1),  # what it still holds
        lambda: fleet.end("b"),
        lambda: fleet.register("p", CPU, Session("a", "session-new", 5, "ONLINE")),
        lambda: fleet.count_running("a", "session-of-a", -1),  # late news of the old one
        lambda: fleet.count_running("a", "session-new", +1),
        lambda: fleet.end("a"),
    ]
    seen: list[int] = []
    for step in steps:
        step()
        seen.append(profile.free_slots)
        assert sum(s.free_slots for s in profile.sessions.values()) == profile.free_slots
    assert [3, 2, 3, 1, 1, 1, 5, 5, 4, 0] == seen


def test_slots_that_end_together_do_not_look_like_quick_ones() -> None:
    """A moment's completions are counted and not extrapolated: slow work never hoards offers."""
    _, profile = fleet_of(session("a", 20))
    profile.completions.add(20, 10.0)
    assert profile.room(10.01) == 40


def test_the_services_of_a_newcomer_share_one_room() -> None:
    """Many services are not many slots: of all that it has completed nothing of, it gets a few in all."""
    services = tuple(f"service_{n}" for n in range(20))
    able = Capabilities(services=services)
    fleet, profile = fleet_of(session("a", 40), capabilities=able)
    fleet.register("q", able, session("b", 40))  # it is not alone, so that it is a newcomer
    rooms = Rooms(fleet, profile, 0.0)
    taken = 0
    for service in services:
        while rooms[service] > 0:
            rooms[service] -= 1
            taken += 1
    assert NEWCOMER_TOTAL == taken
    assert all(rooms[service] == 0 for service in services)


def test_a_profile_without_live_miners_gets_no_offers() -> None:
    """Draining and ended sessions take nothing, whatever has lately ended."""
    fleet, profile = fleet_of(session("a"), session("b"))
    profile.completions.add(100, 0.0)
    fleet.drain("a")
    fleet.end("b")
    assert profile.room(0.1) == 0


def test_a_new_session_of_a_miner_replaces_the_old_one() -> None:
    """A restarted miner counts once, with all its slots free, and late news of the old session is ignored."""
    fleet, profile = fleet_of(session("a", 4, running=4))
    fleet.register("p", CPU, Session("a", "session-new", 4, "ONLINE"))
    fleet.count_running("a", "session-of-a", -1)
    assert profile.free_slots == 4


def test_offers_travel_alone_while_slots_are_free_and_packed_when_backlogged() -> None:
    """Bundles hold what the smallest miner of the profile can run; sparse work goes one offer a message."""
    _, profile = fleet_of(session("a", 4), session("b", 8))
    few, many = [work(n) for n in range(12)], [work(n) for n in range(13)]
    assert [len(b) for b in profile.bundles(few)] == [1] * 12
    assert [len(b) for b in profile.bundles(many)] == [4, 4, 4, 1]


def test_offers_to_the_only_miner_are_packed() -> None:
    """Nobody could idle beside what it has in hand; still no message holds more than it can run."""
    _, profile = fleet_of(session("a", 8))
    assert [len(b) for b in profile.bundles([work(n) for n in range(5)])] == [5]
    assert [len(b) for b in profile.bundles([work(n) for n in range(20)])] == [8, 8, 4]


def test_one_slot_miners_never_get_bundles() -> None:
    """A miner with one slot in the profile keeps every message at one offer."""
    _, profile = fleet_of(session("a", 1), session("b", 64))
    assert {len(b) for b in profile.bundles([work(n) for n in range(500)])} == {1}


def test_classes_and_profiles_are_matched_in_whichever_order_they_come() -> None:
    """A class known before a profile, and one known after, are both served by it."""
    fleet = Fleet()
    fleet.add_class("before", "llm_inference", Needs(min_vram_gb=24))
    fleet.register("gpu", GPU, session("a"))
    fleet.register("cpu", CPU, session("b"))
    fleet.add_class("after", "checksum", Needs())
    assert fleet.profiles["gpu"].classes == {"before", "after"}
    assert fleet.profiles["cpu"].classes == {"after"}


def test_the_least_able_profile_comes_first() -> None:
    """QueuedWork goes to the smallest miner that can do it."""
    fleet = Fleet()
    fleet.register("gpu", GPU, session("a"))
    fleet.register("cpu", CPU, session("b"))
    assert [p.id for p in fleet.tightest_first()] == ["cpu", "gpu"]


def test_idle_profiles_are_forgotten_but_not_while_something_is_offered_to_them() -> None:
    """A profile goes when nobody has it and nothing is offered to it."""
    fleet, profile = fleet_of(session("a"))
    profile.offered["job-1"] = OutstandingOffer(work(1), 0.0)
    fleet.end("a")
    fleet.forget_idle()
    assert list(fleet.profiles) == ["p"]
    profile.offered.clear()
    fleet.forget_idle()
    assert list(fleet.profiles) == []
