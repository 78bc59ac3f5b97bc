"""Messages to receivers, on SQLite and Postgres alike: stored once, signed, retried, replayed, and fair."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from coordinator.application.webhooks.messages import delivery_id
from coordinator.application.webhooks.post import Answered
from coordinator.application.webhooks.schedule import DELAYS, WHOLE_MILLIS
from coordinator.domain.alarm import AlarmRaised
from coordinator.domain.job import JobCanceled, JobExpired, JobFailed
from coordinator.domain.webhook import (
    JOB_TYPES,
    Webhook,
    WebhookChanged,
    WebhookRemoved,
    WebhookReplayed,
    WebhookRotated,
    WebhookTested,
    callbacks_stream,
)
from coordinator.edge.state.tables.webhooks import NEWEST, DeliveryKey
from tests.contract.test_followers import Stores, after, completed, stores, submitted
from tests.harness.deciding import T0
from tests.harness.telling import ADMIN_HOOK, ALICE_HOOK, BOB_HOOK, DOWN, KEYS, OK, Telling, verify

__all__ = ["stores"]

HOUR = 3600.0
A, B, OPS, CALLBACK = (f"https://{name}.example/hook" for name in ("alice", "bob", "ops", "callback"))
ALICE_SECRET = KEYS.secret(ALICE_HOOK, 1)


@pytest.fixture
def telling(stores: Stores) -> Telling:
    return Telling(stores)


def a_job(telling: Telling, client: str = "alice", end: Any = None, callback: str | None = None) -> UUID:
    """A job from its submit to its end: completed, or an event of another class."""
    job = uuid4()
    about = {"client": client, "job_id": job}
    first = submitted(job, client=client)
    if callback is not None:
        first = telling.with_callback(first, callback)
    last = (
        completed(job).model_copy(update=about)
        if end is None
        else after(job, end[0], **end[1]).model_copy(update=about)
    )
    telling.append(first, last.model_copy(update={"at": telling.stores.now}))
    return job


async def test_an_hour_of_a_dead_receiver(telling: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried at once, after 5 s, 5 min, 30 min; back after an hour, it has the message at the next try.

    All tries carry one id, and each is verified by Standard Webhooks' own library at its own time."""
    telling.append(telling.hook(ALICE_HOOK, "alice", A))
    telling.receivers.answers[A] = lambda: DOWN if telling.stores.now < T0 + HOUR * 1000 else OK
    job = a_job(telling)
    await telling.follow()
    await telling.until(10 * HOUR)
    sent = telling.receivers.to(A)
    assert [0, 5, 305, 2105, 9305] == [(one.at - T0) // 1000 for one in sent]
    assert 1 == len({one.id for one in sent})
    for one in sent:
        assert ("job.completed", str(job)) == (
            (body := verify(monkeypatch, ALICE_SECRET, one))["type"],
            body["data"]["job_id"],
        )
        with pytest.raises(WebhookVerificationError):
            verify(monkeypatch, KEYS.secret(BOB_HOOK, 1), one)
        with pytest.raises(WebhookVerificationError, match="too old"):
            verify(monkeypatch, ALICE_SECRET, one, generation_at=one.at + 301_000)
    [row] = await telling.rows(ALICE_HOOK)
    assert ("DELIVERED", 5, None) == (row.state, row.tries, row.due_at)
    assert [(None, "can't connect")] * 4 + [(200, "")] == [(one.status, one.error) for one in row.attempts]
    hook = await telling.reads.webhook(str(ALICE_HOOK))
    assert hook is not None
    assert (0, 1, 2105) == (hook.failures, hook.enabled, ((hook.failed_at or 0) - T0) // 1000)


async def test_who_is_told_what(telling: Telling) -> None:
    """A client of its own jobs, by type; an admin of everybody's and of faults; nobody else of anything."""
    telling.append(
        telling.hook(ALICE_HOOK, "alice", A),
        telling.hook(BOB_HOOK, "bob", B, "job.failed"),
        telling.hook(ADMIN_HOOK, "root", OPS, "job.expired", "audit.diverged", role="admin"),
    )
    ends = {
        "job.completed": None,
        "job.failed": (JobFailed, {"attempt": 1, "error_code": "NO_MEMORY", "error_message": "17 MiB"}),
        "job.canceled": (JobCanceled, {"attempt": 1, "reason": "enough"}),
        "job.expired": (JobExpired, {"attempt": 1}),
    }
    for client in ("alice", "bob"):
        for end in ends.values():
            a_job(telling, client, end)
    fault = AlarmRaised(
        at=T0, by="root", type="audit.diverged", subject="price", fault_position=7, detail="x"
    )
    telling.stores.append(fault)
    await telling.follow()
    await telling.deliver()

    def told(url: str) -> list[str]:
        return sorted(json.loads(one.body)["type"] for one in telling.receivers.to(url))

    assert (sorted(JOB_TYPES), ["job.failed"]) == (told(A), told(B))
    assert ["audit.diverged", "job.expired", "job.expired"] == told(OPS)
    [failed] = [json.loads(one.body) for one in telling.receivers.to(B)]
    assert ("bob", "FAILED", {"code": "NO_MEMORY", "message": "17 MiB"}) == tuple(
        failed["data"][name] for name in ("client", "state", "error")
    )
    assert {"job", "history"} == failed["links"].keys()


async def test_a_job_names_its_own_receiver(telling: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    """The `callback_url` is told of this job alone, signed with the client's secret for callbacks."""
    telling.append(telling.hook(ALICE_HOOK, "alice", A))
    job = a_job(telling, callback=CALLBACK)
    a_job(telling)
    await telling.follow()
    await telling.deliver()
    [sent] = telling.receivers.to(CALLBACK)
    callbacks = callbacks_stream("alice")
    body = verify(monkeypatch, KEYS.secret(callbacks, 1), sent)
    assert str(job) == body["data"]["job_id"]
    assert f"/v1/jobs/{job}/result" == body["links"]["result"]
    assert 2 == len(telling.receivers.to(A))
    assert sent.id not in {one.id for one in telling.receivers.to(A)}
    [row] = await telling.reads.deliveries(str(callbacks), subject=str(job))
    assert ("DELIVERED", "alice") == (row.state, row.owner)
    with telling.stores.database.transaction() as tables:
        assert [{"jobs": 0}] == tables.query("webhooks_count_callbacks")


async def test_a_callback_outlives_a_takeover(stores: Stores) -> None:
    """A job that was submitted before a takeover is told of after it."""
    first = Telling(stores)
    job = uuid4()
    first.append(first.with_callback(submitted(job), CALLBACK))
    await first.follow()
    second = Telling(stores)
    second.append(completed(job))
    await second.follow()
    await second.deliver()
    assert [str(job)] == [json.loads(s.body)["data"]["job_id"] for s in second.receivers.to(CALLBACK)]


async def test_a_crash_between_commit_and_delivery(stores: Stores) -> None:
    """The next leader sends what is stored and not delivered, and nothing that was, under the same ids."""
    first = Telling(stores)
    first.append(first.hook(ALICE_HOOK, "alice", A))
    delivered = a_job(first)
    await first.follow()
    await first.deliver()
    due = a_job(first)
    await first.follow()  # stored, and then the process dies
    second = Telling(stores)
    await second.follow()
    await second.deliver()
    assert [str(delivered)] == [json.loads(s.body)["data"]["job_id"] for s in first.receivers.sent]
    assert [str(due)] == [json.loads(s.body)["data"]["job_id"] for s in second.receivers.sent]
    recorded = next(r for r in stores.log.load([due])[due] if r.version == 2)
    assert delivery_id(recorded, ALICE_HOOK) == second.receivers.sent[0].id


async def test_a_log_that_is_followed_again_tells_nothing_twice(telling: Telling) -> None:
    """Messages that are there stay as they are; events older than the whole schedule give none."""
    telling.append(telling.hook(ALICE_HOOK, "alice", A))
    a_job(telling)
    await telling.follow()
    await telling.deliver()
    with telling.stores.database.transaction() as tables:
        tables.move("webhooks", tables.position("webhooks"), 0)
    await telling.follow()
    await telling.deliver()
    assert 1 == len(telling.receivers.sent)
    a_job(telling)
    telling.stores.now += WHOLE_MILLIS + 1
    await telling.follow()
    await telling.deliver()
    assert 1 == len(telling.receivers.sent)


async def test_a_receiver_that_is_gone(telling: Telling) -> None:
    """410 Gone disables the webhook at once, with the reason; what it misses then can be replayed."""
    telling.append(telling.hook(ALICE_HOOK, "alice", A))
    telling.receivers.answers[A] = lambda: Answered(410, "", 1)
    a_job(telling)
    await telling.follow()
    await telling.deliver()
    state = await telling.state_of(ALICE_HOOK)
    assert isinstance(state, Webhook)
    assert (False, "the receiver answered 410 Gone") == (state.enabled, state.disabled_reason)
    missed = a_job(telling)
    await telling.follow()
    await telling.until(100 * HOUR)
    assert 1 == len(telling.receivers.sent)
    assert ["FAILED", "FAILED"] == [row.state for row in await telling.rows(ALICE_HOOK)]
    telling.receivers.answers[A] = lambda: OK
    again = WebhookChanged(
        at=telling.stores.now,
        by="alice",
        webhook_id=ALICE_HOOK,
        owner="alice",
        **{name: getattr(state, name) for name in ("host", "sealed_url", "events", "label")},
        enabled=True,
    )
    replayed = WebhookReplayed(
        at=again.at, by="alice", webhook_id=ALICE_HOOK, owner="alice", deliveries=None, since=T0
    )
    telling.append(again, replayed)
    await telling.follow()
    await telling.deliver()
    assert ["DELIVERED", "DELIVERED"] == [row.state for row in await telling.rows(ALICE_HOOK)]
    assert str(missed) in {json.loads(sent.body)["data"]["job_id"] for sent in telling.receivers.sent[1:]}


async def test_a_receiver_that_fails_for_days(telling: Telling) -> None:
    """All ten tries of a message fail, and no other one succeeds: the webhook is disabled, and says why."""
    telling.append(telling.hook(ALICE_HOOK, "alice", A), telling.hook(BOB_HOOK, "bob", B))
    telling.receivers.answers[A] = lambda: Answered(500, "", 2)
    # Bob's receiver fails one try only.
    telling.receivers.answers[B] = lambda: Answered(503, "", 2) if len(telling.receivers.to(B)) == 1 else OK
    a_job(telling)
    a_job(telling, "bob")
    await telling.follow()
    await telling.until(sum(DELAYS) + HOUR)
    assert (len(DELAYS), 2) == tuple(len(telling.receivers.to(url)) for url in (A, B))
    alice, bob = [await telling.state_of(hook) for hook in (ALICE_HOOK, BOB_HOOK)]
    assert (False, True) == (alice.enabled, bob.enabled)
    assert "10 tries of a message failed, and no other one succeeded; HTTP 500" == alice.disabled_reason
    assert (len(DELAYS) + 1, 1, 0) == (
        (counted := telling.deliverer.metrics()).tries["failed"],
        counted.given_up,
        counted.under_way,
    )
    [row] = await telling.rows(ALICE_HOOK)
    assert ("FAILED", 10, 10) == (row.state, row.tries, len(row.attempts))


async def test_replayed_by_id(telling: Telling) -> None:
    """A delivered message goes again, under its id; another webhook's is not touched."""
    telling.append(telling.hook(ALICE_HOOK, "alice", A), telling.hook(BOB_HOOK, "bob", B))
    a_job(telling)
    a_job(telling, "bob")
    await telling.follow()
    await telling.deliver()
    ids = tuple(sent.id for sent in telling.receivers.sent)
    common: dict[str, Any] = {"at": T0, "by": "alice", "webhook_id": ALICE_HOOK, "owner": "alice"}
    telling.append(WebhookReplayed(**common, deliveries=ids, since=None))
    await telling.follow()
    await telling.deliver()
    own = telling.receivers.to(A)
    assert (2, 1, 1) == (len(own), len({sent.id for sent in own}), len(telling.receivers.to(B)))
    [row] = await telling.rows(ALICE_HOOK)
    assert (1, 1, 2) == (row.round, row.tries, len(row.attempts))


async def test_a_rotated_secret(telling: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both secrets verify until the grace is over, then the new one alone."""
    telling.append(telling.hook(ALICE_HOOK, "alice", A))
    common: dict[str, Any] = {"at": T0, "by": "alice", "webhook_id": ALICE_HOOK, "owner": "alice"}
    telling.append(WebhookRotated(**common, generation=2, old_until=T0 + 60_000))
    new = KEYS.secret(ALICE_HOOK, 2)
    for _ in range(2):
        a_job(telling)
        await telling.follow()
        await telling.deliver()
        telling.stores.pass_time(61)
    both, later = telling.receivers.sent
    assert verify(monkeypatch, ALICE_SECRET, both) == verify(monkeypatch, new, both)
    assert "job.completed" == verify(monkeypatch, new, later)["type"]
    with pytest.raises(WebhookVerificationError):
        verify(monkeypatch, ALICE_SECRET, later)


async def test_a_test_message(telling: Telling) -> None:
    """A test is sent to a disabled webhook, too, and tried once."""
    hook = telling.hook(ALICE_HOOK, "alice", A)
    common: dict[str, Any] = {"at": T0, "by": "alice", "webhook_id": ALICE_HOOK, "owner": "alice"}
    same = {name: getattr(hook, name) for name in ("host", "sealed_url", "events", "label")}
    telling.append(hook, WebhookChanged(**common, **same, enabled=False), WebhookTested(**common))
    telling.receivers.answers[A] = lambda: DOWN
    await telling.follow()
    await telling.until(100 * HOUR)
    [sent] = telling.receivers.sent
    assert "webhook.test" == json.loads(sent.body)["type"]
    [row] = await telling.rows(ALICE_HOOK)
    assert ("FAILED", 1) == (row.state, row.tries)


async def test_a_removed_webhook(telling: Telling) -> None:
    """What was due to it is never sent."""
    telling.append(telling.hook(ALICE_HOOK, "alice", A))
    a_job(telling)
    common: dict[str, Any] = {"at": T0, "by": "alice", "webhook_id": ALICE_HOOK, "owner": "alice"}
    telling.append(WebhookRemoved(**common))
    a_job(telling)
    await telling.follow()
    await telling.until(100 * HOUR)
    assert [] == telling.receivers.sent
    [row] = await telling.rows(ALICE_HOOK)
    assert ("FAILED", ["the webhook was removed"]) == (row.state, [one.error for one in row.attempts])


async def test_a_log_of_deliveries_in_pages(telling: Telling) -> None:
    """Page by page, newest first, no message twice; old ones are removed once they are done."""
    telling.append(telling.hook(ALICE_HOOK, "alice", A), telling.hook(BOB_HOOK, "bob", B))
    jobs = [a_job(telling) for _ in range(7)]
    a_job(telling, "bob")
    await telling.follow()
    await telling.deliver()
    seen: list[str] = []
    before = NEWEST
    while page := await telling.reads.deliveries(str(ALICE_HOOK), before, 3):
        seen += [row.subject for row in page]
        before = DeliveryKey(page[-1].position, page[-1].delivery_id)
    assert [str(job) for job in reversed(jobs)] == seen
    assert [] == await telling.reads.deliveries(str(ALICE_HOOK), state="FAILED")
    telling.receivers.answers[A] = lambda: DOWN
    telling.stores.pass_time(100 * HOUR)
    left = a_job(telling)
    await telling.follow()
    await telling.deliver()
    telling.stores.pass_time(69 * HOUR)
    await telling.deliverer.round()
    await telling.deliverer.settle()
    assert [str(left)] == [row.subject for row in await telling.rows(ALICE_HOOK)]
