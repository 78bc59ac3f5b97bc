"""The rules of a webhook and of an alarm, by example."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from coordinator.domain import alarm
from coordinator.domain.alarm import AlarmRaise, AlarmRaised
from coordinator.domain.decision import Context, fold
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import SYSTEM, Event, Principal, Role
from coordinator.domain.webhook import (
    JOB_TYPES,
    MAX_WEBHOOKS,
    OTHER_TYPES,
    Callbacks,
    CallbacksRotated,
    SealedUrl,
    WebhookChange,
    WebhookChanged,
    WebhookCommand,
    WebhookContext,
    WebhookCreate,
    WebhookCreated,
    WebhookDisable,
    WebhookDisabled,
    WebhookRemove,
    WebhookRemoved,
    WebhookReplay,
    WebhookReplayed,
    WebhookRotate,
    WebhookRotated,
    WebhookSecret,
    WebhookTest,
    WebhookTested,
    callbacks_stream,
    decide,
)
from tests.harness.deciding import ADMIN, ALICE, BOB, RIG, T0

HOOK = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
HERE, THERE = SealedUrl("hooks.example.org", "k1.a.b"), SealedUrl("other.example.org", "k1.c.d")
CREATE = WebhookCreate(url="https://hooks.example.org/x", label="ours")
COMMON: dict[str, Any] = {"at": T0, "by": "alice", "webhook_id": HOOK, "owner": "alice"}
CREATED = WebhookCreated(
    **COMMON, role="client", host=HERE.host, sealed_url=HERE.sealed, events=JOB_TYPES, label="ours"
)
DISABLED = WebhookDisabled(**{**COMMON, "by": "coordinator"}, reason="gone")
ALL_OF_IT = {"host": HERE.host, "sealed_url": HERE.sealed, "events": JOB_TYPES, "label": "ours"}


def decided(
    *history: Event, command: WebhookCommand, by: Principal = ALICE, stream: UUID = HOOK, **facts: Any
) -> list[Event] | Code:
    """The events, or the code of the refusal."""
    context = WebhookContext(T0, by, stream, **facts)
    try:
        return [event for _, event in decide(fold(history), command, context)]
    except Refusal as refusal:
        return refusal.code


def test_a_webhook_from_its_making_to_its_end() -> None:
    """Each command leads to its fact; a repeat leads to none."""
    assert [CREATED] == decided(command=CREATE, url=HERE)
    assert [] == decided(CREATED, command=CREATE, url=HERE._replace(is_same=True))
    other = WebhookChange(webhook_id=HOOK, url="https://other.example.org/", events=("job.failed",))
    changed = WebhookChanged(
        **COMMON,
        **{**ALL_OF_IT, "host": THERE.host, "sealed_url": THERE.sealed, "events": ("job.failed",)},
        enabled=True,
    )
    assert [changed] == decided(CREATED, command=other, url=THERE)
    assert [] == decided(CREATED, changed, command=other, url=THERE._replace(is_same=True))
    assert [WebhookTested(**COMMON)] == decided(CREATED, command=WebhookTest(webhook_id=HOOK))
    removed = WebhookRemoved(**COMMON)
    remove = WebhookRemove(webhook_id=HOOK)
    assert [removed] == decided(CREATED, command=remove)
    assert [] == decided(CREATED, removed, command=remove)
    for command in (other, WebhookTest(webhook_id=HOOK), WebhookRotate(webhook_id=HOOK)):
        assert Code.WEBHOOK_NOT_FOUND == decided(CREATED, removed, command=command, url=THERE)


def test_disabled_and_enabled_again() -> None:
    """The coordinator disables once, and says why; the owner enables it again."""
    disable = WebhookDisable(webhook_id=HOOK, reason="gone")
    assert [DISABLED] == decided(CREATED, command=disable, by=SYSTEM)
    assert [] == decided(CREATED, DISABLED, command=disable, by=SYSTEM)
    assert Code.WEBHOOK_NOT_FOUND == decided(command=disable, by=SYSTEM)
    assert (False, "gone") == ((state := fold([CREATED, DISABLED])).enabled, state.disabled_reason)
    enable = WebhookChange(webhook_id=HOOK, enabled=True)
    enabled = WebhookChanged(**COMMON, **ALL_OF_IT, enabled=True)
    assert [enabled] == decided(CREATED, DISABLED, command=enable)
    assert (True, "") == (
        (state := fold([CREATED, DISABLED, enabled])).enabled,
        state.disabled_reason,
    )


@pytest.mark.parametrize("by", [BOB, Principal("alice", Role.MINER), RIG])
def test_nobody_touches_anothers(by: Principal) -> None:
    """To another name, or to another role of the name, the webhook does not exist."""
    commands: list[WebhookCommand] = [
        WebhookChange(webhook_id=HOOK, enabled=False),
        WebhookRotate(webhook_id=HOOK),
        WebhookTest(webhook_id=HOOK),
        WebhookReplay(webhook_id=HOOK, since=0),
        WebhookRemove(webhook_id=HOOK),
    ]
    assert {Code.WEBHOOK_NOT_FOUND} == {decided(CREATED, command=c, by=by) for c in commands}
    assert Code.WEBHOOK_NOT_FOUND == decided(CREATED, WebhookRemoved(**COMMON), command=commands[-1], by=by)


def test_an_admin_may_change_anybodys() -> None:
    """The facts name the admin and the owner."""
    [event] = decided(CREATED, command=WebhookRemove(webhook_id=HOOK), by=ADMIN)
    assert WebhookRemoved(**{**COMMON, "by": "root"}) == event


def test_types_by_role() -> None:
    """Nobody asks for what its role may not know; without a wish there are usual types."""
    usual = {
        role: decided(command=CREATE, url=HERE, by=by)[0].events  # type: ignore[union-attr]
        for role, by in {"client": ALICE, "miner": RIG, "admin": ADMIN}.items()
    }
    assert {"client": JOB_TYPES, "miner": ("miner.lost",), "admin": OTHER_TYPES} == usual
    for by, type_ in ((ALICE, "miner.lost"), (ALICE, "audit.diverged"), (RIG, "job.failed")):
        wanted = WebhookCreate(url="https://hooks.example.org/x", events=(type_,))
        assert Code.FORBIDDEN == decided(command=wanted, url=HERE, by=by)
    more = WebhookChange(webhook_id=HOOK, events=("follower.stopped",))
    # By the owner's role, whoever asks.
    assert Code.FORBIDDEN == decided(CREATED, command=more, by=ADMIN)


def test_a_name_has_few_webhooks() -> None:
    """The limit is refused with a code; a repeat of a creation is not."""
    assert Code.QUOTA_EXCEEDED == decided(command=CREATE, url=HERE, others=MAX_WEBHOOKS)
    same = HERE._replace(is_same=True)
    assert [] == decided(CREATED, command=CREATE, url=same, others=MAX_WEBHOOKS)
    assert Code.IDEMPOTENCY_MISMATCH == decided(CREATED, command=CREATE, url=THERE)


def test_a_rotation_and_its_grace() -> None:
    """The secret before signs until the grace is over; an old generation is refused."""
    rotated = WebhookRotated(**COMMON, generation=2, old_until=T0 + 60_000)
    rotate = WebhookRotate(webhook_id=HOOK, grace_seconds=60, generation=1)
    assert [rotated] == decided(CREATED, command=rotate)
    assert Code.CONFLICT_STATE == decided(CREATED, rotated, command=rotate)
    secret = fold([CREATED, rotated]).secret
    assert [(2, 1), (2,)] == [secret.generations(T0 + 59_999), secret.generations(T0 + 60_000)]


def test_the_secret_of_callbacks_needs_no_making() -> None:
    """A client's callbacks have a first secret; the client rotates it and replays, and nobody else does."""
    stream = callbacks_stream("alice")
    about = {**COMMON, "webhook_id": stream}
    rotate = WebhookRotate(webhook_id=stream, grace_seconds=0)
    [rotated] = decided(command=rotate, stream=stream)
    assert CallbacksRotated(**about, generation=2, old_until=T0) == rotated
    assert Callbacks("alice", WebhookSecret(2, T0)) == fold([rotated])
    replay = WebhookReplay(webhook_id=stream, since=5)
    replayed = WebhookReplayed(**about, deliveries=None, since=5)
    assert (
        [replayed]
        == decided(command=replay, stream=stream)
        == decided(replayed, rotated, command=replay, stream=stream)
    )
    for by in (BOB, ADMIN, Principal("alice", Role.MINER)):
        assert Code.WEBHOOK_NOT_FOUND == decided(command=rotate, stream=stream, by=by)
    assert Code.WEBHOOK_NOT_FOUND == decided(command=WebhookTest(webhook_id=stream), stream=stream)


def test_a_replay_names_messages_or_a_time() -> None:
    """Neither and both are refused."""
    some = (f"msg_{'a' * 32}",)
    for command in (
        WebhookReplay(webhook_id=HOOK),
        WebhookReplay(webhook_id=HOOK, deliveries=some, since=1),
    ):
        assert Code.INVALID_PAYLOAD == decided(CREATED, command=command)


def test_an_alarm_is_raised_once() -> None:
    """The same fault is one event; an auditor raises divergences, and only the coordinator the rest."""
    raise_ = AlarmRaise(type="audit.diverged", subject="price", fault_position=7, detail="3 for 2")
    raised = AlarmRaised(
        at=T0, by="root", type="audit.diverged", subject="price", fault_position=7, detail="3 for 2"
    )
    assert [raised] == [event for _, event in alarm.decide(None, raise_, Context(T0, ADMIN))]
    assert [] == alarm.decide(raised, raise_, Context(T0, ADMIN))
    stopped = AlarmRaise(type="follower.stopped", subject="notary", fault_position=7)
    assert 1 == len(alarm.decide(None, stopped, Context(T0, SYSTEM)))
    with pytest.raises(Refusal, match="FORBIDDEN"):
        alarm.decide(None, stopped, Context(T0, ADMIN))
