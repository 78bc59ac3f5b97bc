"""Dead letters on a real broker: listed, shown, sent again in their senders' names, dropped."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from aio_pika import Message, connect
from pamqp.commands import Basic

from coordinator.broker.connection import Broker
from coordinator.broker.dead_letters.letters import TOLD
from coordinator.crypto.mac import message_to_sign, sign_message
from coordinator.domain.messages import Role
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data import admin, overview
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.runtime.signing import signing_key
from coordinator.wire.signed_messages import DEAD_PREFIX, MessageSigner, dead_letter
from coordinator.wire.topology import COMMANDS_EXCHANGE, DEAD_EXCHANGE
from tests.acceptance.cli_process import Ran, call
from tests.harness.executor import SPEC
from tests.harness.stage import ALICE, ROOT, Stage
from tests.harness.waiting import eventually
from tests.integration.edge_bench import an_edge

JOB = {"service": "checksum", "payload": {"text": "x"}, "idempotency_key": "dead-1"}
ADMIN = Viewer("root", Role.ADMIN)


async def publish(amqp_url: str, exchange: str, message: Message, key: str) -> None:
    async with await connect(amqp_url) as connection:
        channel = await connection.channel()
        target = await channel.get_exchange(exchange, ensure=False)
        await target.publish(message, key)


def signed(api_key: str, kind: str, body: dict[str, Any], issued_at: int) -> Message:
    """A command of this key, signed at this time."""
    name, secret = api_key.split(":")
    data, message_id = json.dumps(body).encode(), str(uuid4())
    signature = sign_message(secret, message_to_sign(kind, message_id, "", "", data, issued_at))
    headers: Any = {"principal": name, "signature": signature, "issued_at": issued_at}
    return Message(data, type=kind, message_id=message_id, headers=headers)


async def test_dead_letters_are_sent_again_or_dropped(
    tmp_path: Path, database_url: str, amqp_url: str
) -> None:
    """A proven sender's letter takes effect in its name; an unproven one needs an admin's word."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()

        async def dead(*arguments: str) -> Ran:
            options = ("--url", stage.urls["main"], "--api-key", ROOT, "--json")
            return await asyncio.to_thread(call, tmp_path, "dead", *arguments, *options)

        assert {"items": [], "total": 0} == (await dead("list")).json()
        hour_ago = time.time_ns() // 1_000_000 - 3_600_000
        service = {"spec": {**SPEC, "id": "late"}}
        old = signed(ROOT, "service.register", service, hour_ago)
        await publish(amqp_url, COMMANDS_EXCHANGE, old, "service.register")
        unsigned: Any = {"principal": "alice"}
        plain = Message(json.dumps(JOB).encode(), type="job.submit", message_id="m1", headers=unsigned)
        await publish(amqp_url, COMMANDS_EXCHANGE, plain, "job.submit")
        forged: Any = {"principal": "alice", "code": "INTERNAL", "reason": "x", "routing_key": "job.submit"}
        await publish(
            amqp_url, DEAD_EXCHANGE, Message(json.dumps(JOB).encode(), type="job.submit", headers=forged), ""
        )
        await publish(amqp_url, DEAD_EXCHANGE, Message(b"\xff{", type="no.such"), "")

        async def all_there() -> bool:
            return bool((await dead("list")).json()["total"] == 4)

        for _ in range(100):
            if await all_there():
                break
            await asyncio.sleep(0.1)
        listed = {letter["type"] + letter["code"]: letter for letter in (await dead("list")).json()["items"]}
        late, plain_one = listed["service.registerINVALID_PAYLOAD"], listed["job.submitUNAUTHORIZED_KEY"]
        forged_one, broken = listed["job.submitINTERNAL"], listed["no.such"]
        assert [("root", True), ("alice", False), ("alice", False), ("", False)] == [
            (letter["principal"], letter["proven"]) for letter in (late, plain_one, forged_one, broken)
        ]
        assert late["at"] is not None
        assert JOB == (await dead("show", plain_one["id"])).json()["body"]

        ran = await dead("replay", late["id"])
        [replayed] = ran.json()["replayed"]
        assert (0, "accepted", "root") == (ran.code, replayed["status"], replayed["principal"])
        assert "issued_at" in replayed["reason"]
        [event] = [e for e in stage.log.entries("service.registered.v1") if e.data["spec"]["id"] == "late"]
        assert "root" == event.data["by"]

        ran = await dead("replay", "--all")
        assert (3, {"refused"}) == (ran.code, {one["status"] for one in json.loads(ran.out)["replayed"]})
        assert 3 == (await dead("list")).json()["total"]
        assert [] == stage.log.entries("job.submitted.v1")
        ran = await dead("replay", plain_one["id"], "--unproven")
        assert (0, "alice") == (ran.code, ran.json()["replayed"][0]["principal"])
        [job] = stage.log.entries("job.submitted.v1")
        assert ("alice", "alice") == (job.data["client"], job.data["by"])
        assert 4 == (await dead("replay", plain_one["id"])).code  # it is gone
        assert 2 == (await dead("drop", "--all")).code  # not without --yes
        assert [forged_one["id"]] == [
            one["id"] for one in (await dead("drop", forged_one["id"])).json()["dropped"]
        ]
        assert 1 == len((await dead("drop", "--all", "--yes")).json()["dropped"])
        assert {"items": [], "total": 0} == (await dead("list")).json()
        for wrong in (("show", "x"), ("replay",), ("replay", "--all", late["id"])):
            assert 2 == (await dead(*wrong)).code, wrong
        assert ALICE
        await eventually(lambda: stage.health()["ready"], "still well")


async def bury(
    broker: Broker, body: Any, *, code: str, principal: str, signer: MessageSigner | None, kind: str
) -> None:
    """Put a message aside as the inbox does."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    facts = {
        "reason": "the log was out of reach",
        "code": code,
        "routing_key": kind,
        "principal": principal,
        "role": "" if code == "UNAUTHORIZED_KEY" else "client",
        "message_id": uuid4().hex,
    }
    told = {name: facts[name] for name in TOLD}
    ours = signer.headers(dead_letter(kind, *told.values()), content, 1000) if signer is not None else {}
    headers: Any = told | {DEAD_PREFIX + name: value for name, value in ours.items()}
    properties = Basic.Properties(message_type=kind, delivery_mode=2, headers=headers)
    assert await broker.publish(DEAD_EXCHANGE, kind, content, properties, mandatory=True) == "confirmed"


async def test_the_dashboard_shows_dead_letters_and_sends_them_again(
    tmp_path: Path, database_url: str, amqp_url: str
) -> None:
    """A proved sender's commands take effect as its own, each once; of an unproved or forged one's, none."""
    job = {"service": "checksum", "payload": {"text": "late"}}
    async with an_edge(tmp_path, database_url=database_url, amqp_url=amqp_url) as edge:
        context: EdgeContext = edge.app.state.context
        signer = MessageSigner(signing_key(edge.coordinator.settings))
        broker = Broker(amqp_url)
        await broker.start()
        for body, code, principal, signed_by in (
            (job, "UNAVAILABLE", "alice", signer),
            ([job, {**job, "service": "nothing_like_it"}], "UNAVAILABLE", "alice", signer),
            (job, "UNAUTHORIZED_KEY", "bob", signer),
            (job, "UNAVAILABLE", "bob", None),
            (b"not JSON", "INVALID_PAYLOAD", "alice", signer),
        ):
            await bury(broker, body, code=code, principal=principal, signer=signed_by, kind="job.submit")
        await broker.stop()

        async def arrived() -> admin.DeadLetterPage | None:
            found = await admin.dead_letters(context, ADMIN)
            return found if found is not None and found.total == 5 else None

        found = await eventually(arrived, timeout=30)
        assert found is not None
        assert [("alice", True), ("alice", True), ("bob", False), ("bob", False), ("alice", True)] == [
            (letter.principal, letter.proved) for letter in found.letters
        ]
        whole, part, unproved, forged, broken = found.letters
        assert ("the log was out of reach", json.dumps(job)) == (whole.reason, whole.body)
        oldest = await admin.dead_letters(context, ADMIN, limit=1)
        assert oldest == admin.DeadLetterPage(letters=(whole,), total=5)

        async def attended() -> list[str] | None:
            lines = (await overview.load(context, ADMIN)).attention
            return [line.sentence for line in lines if line.subject == "dead letters"] or None

        told = await eventually(attended, timeout=30)
        assert ["5 messages could not be handled and are kept aside."] == told

        done = await admin.replay(context, ADMIN, whole.id)
        assert admin.ReplayOutcome(accepted=1, refused={}, dropped=True) == done
        assert await admin.replay(context, ADMIN, whole.id) is None
        for _ in range(2):  # it stays, and what was accepted is not done twice
            done = await admin.replay(context, ADMIN, part.id)
            assert admin.ReplayOutcome(accepted=1, refused={"SERVICE_NOT_FOUND": 1}, dropped=False) == done
        await edge.reached(edge.coordinator.feed.head)
        assert ["QUEUED", "QUEUED"] == [
            item["state"] for item in (await edge.alice.get("/v1/jobs")).json()["items"]
        ]
        for letter, code in (
            (unproved, "UNAUTHORIZED_KEY"),
            (forged, "UNAUTHORIZED_KEY"),
            (broken, "INVALID_PAYLOAD"),
        ):
            done = await admin.replay(context, ADMIN, letter.id)
            assert admin.ReplayOutcome(accepted=0, refused={code: 1}, dropped=False) == done
        left = await admin.dead_letters(context, ADMIN)
        assert left is not None
        assert [part, unproved, forged, broken] == list(left.letters)
        assert [] == (await edge.bob.get("/v1/jobs")).json()["items"]
