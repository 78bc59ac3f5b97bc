"""The rules of a miner and its sessions, by example."""

from typing import Any

import pytest
from pydantic import ValidationError

from coordinator.domain.errors import Code
from coordinator.domain.matching.needs import Gpu
from coordinator.domain.messages import SYSTEM, Principal, Role
from coordinator.domain.miner import (
    REMEMBERED_SESSIONS,
    Draining,
    MinerDrain,
    MinerDrained,
    MinerLeave,
    MinerLeft,
    MinerLose,
    MinerLost,
    Offline,
    Online,
    miner_stream,
)
from tests.harness.cases import every
from tests.harness.deciding import (
    ADMIN,
    ALICE,
    OTHER_RIG,
    RIG,
    SECOND,
    SESSION,
    T0,
    capabilities,
    given,
    online,
    register,
    registered,
    submitted,
)


def drain(session: str | None = SESSION, miner_id: str = "rig") -> MinerDrain:
    return MinerDrain(miner_id=miner_id, session_id=session)


def leave(session: str = SESSION, miner_id: str = "rig") -> MinerLeave:
    return MinerLeave(miner_id=miner_id, session_id=session)


def lose(session: str = SESSION) -> MinerLose:
    return MinerLose(miner_id="rig", session_id=session, reason="silent")


def _common(session: str, at: int, by: Principal) -> dict[str, Any]:
    return {"at": at, "by": by.name, "miner_id": "rig", "session_id": session}


def drained(session: str = SESSION, at: int = T0 + SECOND, by: Principal = RIG) -> MinerDrained:
    return MinerDrained(**_common(session, at, by))


def left(session: str = SESSION, at: int = T0 + SECOND) -> MinerLeft:
    return MinerLeft(**_common(session, at, RIG))


def lost(session: str = SESSION, at: int = T0 + SECOND) -> MinerLost:
    return MinerLost(**_common(session, at, SYSTEM), reason="silent")


OVER = pytest.mark.parametrize("end", [left(), lost()], ids=["left", "lost"])


# --- register ----------------------------------------------------------------------------------------------
def test_register_begins_a_session() -> None:
    """A miner that registers is online under its new session, and is told which profile it has."""
    decided = given().when(register()).then(registered())
    assert {
        "miner_id": "rig",
        "session_id": SESSION,
        "profile": registered().profile,
        "state": "ONLINE",
    } == decided.answer
    assert isinstance(decided.state, Online)


def test_register_repeated_gives_the_first_answer() -> None:
    """A repeat, also one that lists the same abilities in another order or spelling, begins nothing."""
    able = capabilities(models=("B", "a"), cuda="12.0", price="0.10")
    same = capabilities(models=("a", "b", "B"), cuda="12", price="0.1")
    decided = given().when(register(capabilities=able))
    repeat = decided.again(register(capabilities=same)).then()
    assert decided.answer == repeat.answer


def test_a_vendor_left_out_is_the_one_that_the_name_says() -> None:
    """The event has the vendor; a repeat that leaves it out, also of an event without it, begins nothing."""
    gpu = Gpu(name="NVIDIA L4", memory_mb=23_034)
    named = gpu.model_copy(update={"vendor": "nvidia"})
    decided = given().when(register(capabilities=capabilities(gpus=(gpu,))))
    decided.then(registered(capabilities=capabilities(gpus=(named,)), profile=decided.answer["profile"]))
    earlier = registered().model_copy(update={"capabilities": capabilities(gpus=(gpu,))})
    given(earlier).when(register(capabilities=capabilities(gpus=(named,)))).then()


@pytest.mark.parametrize(
    "changes",
    [
        {"capabilities": capabilities(cuda="12.5")},
        {"capabilities": capabilities(gpus=(Gpu(name="NVIDIA A100", memory_mb=81_920),))},
        {"concurrency": 2},
        {"public_key": "x" * 43},
    ],
    ids=["cuda", "gpus", "concurrency", "key"],
)
def test_one_session_has_one_set_of_abilities(changes: Any) -> None:
    """Other abilities, another concurrency or another key need a new session."""
    given(registered()).when(register(**changes)).then(Code.IDEMPOTENCY_MISMATCH)


def test_a_new_session_takes_over() -> None:
    """A miner that starts again registers anew, whatever became of its old session."""
    new = registered("session-2", at=T0 + 2 * SECOND, concurrency=4)
    for history in (
        [registered()],
        [registered(), drained()],
        [registered(), left()],
        [registered(), lost()],
    ):
        decided = given(*history).when(register("session-2", concurrency=4), now=T0 + 2 * SECOND).then(new)
        assert Online(new, past=(SESSION,)) == decided.state


def test_a_late_register_of_an_old_session_is_refused() -> None:
    """A register that was overtaken by the next session's does not bring the old session back."""
    history = [registered(), registered("session-2")]
    given(*history).when(register()).then(Code.SESSION_NOT_LIVE)
    given(*history, left("session-2")).when(register()).then(Code.SESSION_NOT_LIVE)


@OVER
def test_a_session_that_is_over_does_not_come_back(end: Any) -> None:
    """A repeated register of a session that left or was lost is told to take a new session id."""
    decided = given(registered(), end).when(register()).then(Code.SESSION_NOT_LIVE)
    assert "new session id" in decided.detail


def test_a_register_repeated_while_draining_does_not_undo_the_drain() -> None:
    """The repeat is answered with the state as it is."""
    decided = given(registered(), drained()).when(register()).then()
    assert "DRAINING" == decided.answer["state"]


def test_old_sessions_are_remembered_up_to_a_bound() -> None:
    """The state of a miner that registers for years stays small."""
    history = [registered(f"session-{n:03}") for n in range(100)]
    assert tuple(f"session-{n:03}" for n in range(99 - REMEMBERED_SESSIONS, 99)) == given(*history).state.past


def test_the_profile_leaves_concurrency_and_key_out() -> None:
    """Miners with equal abilities share one work queue, however many jobs each runs at once."""
    first = given().when(register(concurrency=1)).answer["profile"]
    second = given().when(register(concurrency=9, public_key="x" * 43)).answer["profile"]
    assert first == second


# --- drain -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("session", [SESSION, None], ids=["its session", "whichever session is live"])
def test_drain_ends_new_work(session: str | None) -> None:
    """A draining miner stays live and gets nothing new; the event names the session that it was."""
    decided = given(registered()).when(drain(session)).then(drained())
    assert Draining(registered()) == decided.state
    assert "DRAINING" == decided.answer["state"]
    assert decided.answer == decided.again().then().answer


def test_an_admin_may_drain_any_miner() -> None:
    """Operators take machines out, and the event names them."""
    given(registered()).when(drain(None), by=ADMIN).then(drained(by=ADMIN))


def test_drain_of_another_session_is_refused() -> None:
    """A late drain of the session before takes nothing from the session that is live."""
    given(registered(), registered("session-2")).when(drain()).then(Code.SESSION_NOT_LIVE)


@OVER
def test_drain_of_a_session_that_is_over_is_refused(end: Any) -> None:
    """There is nothing to drain."""
    given(registered(), end).when(drain()).then(Code.SESSION_NOT_LIVE)
    given(registered(), end).when(drain(None)).then(Code.SESSION_NOT_LIVE)


# --- leave and lose ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "history", [[registered()], [registered(), drained(at=T0)]], ids=["online", "draining"]
)
def test_leave_and_lose_end_the_session(history: Any) -> None:
    """A miner that says goodbye, or says nothing for too long, is offline."""
    for command, event in ((leave(), left()), (lose(), lost())):
        decided = given(*history).when(command).then(event)
        assert Offline(registered()) == decided.state
        assert "OFFLINE" == decided.answer["state"]


@OVER
@pytest.mark.parametrize("command", [leave(), lose()], ids=["leave", "lose"])
def test_a_session_ends_once(end: Any, command: Any) -> None:
    """Whichever of the two comes first, the other one, and every repeat, gives nothing new."""
    given(registered(), end).when(command).then()


@pytest.mark.parametrize("command", [leave(), lose()], ids=["leave", "lose"])
def test_the_end_of_the_old_session_leaves_the_new_one_alone(command: Any) -> None:
    """A timer or a goodbye that comes late ends nothing but the session that it names."""
    given(registered(), registered("session-2")).when(command).then(Code.SESSION_NOT_LIVE)


@pytest.mark.parametrize("command", [drain(), leave(), lose()], ids=["drain", "leave", "lose"])
def test_a_miner_that_never_registered_is_not_found(command: Any) -> None:
    """Only register knows what to do with a miner that is not there."""
    given().when(command).then(Code.MINER_NOT_FOUND)


# --- who speaks --------------------------------------------------------------------------------------------
@every("speaker", [OTHER_RIG, Principal("ig", Role.MINER)])
@every("command", [register(), drain(), drain(None), leave()])
def test_nobody_speaks_for_another_miner(command: Any, speaker: Principal) -> None:
    """A miner's key registers, drains and ends its own nodes only, and learns nothing of others."""
    given().when(command, by=speaker).then(Code.FORBIDDEN)
    given(registered()).when(command, by=speaker).then(Code.FORBIDDEN)


def test_a_principal_speaks_for_its_nodes() -> None:
    """`node@principal` is the principal's own, with a stream and a session of its own."""
    decided = given().when(register(miner_id="node-1@rig"), by=RIG)
    decided.then(registered(miner_id="node-1@rig"))
    given().when(register(miner_id="rig@other-rig"), by=RIG).then(Code.FORBIDDEN)
    assert miner_stream("node-1@rig") != miner_stream("rig")


@every(
    ("principal", "miner_id", "owns"),
    [
        (RIG, "rig", True),
        (RIG, "node@rig", True),
        (RIG, "rig@other-rig", False),
        (RIG, "xrig", False),
        (RIG, "node@xrig", False),
        (RIG, "RIG", False),
        (RIG, "", False),
        (ALICE, "alice", False),
        (ADMIN, "root", False),
        (SYSTEM, "coordinator", False),
    ],
)
def test_who_owns_which_miner(principal: Principal, miner_id: str, owns: bool) -> None:
    """A miner's key owns its name and `<node>@<its name>`; other roles own no miner."""
    assert owns == principal.owns_miner(miner_id)


# --- shapes ------------------------------------------------------------------------------------------------
@every(
    "changes",
    [
        {"session": "short"},
        {"session": "s" * 65},
        {"session": "session 1"},
        {"session": "session-1\n"},
        {"miner_id": "a@b@c"},
        {"miner_id": "@rig"},
        {"miner_id": "rig@"},
        {"miner_id": "rig.one"},
        {"concurrency": 0},
        {"concurrency": 1025},
        {"public_key": "k" * 42},
        {"public_key": "k" * 42 + "="},
    ],
)
def test_a_register_outside_the_bounds_is_no_register(changes: Any) -> None:
    """Ids become names of queues and words of routing keys, so that only plain ones are taken."""
    with pytest.raises(ValidationError):
        register(**changes)


def test_a_miner_serves_at_least_one_service() -> None:
    """Capabilities without services would never get work."""
    with pytest.raises(ValidationError, match="services"):
        capabilities(services=())


def test_an_event_that_does_not_fit_the_state_names_both() -> None:
    """A log that no decision could have written is an error, not a state."""
    with pytest.raises(ValueError, match=r"miner\.drained\.v1 can't follow NoneType"):
        given(drained())
    with pytest.raises(ValueError, match=r"job\.submitted\.v1 can't follow Queued"):
        given(submitted(), submitted())


def test_a_live_miner_in_facts_is_one_that_registered() -> None:
    """What the examples of jobs are told of a miner is what its own events lead to."""
    assert online() == given(registered()).state
