"""Random lives of one job and of one miner against the invariants, and the drawing of the job's states."""

import contextlib
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from coordinator.domain.decision import Context, fold
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import (
    FINAL_STATES,
    STATE_NAMES,
    AttemptCommand,
    AttemptEnded,
    JobAttemptEnded,
    JobCancel,
    JobCanceled,
    JobComplete,
    JobCompleted,
    JobExpire,
    JobExpired,
    JobFailed,
    JobLose,
    JobRequeued,
    JobStarted,
    JobState,
    JobSubmitted,
)
from coordinator.domain.messages import SYSTEM, Command, Event, Principal, Role
from coordinator.domain.miner import (
    MinerDrain,
    MinerLeave,
    MinerLose,
    MinerLost,
    MinerRegistered,
    MinerState,
    Offline,
    Online,
)
from coordinator.domain.registry import COMMANDS, EVENTS
from tests.harness.deciding import (
    ADMIN,
    ALICE,
    BOB,
    EXPIRES,
    FINGERPRINT,
    JOB_ID,
    SECOND,
    T0,
    answer,
    attempt_ended,
    cancel,
    canceled,
    capabilities,
    complete,
    completed,
    context_of,
    decide,
    expire,
    expired,
    fail,
    failed,
    given,
    lose,
    register,
    registered,
    release,
    requeued,
    start,
    started,
    submit,
    submitted,
)
from tests.harness.length import examples

MINERS = ["rig-0", "rig-1", "node@rig-1"]
ATTEMPT_COMMANDS: dict[str, Any] = {"start": start, "complete": complete, "fail": fail, "release": release}


def recorded(event: Event) -> Event:
    """What comes back out of the log."""
    return EVENTS[event.topic].model_validate_json(event.model_dump_json())


# --- one job -----------------------------------------------------------------------------------------------
class JobLife(RuleBasedStateMachine):
    """One job, three miners with one session after another, a clock that stumbles, and repeats of everything.

    What may be so is written down here once more from the events alone (who holds what, what is over), apart
    from the states of the code under test.
    """

    sessions = Bundle("sessions")

    @initialize(
        target=sessions,
        max_attempts=st.sampled_from([1, 3, 5]),
        needs=st.sampled_from([{}, {"max_price": "0.001"}]),
    )
    def begin(self, max_attempts: int, needs: dict[str, Any]) -> Any:
        self.now = T0
        self.history: list[Event] = []
        self.state: JobState = None
        self.submit = submit(max_attempts=max_attempts, constraints=needs)
        self.max_attempts = max_attempts
        self.miners: dict[str, list[MinerState]] = {name: [None] for name in MINERS}
        self.applied: list[tuple[Command, Any]] = []
        self.last: tuple[Command, Any] | None = None
        # Written down from the events:
        self.offered = 0
        self.expires = EXPIRES
        self.holder: tuple[int, str, str] | None = None
        self.since = 0  # what is paid begins no earlier
        self.charged = 0
        self.final = False
        self.paid: list[JobCompleted] = []
        self.client_submits(FINGERPRINT)
        return multiple(*(self.miner_registers(name, None) for name in MINERS))

    # -- the world around the job
    @rule(step=st.sampled_from([0, 1, SECOND, 60 * SECOND]))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule(step=st.sampled_from([1, 5 * SECOND]))
    def clock_steps_back(self, step: int) -> None:
        self.now -= step

    @rule(after=st.integers(-1, 1))
    @precondition(lambda self: self.offered > 1)
    def time_to_live_ends(self, after: int) -> None:
        self.now = max(self.now, self.expires + after)

    @rule(target=sessions, name=st.sampled_from(MINERS), price=st.sampled_from([None, "0.001", "0.5"]))
    def miner_registers(self, name: str, price: str | None) -> tuple[str, str]:
        session = f"{name.replace('@', '-')}-session-{len(self.miners[name])}"
        command = register(session, name, capabilities=capabilities(price=price))
        self._miner(name, command)
        return name, session

    @rule(name=st.sampled_from(MINERS), how=st.sampled_from([MinerDrain, MinerLeave, MinerLose]))
    def miner_ends(self, name: str, how: Any) -> None:
        state = self.miners[name][-1]
        if state is not None:
            reason = {"reason": "silent"} if how is MinerLose else {}
            self._miner(name, how(miner_id=name, session_id=state.session_id, **reason))

    def _miner(self, name: str, command: Command) -> None:
        principal = (
            SYSTEM if isinstance(command, MinerLose) else Principal(name.rpartition("@")[2], Role.MINER)
        )
        state = self.miners[name][-1]
        try:
            events = decide(state, command, Context(self.now, principal))
        except Refusal:
            events = []
        self.miners[name].append(fold(events, state))

    # -- what is asked of the job
    @rule(fingerprint=st.sampled_from([FINGERPRINT, FINGERPRINT, "other"]))
    def client_submits(self, fingerprint: str) -> None:
        self._ask(self.submit, context_of(self.submit, self.now, ALICE, fingerprint=fingerprint))

    @rule(session=sessions, kind=st.sampled_from(["start"] * 6 + sorted(ATTEMPT_COMMANDS)))
    def miner_reports(self, session: tuple[str, str], kind: str) -> None:
        """On the attempt of the moment, as an honest miner would."""
        self._report(session, kind, self.offered, session[0])

    @rule(
        kind=st.sampled_from(["fail", "fail", *sorted(ATTEMPT_COMMANDS)]),
        retryable=st.sampled_from([True, True, False]),
        skew=st.integers(-99, 99),
    )
    @precondition(lambda self: self.holder)
    def holder_reports(self, kind: str, retryable: bool, skew: int) -> None:
        assert self.holder
        attempt, name, session = self.holder
        changes: dict[str, Any] = {}
        if kind == "fail":
            changes = {"retryable": retryable}
        if kind == "complete":
            changes = {"begun": self.since + skew * SECOND, "ended": self.now + skew * SECOND}
        self._report((name, session), kind, attempt, name, **changes)

    @rule(
        session=sessions,
        kind=st.sampled_from(sorted(ATTEMPT_COMMANDS)),
        off=st.sampled_from([-2, -1, 0, 0, 1]),
        speaker=st.sampled_from(MINERS),
        miner_id=st.sampled_from(MINERS),
        known=st.integers(-3, -1),
        faulty=st.booleans(),
    )
    def somebody_reports(
        self,
        session: tuple[str, str],
        kind: str,
        off: int,
        speaker: str,
        miner_id: str,
        known: int,
        faulty: bool,
    ) -> None:
        """On another attempt, in another's name, without proof, or under a lookup that is out of date."""
        attempt = max(1, self.offered + off)
        self._report((miner_id, session[1]), kind, attempt, speaker, known=known, faulty=faulty)

    def _report(
        self,
        session: tuple[str, str],
        kind: str,
        attempt: int,
        speaker: str,
        known: int = -1,
        faulty: bool = False,
        **changes: Any,
    ) -> None:
        name, session_id = session
        command = ATTEMPT_COMMANDS[kind](attempt, session_id, name, **changes)
        context = context_of(
            command,
            self.now,
            Principal(speaker.rpartition("@")[2], Role.MINER),
            miner=self.miners[name][max(known, -len(self.miners[name]))],
            fault=Refusal(Code.INVALID_STATEMENT, "no proof") if faulty else None,
        )
        self._ask(command, context)

    @rule(off=st.sampled_from([-1, 0, 0, 1]))
    def lease_runs_out(self, off: int) -> None:
        self._ask(lose(max(1, self.offered + off)), Context(self.now))

    @rule()
    @precondition(lambda self: self.now >= self.expires - SECOND)
    def timer_expires(self) -> None:
        self._ask(expire(), Context(self.now))

    @rule(by=st.sampled_from([ALICE, BOB, BOB, ADMIN]))
    @precondition(lambda self: self.offered > 1)
    def somebody_cancels(self, by: Principal) -> None:
        self._ask(cancel(), Context(self.now, by))

    # -- repeats
    @rule(later=st.sampled_from([0, SECOND, 3600 * SECOND]))
    @precondition(lambda self: self.last)
    def repeat_the_last_applied(self, later: int) -> None:
        """Repeating the last applied command is accepted, and gives no events."""
        assert self.last
        command, context = self.last
        assert [] == decide(self.state, command, self._at(context, later))

    @rule(data=st.data())
    @precondition(lambda self: self.applied)
    def repeat_one_that_was_applied(self, data: st.DataObject) -> None:
        """However late it comes again, an applied command has no second effect."""
        command, context = data.draw(st.sampled_from(self.applied))
        try:
            events = decide(self.state, command, self._at(context, self.now - context.now))
        except Refusal:
            events = []
        assert [] == events

    @staticmethod
    def _at(context: Any, later: int) -> Any:
        return context._replace(now=context.now + later)

    # -- deciding, and what must hold of every decision
    def _ask(self, command: Command, context: Any) -> None:
        try:
            events = decide(self.state, command, context)
        except Refusal:
            return
        assert events == decide(self.state, command, context), "the same question, another answer"
        if events:
            self._check_allowed(command, context, events)
            self.applied.append((command, context))
            self.last = (command, context)
        for event in events:
            assert context.now == event.at
            assert context.principal.name == event.by
            self._note(event, claimed_alone=len(events) == 1)
            self.history.append(event)
            self.state = fold([event], self.state)
        assert type(self.state) in STATE_NAMES
        told = answer(self.state, command)
        assert STATE_NAMES[type(self.state)] == told["state"]

    def _check_allowed(self, command: Command, context: Any, events: list[Event]) -> None:
        """Only these commands may change anything, as the events so far say."""
        if isinstance(command, AttemptCommand):
            assert context.principal.owns_miner(command.miner_id)
            assert self.offered == command.attempt
            assert self.holder in (None, (command.attempt, command.miner_id, command.session_id))
        if isinstance(command, JobComplete):
            assert context.fault is None
        if isinstance(command, JobLose):
            assert self.holder is not None
            assert self.offered == command.attempt
        if isinstance(command, JobCancel):
            assert context.principal in (ALICE, ADMIN)
        if isinstance(command, JobExpire):
            assert context.now >= self.expires
        if isinstance(events[0], JobStarted):
            assert isinstance(context.miner, Online)
            assert events[0].session_id == context.miner.session_id
            assert context.now < self.expires
            limit = self.submit.constraints.max_price
            assert limit is None or Decimal(events[0].unit_price) <= Decimal(limit)

    def _note(self, event: Event, claimed_alone: bool) -> None:
        """Write down what this event says, and that it may be said now."""
        assert not self.final, "a final state was left"
        match event:
            case JobSubmitted():
                assert [] == self.history
                self.offered, self.since, self.expires = 1, event.at, event.expires_at
            case JobStarted():
                assert self.holder is None, "two leases"
                assert self.offered == event.attempt
                self.holder = (event.attempt, event.miner_id, event.session_id)
                if claimed_alone:  # with its result in one decision it is paid from when it was queued
                    self.since = event.at
                earlier = [e.attempt for e in self.history if isinstance(e, JobStarted)]
                assert event.attempt > max(earlier, default=0), "attempts only grow"
            case JobCompleted():
                assert self.holder == (event.attempt, event.miner_id, event.session_id)
                self.paid.append(event)
                self._check_paid(event)
                self.final = True
            case JobAttemptEnded():
                assert self.holder == (event.attempt, event.miner_id, event.session_id)
                self.holder = None
                self.charged += event.outcome != "released"
                assert self.charged <= self.max_attempts
            case JobRequeued():
                assert self.charged < self.max_attempts
                assert self.offered + 1 == event.attempt
                self.offered, self.since = event.attempt, event.at
            case JobFailed() | JobCanceled() | JobExpired():
                assert self.offered == event.attempt
                self.final, self.holder = True, None

    def _check_paid(self, event: JobCompleted) -> None:
        assert self.since <= event.started_at <= event.completed_at
        assert event.completed_at <= max(event.at, event.started_at)
        assert 0 <= Decimal(event.units) * SECOND == event.completed_at - event.started_at
        assert "alice" == event.client

    # -- what must hold at every moment
    @invariant()
    def the_state_is_a_fold_of_the_log(self) -> None:
        if hasattr(self, "history"):
            assert self.state == fold(self.history)
            assert self.state == fold([recorded(event) for event in self.history])

    @invariant()
    def a_final_state_is_final(self) -> None:
        if hasattr(self, "history") and self.state is not None:
            assert self.final == (STATE_NAMES[type(self.state)] in FINAL_STATES)

    @invariant()
    def a_completed_job_is_paid_once(self) -> None:
        if hasattr(self, "history"):
            done = self.state is not None and STATE_NAMES[type(self.state)] == "COMPLETED"
            assert done == (len(self.paid) == 1)
            assert len(self.paid) <= 1

    def teardown(self) -> None:
        """Every accepted job reaches a final state: time alone is enough."""
        if getattr(self, "history", None):
            self.now = max(self.now, self.expires)
            if not self.final:
                self._ask(expire(), Context(self.now))
            assert self.final


TestJobLife = JobLife.TestCase
TestJobLife.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)


class AllSeen(Exception):
    """Every event was seen: no more lives are needed."""


def test_the_random_lives_reach_every_state() -> None:
    """The machine above would prove little if its lives ended early: some hundred of them see it all."""
    awaited = {topic for topic in EVENTS if topic.startswith("job.")}
    seen: set[str] = set()

    class Watched(JobLife):
        # That these hold at every moment is what the machine above tests, and most of its time.
        the_state_is_a_fold_of_the_log = None  # type: ignore[assignment]
        a_final_state_is_final = None  # type: ignore[assignment]
        a_completed_job_is_paid_once = None  # type: ignore[assignment]

        def teardown(self) -> None:
            super().teardown()  # which lets time pass until the job is final
            if getattr(self, "history", None):
                seen.update(event.topic for event in self.history)
            assert seen <= awaited
            if seen == awaited:
                raise AllSeen

    case = Watched.TestCase
    case.settings = settings(
        max_examples=2000,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
    )
    with contextlib.suppress(AllSeen):
        case("runTest").runTest()
    assert awaited == seen


# --- one miner ---------------------------------------------------------------------------------------------
class MinerLife(RuleBasedStateMachine):
    """One miner, its sessions in any order, and repeats: a session begins once and ends once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = T0
        self.history: list[Event] = []
        self.state: MinerState = None
        self.live: str | None = None
        self.over: set[str] = set()
        self.last: tuple[Command, Principal] | None = None

    @rule(session=st.integers(0, 8), cuda=st.sampled_from(["12.4", "12.4", "11.8"]))
    def registers(self, session: int, cuda: str) -> None:
        self._ask(register(f"session-{session}", capabilities=capabilities(cuda=cuda)), RIG)

    @rule(session=st.integers(0, 8), how=st.sampled_from([MinerDrain, MinerLeave]))
    def drains_or_leaves(self, session: int, how: Any) -> None:
        self._ask(how(miner_id="rig", session_id=f"session-{session}"), RIG)

    @rule()
    def operator_drains(self) -> None:
        self._ask(MinerDrain(miner_id="rig"), ADMIN)

    @rule(session=st.integers(0, 8))
    def falls_silent(self, session: int) -> None:
        self._ask(MinerLose(miner_id="rig", session_id=f"session-{session}", reason="silent"), SYSTEM)

    @rule()
    @precondition(lambda self: self.last)
    def repeats_the_last_applied(self) -> None:
        assert self.last
        command, by = self.last
        assert [] == decide(self.state, command, Context(self.now, by))

    def _ask(self, command: Command, by: Principal) -> None:
        self.now += 1
        try:
            events = decide(self.state, command, Context(self.now, by))
        except Refusal:
            return
        for event in events:
            self._note(event)
            self.history.append(event)
            self.state = fold([event], self.state)
            self.last = (command, by)
        assert self.state is not None
        assert answer(self.state, command)["session_id"] == self.state.session_id

    def _note(self, event: Any) -> None:
        if isinstance(event, MinerRegistered):
            assert event.session_id != self.live
            assert event.session_id not in self.over, "a session came back"
            if self.live:
                self.over.add(self.live)
            self.live = event.session_id
        else:
            assert self.live == event.session_id, "an event of a session that is not live"
            if event.topic != "miner.drained.v1":
                self.over.add(event.session_id)
                self.live = None

    @invariant()
    def the_state_is_a_fold_of_the_log(self) -> None:
        assert self.state == fold([recorded(event) for event in self.history])

    @invariant()
    def it_is_live_while_a_session_is(self) -> None:
        assert (self.live is None) == (self.state is None or isinstance(self.state, Offline))


RIG = Principal("rig", Role.MINER)
TestMinerLife = MinerLife.TestCase
TestMinerLife.settings = settings(max_examples=examples(100), stateful_step_count=30, deadline=None)


# --- the drawing -------------------------------------------------------------------------------------------
PAGE = (Path(__file__).parents[2] / "docs" / "job-states.md").read_text()
EXAMPLES: list[Event] = [
    submitted(),
    started(),
    completed(),
    attempt_ended("failed"),
    requeued(),
    failed(),
    canceled(),
    expired(),
]
HISTORIES: list[list[Event]] = [
    [],
    [submitted()],
    [submitted(), started()],
    [submitted(), started(), attempt_ended("failed")],
    [submitted(), started(), completed()],
    [submitted(), started(), attempt_ended("failed"), failed()],
    [submitted(), canceled()],
    [submitted(), expired()],
]


def name_of(state: JobState) -> str:
    if state is None:
        return "[*]"
    return "ended" if isinstance(state, AttemptEnded) else STATE_NAMES[type(state)]


def drawn(topic: str) -> str:
    return topic.rpartition(".")[0]  # the drawing leaves versions out


def test_the_drawing_shows_what_evolve_does() -> None:
    """Each arrow of the drawing is a pair of state and event that the code knows, and there are no others."""
    known = set()
    for history in HISTORIES:
        state = fold(history)
        for event in EXAMPLES:
            try:
                known.add((name_of(state), name_of(fold([event], state)), drawn(event.topic)))
            except ValueError:
                continue
    arrows = re.findall(r"^ +(\S+) --> (\S+): (\S+)$", PAGE, re.MULTILINE)
    assert len(arrows) == len(set(arrows))
    assert known == set(arrows)
    assert FINAL_STATES == set(re.findall(r"^ +(\S+) --> \[\*\]$", PAGE, re.MULTILINE))


def test_the_examples_above_are_all_events_and_all_states() -> None:
    """A new event or state must be drawn too."""
    assert {t for t in EVENTS if t.startswith("job.")} == {e.topic for e in EXAMPLES}
    assert {*STATE_NAMES, AttemptEnded, type(None)} == {type(fold(history)) for history in HISTORIES}


def test_the_table_shows_what_decide_does() -> None:
    """Each row of the table is a decision that the code makes, and there are no others."""
    rows = re.findall(r"^\| `(\S+)`[^|]*\| (\w*) *\| ([^|]*) \| (\w+) \|$", PAGE, re.MULTILINE)
    table = {(c, frm or "[*]", tuple(re.findall(r"`(\S+)`", events)), to) for c, frm, events, to in rows}
    assert len(rows) == len(table)
    assert decisions(submit(max_attempts=1)) | decisions(submit(max_attempts=2)) == table


def decisions(first: Command) -> set[tuple[str, str, tuple[str, ...], str]]:
    """Every change that a command makes in any state that commands lead to, three attempts deep."""
    commands: list[Command] = [first, cancel(), expire()]
    for attempt in (1, 2, 3):
        commands += [start(attempt), complete(attempt), fail(attempt), fail(attempt, retryable=False)]
        commands += [release(attempt), lose(attempt)]
    found = set()
    todo: list[tuple[Event, ...]] = [()]
    while todo:
        history = todo.pop()
        if len(history) > 7:
            continue
        for command in commands:
            now = EXPIRES if isinstance(command, JobExpire) else T0
            decided = given(*history).when(command, now=now)
            if decided.events:
                topics = tuple(drawn(event.topic) for event in decided.events)
                found.add((command.topic, name_of(decided.given.state), topics, name_of(decided.state)))
                todo.append((*history, *decided.events))
    return found


def test_the_page_names_no_event_or_command_that_is_not() -> None:
    """Prose keeps up with the code as well."""
    known = {drawn(t) for t in EVENTS} | set(COMMANDS)
    assert set() == set(re.findall(r"\bjob\.[a-z_]+", PAGE)) - known


def test_a_log_of_any_life_reads_back_as_it_was_written() -> None:
    """The examples of the drawing survive the log, byte for byte."""
    for event in [
        *EXAMPLES,
        registered(),
        MinerLost(at=T0, by="x", miner_id="rig", session_id="session-1", reason=""),
    ]:
        assert event == recorded(event)
        assert event.model_dump_json() == recorded(event).model_dump_json()
    assert JOB_ID == recorded(submitted()).model_dump()["job_id"]
