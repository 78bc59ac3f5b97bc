"""docs/protocol.md is enough to write a miner and a client from.

What speaks to the coordinator here is written from that page alone: pika, http.client, hashlib, hmac, json,
and Ed25519 from `cryptography`. Nothing of ours is imported but for the start of the coordinator, which is a
process of its own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import re
import secrets
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker
from websockets import Subprotocol
from websockets.sync.client import connect

from tests.harness.fork_server import Forked
from tests.harness.waiting import eventually_now

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
WAIT_SECONDS = 60.0
ALICE, BOB, MINER = "alice:alices-secret", "bob:bobs-secret", "rack:the-racks-secret"
ADMIN = "root:the-roots-secret"
SPEC_MEMBERS = (
    *("id", "name", "category", "description", "input_schema", "output_schema", "requirements", "pricing"),
    *("capabilities", "tags", "aliases", "max_concurrent", "timeout_seconds"),
)
PAYLOAD = {"text": "Grüße, 世界", "algorithm": "sha256"}

Json = dict[str, Any]


# --- from the page: bytes, digests, signatures -------------------------------------------------------------
def compact(document: Any, *, escaped: bool) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=escaped).encode()


def digest(salt: str, document: Json) -> str:
    """As "Digests" allows where there are no fractions and all keys are ASCII."""
    return hashlib.sha256(bytes.fromhex(salt) + compact(document, escaped=False)).hexdigest()


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed_bytes(parts: tuple[str, str, str, str], body: bytes, issued_at: int | None = None) -> bytes:
    """Type, message id, reply address and correlation id; the moment, where the message has one; the body."""
    lines = (*parts, *([] if issued_at is None else [str(issued_at)]))
    return b"".join(line.encode() + b"\n" for line in lines) + body


def mac(secret: str, kind: str, message_id: str, reply_to: str, correlation_id: str, body: bytes) -> str:
    return keyed(secret, signed_bytes((kind, message_id, reply_to, correlation_id), body))


def keyed(secret: str, signed: bytes) -> str:
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def verify_message(headers: Json, recipient: list[str], body: bytes, key_id: str) -> None:
    """ "What the coordinator signs"; raises InvalidSignature."""
    assert headers["key_id"] == key_id
    lines = ["coordinator message 1", headers["signed_as"], *recipient]
    lines += [str(headers["signed_at"]), str(headers["valid_ms"]), hashlib.sha256(body).hexdigest()]
    public = Ed25519PublicKey.from_public_bytes(decode(key_id))
    public.verify(decode(headers["signature"]), "\n".join(lines).encode())


def unseal(key: Ed25519PrivateKey, job_id: str, attempt: int, box: Json) -> Json:
    """As "Private payloads" says."""
    assert box["alg"] == "X25519-HKDF-SHA256-ChaCha20Poly1305"
    private = X25519PrivateKey.from_private_bytes(hashlib.sha512(key.private_bytes_raw()).digest()[:32])
    ephemeral = decode(box["ephemeral"])
    shared = private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
    salt = hashlib.sha256(ephemeral + private.public_key().public_bytes_raw()).digest()
    derived = HKDF(SHA256(), 32, salt, b"coordinator sealed 1").derive(shared)
    content = ChaCha20Poly1305(derived).decrypt(
        bytes(12), decode(box["content"]), f"{job_id}\n{attempt}".encode()
    )
    opened: Json = json.loads(content)
    return opened


def public_id(key: Ed25519PrivateKey) -> str:
    return encode(key.public_key().public_bytes_raw())


def sign_statement(key: Ed25519PrivateKey, statement: Json) -> Json:
    signature = encode(key.sign(compact(statement, escaped=True)))
    return {**statement, "signature": {"alg": "Ed25519", "key_id": public_id(key), "sig": signature}}


def verify_signed(document: Json, key_id: str) -> None:
    """Steps 1 and 2 of "Receipts"; raises InvalidSignature."""
    assert document["signature"]["alg"] == "Ed25519"
    assert document["signature"]["key_id"] == key_id
    rest = {k: v for k, v in document.items() if k not in ("signature", "attestations")}
    message = compact(without_nulls(rest), escaped=True)
    Ed25519PublicKey.from_public_bytes(decode(key_id)).verify(decode(document["signature"]["sig"]), message)


def verify_promise(promise: Json, coordinator_key: str) -> None:
    """The paragraph "The promise"; raises InvalidSignature."""
    assert promise["signature"]["key_id"] == coordinator_key
    rest = {k: v for k, v in promise.items() if k not in ("signature", "attestations")}
    node = hashlib.sha256(b"\0" + compact(without_nulls(rest), escaped=True)).digest()
    tree = promise["signature"]["tree"]
    place, last = tree["index"], tree["size"] - 1
    for sibling in map(bytes.fromhex, tree["path"]):
        assert last > 0
        if place % 2 or place == last:
            node = hashlib.sha256(b"\1" + sibling + node).digest()
            while place and not place % 2:
                place, last = place >> 1, last >> 1
        else:
            node = hashlib.sha256(b"\1" + node + sibling).digest()
        place, last = place >> 1, last >> 1
    assert last == 0
    signed = f'{{"promises":{tree["size"]},"root":"{node.hex()}","version":"1"}}'.encode()
    key = Ed25519PublicKey.from_public_bytes(decode(coordinator_key))
    key.verify(decode(promise["signature"]["sig"]), signed)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


def verify_receipt(receipt: Json, coordinator_key: str, miner_key: str) -> None:
    verify_signed(receipt, coordinator_key)
    statement = receipt["metadata"]["statement"]
    verify_signed(statement, miner_key)
    assert statement["job_id"] == receipt["job_id"]
    assert statement["miner_id"] == receipt["provider"]
    for name in ("attempt", "service", "payload_digest", "result_digest"):
        assert statement[name] == receipt["metadata"][name]


def statement_of(offer: Json, who: Json, result: Json, salt: str, started_ms: int) -> Json:
    return {
        "version": "1",
        "job_id": offer["job_id"],
        "attempt": offer["attempt"],
        "miner_id": who["miner_id"],
        "session_id": who["session_id"],
        "service": offer["service"],
        "payload_digest": offer["payload_digest"],
        "result_digest": digest(salt, result),
        "started_at_ms": started_ms,
        "completed_at_ms": time.time_ns() // 1_000_000,
    }


def work_off(offer: Json) -> Json:
    """The job itself: the service `checksum` of one text."""
    text = offer["payload"]["text"].encode()
    found = {"input": "text", "digest": hashlib.sha256(text).hexdigest(), "size": len(text)}
    return {"algorithm": "sha256", "digests": [found]}


# --- from the page: AMQP -----------------------------------------------------------------------------------
class Party:
    """A client or a miner: one connection, one channel for commands, one queue for replies."""

    def __init__(self, url: str, key: str, *, direct_reply: bool = False) -> None:
        self.name, _, self.secret = key.partition(":")
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self._replies: dict[str, Any] = {}
        self._recipients: dict[str, tuple[list[str], list[str]]] = {}
        self.coordinator_key: str | None = None
        if direct_reply:
            self._reply_to = "amq.rabbitmq.reply-to"
        else:
            self._reply_to = self.channel.queue_declare("", exclusive=True).method.queue
            self.channel.confirm_delivery()  # RabbitMQ's direct reply-to does without
        self.channel.basic_consume(self._reply_to, self._on_reply, auto_ack=True)

    def _on_reply(self, _: object, __: object, properties: pika.BasicProperties, body: bytes) -> None:
        assert properties.correlation_id is not None
        answer, refusal = self._recipients[properties.correlation_id]
        if self.coordinator_key is not None:
            recipient = {"answer": answer, "refusal": refusal}[properties.headers["signed_as"]]
            verify_message(properties.headers, recipient, body, self.coordinator_key)
        self._replies[properties.correlation_id] = json.loads(body)

    def ask(
        self,
        kind: str,
        body: Any,
        *,
        message_id: str | None = None,
        exchange: str = "coordinator.commands",
        routing_key: str | None = None,
        signature: str | None = None,
    ) -> Any:
        """Send a message and wait for its reply."""
        content = json.dumps(body).encode()
        message_id, correlation_id = message_id or secrets.token_hex(8), secrets.token_hex(8)
        issued_at = time.time_ns() // 1_000_000
        covered = signed_bytes((kind, message_id, self._reply_to, correlation_id), content, issued_at)
        signed = signature or keyed(self.secret, covered)
        self._recipients[correlation_id] = (
            [self.name, message_id, correlation_id, signed],
            [self.name, signed, hashlib.sha256(covered).hexdigest()],
        )
        self.channel.basic_publish(
            exchange,
            routing_key or kind,
            content,
            pika.BasicProperties(
                content_type="application/json",
                type=kind,
                message_id=message_id,
                reply_to=self._reply_to,
                correlation_id=correlation_id,
                headers={"principal": self.name, "signature": signed, "issued_at": issued_at},
            ),
            mandatory=True,
        )
        self.wait_for(lambda: correlation_id in self._replies)
        return self._replies.pop(correlation_id)

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "no message came"
            self.connection.process_data_events(time_limit=0.2)

    def close(self) -> None:
        self.connection.close()


class Miner(Party):
    """Registers, consumes its two queues, declares none."""

    def __init__(self, url: str, miner_id: str, key: Ed25519PrivateKey, **options: Any) -> None:
        super().__init__(url, MINER, **options)
        self.key = key
        self.who = {"miner_id": miner_id, "session_id": secrets.token_hex(8)}
        self.offers: list[tuple[int, list[Json]]] = []
        self.hints: list[Json] = []
        self.work: BlockingChannel | None = None

    def register(self) -> Json:
        answer: Json = self.ask(
            "miner.register",
            {
                **self.who,
                "capabilities": {"services": ["checksum"], "price": "0.0001"},
                "concurrency": 2,
                "public_key": public_id(self.key),
            },
        )
        return answer

    def consume(self, registered: Json) -> None:
        self.work = self.connection.channel()
        self.work.basic_qos(prefetch_count=2)

        def on_offers(_: object, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
            if self.coordinator_key is not None:
                verify_message(properties.headers, [registered["profile"]], body, self.coordinator_key)
            self.offers.append((method.delivery_tag, json.loads(body)))

        def on_hint(_: object, __: object, properties: pika.BasicProperties, body: bytes) -> None:
            if self.coordinator_key is not None:
                verify_message(properties.headers, [self.who["miner_id"]], body, self.coordinator_key)
            self.hints.append(json.loads(body))

        self.work.basic_consume(registered["queue"], on_offers)
        self.work.basic_consume(registered["control_queue"], on_hint, auto_ack=True)

    def next_offers(self) -> tuple[int, list[Json]]:
        self.wait_for(lambda: self.offers)
        return self.offers.pop(0)

    def progress(self, offer: Json, report: Json) -> None:
        content, message_id = json.dumps(report).encode(), secrets.token_hex(8)
        signature = mac(self.secret, "job.progress", message_id, "", "", content)
        assert self.work is not None
        self.work.basic_publish(
            "coordinator.progress",
            f"{offer['client']}.{offer['job_id']}",
            content,
            pika.BasicProperties(
                content_type="application/json",
                type="job.progress",
                message_id=message_id,
                headers={"principal": self.name, "signature": signature},
            ),
        )

    def acknowledge(self, tag: int) -> None:
        assert self.work is not None
        self.work.basic_ack(tag)

    def held(self, offer: Json) -> Json:
        return {"job_id": offer["job_id"], "attempt": offer["attempt"], "token": offer["token"], **self.who}

    def completion(self, offer: Json, started_ms: int) -> Json:
        result, salt = work_off(offer), secrets.token_hex(16)
        statement = sign_statement(self.key, statement_of(offer, self.who, result, salt, started_ms))
        return {**self.held(offer), "result": result, "result_salt": salt, "statement": statement}


# --- the coordinator: a process ----------------------------------------------------------------------------
class Coordinator:
    """A running `coordinator serve`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def request(self, method: str, path: str, key: str = "", body: Any = None) -> tuple[int, Any]:
        """One HTTP request; the status and the JSON of the answer."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=WAIT_SECONDS)
        with contextlib.closing(connection):
            content = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
            connection.request(method, path, content, {"X-Api-Key": key} if key else {})
            answer = connection.getresponse()
            read = answer.read()
            return answer.status, json.loads(read) if read else None


@pytest.fixture
def coordinator(amqp_url: str, database_url: str, tmp_path: Path) -> Iterator[Coordinator]:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "APP_PORT": "0",
        "DATA_DIR": str(tmp_path / "data"),
        "DATABASE_URL": database_url,
        "AMQP_URL": amqp_url,
        "CLIENT_API_KEYS": f"{ALICE},{BOB}",
        "MINER_API_KEYS": MINER,
        "ADMIN_API_KEYS": ADMIN,
        "COORDINATOR_STOP_WITH_STDIN": "1",  # it ends if the tests are killed
    }
    with (tmp_path / "coordinator.log").open("wb") as log:
        process = Forked(
            "coordinator", ["serve", "--json"], environment=environment, folder=tmp_path, errors=log
        )
    too_long = threading.Timer(60, process.kill)
    too_long.start()
    try:
        said = process.stdout.readline()
        assert said, (tmp_path / "coordinator.log").read_text()
        yield Coordinator(json.loads(said)["url"])
    finally:
        too_long.cancel()
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdout.close()
        process.stdin.close()


@contextlib.contextmanager
def closing(party: Party) -> Iterator[Any]:
    try:
        yield party
    finally:
        party.close()


# --- the tests ---------------------------------------------------------------------------------------------
def test_the_example_of_a_signature() -> None:
    """The page's worked example of a message's signature is right."""
    [expected] = re.findall(r"```hmac-example\n([0-9a-f]+)\n```", PAGE)
    body = b'{"job_id":"0190163d-8694-739b-aea5-966c26f8ad91"}'

    assert f"`{body.decode()}`" in PAGE
    assert mac("correct horse", "job.cancel", "m-1", "", "c-1", body) == expected


def test_the_example_of_a_signed_request() -> None:
    """The page's worked example of a signed request over HTTP is right."""
    [expected] = re.findall(r"```http-hmac-example\n([0-9a-f]+)\n```", PAGE)
    assert "`POST /v1/jobs?a=1` at `1700000000.25` with the body `{}`" in PAGE
    lines = ("POST", "/v1/jobs", "a=1", "1700000000.25", hashlib.sha256(b"{}").hexdigest())
    made = hmac.new(b"correct horse battery", "\n".join(lines).encode(), hashlib.sha256)
    assert made.hexdigest() == expected


def test_a_whole_job_over_amqp(amqp_url: str, coordinator: Coordinator) -> None:
    """Register, submit, offer, start, complete, and a receipt that verifies; every command repeated."""
    health = coordinator.request("GET", "/health")[1]
    miner_key = Ed25519PrivateKey.generate()
    with (
        closing(Party(amqp_url, ALICE)) as alice,
        closing(Miner(amqp_url, "node1@rack", miner_key)) as miner,
    ):
        alice.coordinator_key = miner.coordinator_key = health["signing_key_id"]
        registered = miner.register()
        assert registered["status"] == "accepted"
        assert registered["queue"] == f"work.{registered['profile']}"
        assert registered["control_queue"] == "miner.node1@rack"
        assert miner.register() == registered
        miner.consume(registered)

        # A submit is recognised by its message id, and answered again.
        submit = {"service": "checksum", "payload": PAYLOAD}
        submitted = alice.ask("job.submit", submit, message_id="first")
        assert submitted["status"] == "accepted"
        assert submitted["state"] == "QUEUED"
        assert alice.ask("job.submit", submit, message_id="first") == submitted
        assert submitted["expires_at"] > time.time() * 1000

        tag, [offer] = miner.next_offers()
        assert offer["job_id"] == submitted["job_id"]
        assert str(uuid.UUID(offer["job_id"])) == offer["job_id"]
        assert offer["payload"] == PAYLOAD
        assert offer["payload_digest"] == digest(offer["payload_salt"], offer["payload"])

        started_ms = time.time_ns() // 1_000_000
        claimed = miner.ask("job.start", miner.held(offer))
        assert (claimed["status"], claimed["state"], claimed["attempt"]) == ("accepted", "RUNNING", 1)
        assert miner.ask("job.start", miner.held(offer)) == claimed
        miner.acknowledge(tag)

        beat = {**miner.who, "inflight": [{"job_id": offer["job_id"], "attempt": 1}]}
        told = miner.ask("miner.heartbeat", beat, exchange="coordinator.heartbeats")
        assert (told["status"], told["state"], told["cancel"]) == ("accepted", "ONLINE", [])

        completion = miner.completion(offer, started_ms)
        completed = miner.ask("job.complete", completion)
        assert (completed["status"], completed["state"]) == ("accepted", "COMPLETED")
        assert miner.ask("job.complete", completion) == completed

        promise = completed["promise"]
        verify_promise(promise, health["signing_key_id"])
        with pytest.raises(InvalidSignature):
            verify_promise({**promise, "price": "1000000"}, health["signing_key_id"])

        # The client's receipt, over HTTP, and the result with what its digest needs.
        path = f"/v1/jobs/{offer['job_id']}"
        status, given = coordinator.request("GET", f"{path}/result?wait=30", ALICE)
        assert (status, given["result"]) == (200, completion["result"])
        status, receipt = coordinator.request("GET", f"{path}/receipt", ALICE)
        assert 200 == status
        verify_receipt(receipt, health["signing_key_id"], public_id(miner_key))
        same = ("receipt_id", "job_id", "provider", "client", "units", "price", "started_at", "completed_at")
        assert [promise[name] for name in same] == [receipt[name] for name in same]
        assert receipt["client"] == "alice"
        assert receipt["provider"] == "node1@rack"
        units, price = float(receipt["units"]), float(receipt["price"])
        assert price == pytest.approx(units * 0.0001, abs=1e-6)
        forged = {**receipt, "price": "1000000"}
        with pytest.raises(InvalidSignature):
            verify_receipt(forged, health["signing_key_id"], public_id(miner_key))

        assert digest(given["result_salt"], given["result"]) == receipt["metadata"]["result_digest"]
        [key] = coordinator.request("GET", "/.well-known/coordinator/keys")[1]["keys"]
        assert (health["signing_key_id"], "current") == (key["key_id"], key["state"])
        assert coordinator.request("GET", f"{path}/receipt", BOB)[1]["code"] == "JOB_NOT_FOUND"

        left = miner.ask("miner.leave", miner.who)
        assert (left["status"], left["state"]) == ("accepted", "OFFLINE")


def found(coordinator: Coordinator, path: str) -> Any:
    """The answer; None if the coordinator does not know this yet."""
    status, answer = coordinator.request("GET", path, ADMIN)
    return answer if status == 200 else None


def test_a_private_payload(amqp_url: str, coordinator: Coordinator) -> None:
    """An offer of a private service has no payload; the claim's answer has it, in the open or sealed."""
    key = coordinator.request("GET", "/health")[1]["signing_key_id"]
    miner_key = Ed25519PrivateKey.generate()
    with (
        closing(Party(amqp_url, ALICE)) as alice,
        closing(Party(amqp_url, ADMIN)) as root,
        closing(Miner(amqp_url, "rack", miner_key)) as miner,
    ):
        alice.coordinator_key = root.coordinator_key = miner.coordinator_key = key
        # The read models of a coordinator that has just begun may lag behind its log.
        spec = eventually_now(lambda: found(coordinator, "/v1/registry/services/checksum"))
        revised = {name: value for name, value in spec.items() if name in SPEC_MEMBERS} | {"private": True}
        answer = root.ask("service.revise", {"spec": revised})
        assert answer["status"] == "accepted", answer
        miner.consume(miner.register())
        submitted = alice.ask("job.submit", {"service": "checksum", "payload": PAYLOAD})
        assert submitted["status"] == "accepted"
        _, [offer] = miner.next_offers()
        assert (offer["private"], offer["payload_salt"]) == (True, "")
        assert not {"payload", "payload_blob"} & offer.keys()

        claimed = miner.ask("job.start", miner.held(offer))
        assert claimed["payload"] == PAYLOAD
        assert offer["payload_digest"] == digest(claimed["payload_salt"], claimed["payload"])
        sealed = miner.ask("job.start", {**miner.held(offer), "sealed": True})
        assert "payload" not in sealed
        opened = unseal(miner_key, offer["job_id"], 1, sealed["sealed"])
        assert opened == {name: claimed[name] for name in ("payload", "payload_salt")}


def test_arrays_and_what_is_refused(amqp_url: str, coordinator: Coordinator) -> None:
    """Arrays are answered in order and fail singly; each refusal has the code that the page names."""
    with (
        closing(Party(amqp_url, ALICE, direct_reply=True)) as alice,
        closing(Miner(amqp_url, "rack", Ed25519PrivateKey.generate())) as miner,
    ):
        good = {"service": "checksum", "payload": {"text": "x"}, "priority": 9}
        answers = alice.ask("job.submit", [good, {"service": "nothing", "payload": {}}, {"payload": 1}, good])
        assert [a.get("code", a["status"]) for a in answers] == [
            "accepted",
            "SERVICE_NOT_FOUND",
            "INVALID_PAYLOAD",
            "accepted",
        ]
        job = {"job_id": answers[0]["job_id"]}
        assert job["job_id"] != answers[3]["job_id"]

        def code(kind: str, body: Any, **options: Any) -> str:
            answer: Json = alice.ask(kind, body, **options)
            assert answer["status"] == "refused"
            assert answer["detail"]
            return str(answer["code"])

        assert code("job.submit", good, signature="0" * 64) == "UNAUTHORIZED_KEY"
        assert code("job.dance", {}) == "UNKNOWN_COMMAND"
        assert code("job.submit", []) == "INVALID_PAYLOAD"
        assert code("job.submit", [good] * 501) == "TOO_LARGE"
        assert code("job.submit", {**good, "payload": {"text": "x" * 2**20}}) == "TOO_LARGE"
        assert code("job.submit", {**good, "ttl": 5}) == "INVALID_PAYLOAD"
        assert code("job.submit", {**good, "payload": {"text": "\0"}}) == "INVALID_PAYLOAD"
        assert code("job.start", {**job, "attempt": 1, **miner.who}) == "FORBIDDEN"
        assert code("job.cancel", {"job_id": str(uuid.uuid4())}) == "JOB_NOT_FOUND"
        key = {**good, "idempotency_key": "k"}
        assert alice.ask("job.submit", key)["status"] == "accepted"
        assert code("job.submit", {**key, "priority": 1}) == "IDEMPOTENCY_MISMATCH"

        # A miner that has not registered, one whose session is over, and an attempt that is not its own.
        def miner_code(kind: str, body: Any) -> str:
            return str(miner.ask(kind, body)["code"])

        assert miner_code("miner.drain", miner.who) == "MINER_NOT_FOUND"
        assert miner_code("job.start", {**job, "attempt": 1, **miner.who}) == "SESSION_NOT_LIVE"
        registered = miner.register()
        miner.consume(registered)
        tag, [offer, *_] = miner.next_offers()
        completion = miner.completion(offer, 0)
        wrong = {**completion, "statement": {**completion["statement"], "attempt": 2}}
        assert miner_code("job.complete", wrong) == "INVALID_STATEMENT"
        assert miner_code("job.start", {**miner.held(offer), "attempt": 2}) == "STALE_ATTEMPT"
        # The claim left out: completing claims.
        assert miner.ask("job.complete", completion)["status"] == "accepted"
        miner.acknowledge(tag)
        assert miner_code("job.fail", {**miner.held(offer), "error_code": "LATE"}) == "CONFLICT_STATE"

        # A job that is cancelled while it runs: the hint says so, and so does the next heartbeat.
        tag, [offer, *_] = miner.next_offers()
        assert miner.ask("job.start", miner.held(offer))["status"] == "accepted"
        miner.acknowledge(tag)
        assert alice.ask("job.cancel", {"job_id": offer["job_id"]})["state"] == "CANCELED"
        held = {"job_id": offer["job_id"], "attempt": 1}
        miner.wait_for(lambda: miner.hints)
        assert miner.hints.pop() == {"hint": "cancel", **held}
        beat = {**miner.who, "inflight": [held]}

        def told() -> bool:
            answer = miner.ask("miner.heartbeat", beat, exchange="coordinator.heartbeats")
            assert answer["cancel"] in ([], [held])
            return bool(answer["cancel"] == [held])

        miner.wait_for(told)  # the answer may be a moment behind the hint

        # What could not be handled at all is among the dead letters, without its signature.
        _, properties, body = miner.channel.basic_get("coordinator.dead", auto_ack=True)
        assert properties.headers["code"] == "UNAUTHORIZED_KEY"
        assert properties.headers["principal"] == "alice"
        assert properties.headers["routing_key"] == "job.submit"
        assert "signature" not in properties.headers
        assert json.loads(body) == good


def test_events(amqp_url: str, coordinator: Coordinator) -> None:
    """A queue bound to a client's keys gets its events, in order, in arrays; and no other client's."""
    with closing(Party(amqp_url, ALICE)) as alice, closing(Party(amqp_url, BOB)) as bob:
        mine = alice.channel.queue_declare("", exclusive=True).method.queue
        alice.channel.queue_bind(mine, "coordinator.events", "job.*.alice.*")
        got: list[tuple[str, str, Json]] = []

        def on_events(_: object, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
            got.extend((method.routing_key, str(properties.type), element) for element in json.loads(body))

        alice.channel.basic_consume(mine, on_events, auto_ack=True)
        submit = {"service": "checksum", "payload": {"text": "x"}}
        assert bob.ask("job.submit", submit)["status"] == "accepted"
        first = alice.ask("job.submit", submit)
        assert alice.ask("job.cancel", {"job_id": first["job_id"]})["status"] == "accepted"
        alice.ask("job.submit", [submit, submit])
        alice.wait_for(lambda: len(got) == 4)

    topics = [element["topic"] for _, _, element in got]
    assert topics[:2] == ["job.submitted.v1", "job.canceled.v1"]
    assert [kind for _, kind, _ in got] == topics
    assert {element["event"]["client"] for _, _, element in got} == {"alice"}
    assert got[0][0] == f"job.submitted.alice.{first['job_id']}"
    assert got[0][2]["position"] == first["position"]
    assert (got[0][2]["stream"], got[0][2]["version"]) == (first["job_id"], 1)
    positions = [element["position"] for _, _, element in got]
    assert positions == sorted(positions)
    # Both jobs of the array in one message, or one in each, as the publisher happened to read them.
    subjects = {key.rpartition(".")[2] for key, _, _ in got[2:]}
    assert subjects == {"many"} or len(subjects) == 2


def test_queues_that_are_gone_come_back_by_registering(amqp_url: str, coordinator: Coordinator) -> None:
    """Consuming a queue that vanished fails with 404; the same session registers again, and it is there."""
    with closing(Miner(amqp_url, "rack", Ed25519PrivateKey.generate())) as miner:
        registered = miner.register()
        miner.channel.queue_delete(registered["queue"])  # as the broker does ten minutes after its last use

        with pytest.raises(ChannelClosedByBroker) as closed:
            miner.consume(registered)
        assert closed.value.reply_code == 404
        assert miner.register() == registered
        miner.consume(registered)


def test_a_whole_job_over_http(coordinator: Coordinator) -> None:
    """The same as over AMQP by the page's table: register, poll, heartbeat, result with a file, receipt."""
    key = Ed25519PrivateKey.generate()

    def ask(method: str, path: str, by: str, body: Any = None, expect: int = 200) -> Any:
        status, answer = coordinator.request(method, f"/v1{path}", by, body)
        assert status == expect, answer
        return answer

    capabilities = {"services": ["checksum"]}
    begin = {"capabilities": capabilities, "public_key": public_id(key), "region": "eu"}
    registered = ask("POST", "/miners/register", MINER, begin)
    assert registered["miner_id"] == "rack"
    assert ask("POST", "/miners/poll", MINER, {"max_wait_seconds": 0}, 204) is None

    content = b"a file of the client's"
    sha256 = hashlib.sha256(content).hexdigest()
    uploaded = ask("PUT", f"/blobs/{sha256}", ALICE, content, 201)
    assert uploaded["blob"] == f"blob:{sha256}"
    payload = {"inputs": [uploaded["blob"]]}
    submitted = ask("POST", "/jobs", ALICE, {"service": "checksum", "payload": payload}, 201)

    offer = ask("POST", "/miners/poll", MINER, {"max_wait_seconds": 15})
    assert offer["job_id"] == submitted["job_id"]
    assert offer["payload_digest"] == digest(offer["payload_salt"], offer["payload"])
    started_ms = time.time_ns() // 1_000_000
    path = f"/miners/{offer['job_id']}"
    assert ask("POST", f"{path}/start", MINER, {"attempt": 1})["state"] == "RUNNING"
    held = [{"job_id": offer["job_id"], "attempt": 1}]
    assert ask("POST", "/miners/heartbeat", MINER, {"inflight": held})["cancel"] == []

    # The miner that holds the job may read its file; the file of nobody's job, nobody may.
    connection = http.client.HTTPConnection(urlsplit(coordinator.url).netloc, timeout=WAIT_SECONDS)
    with contextlib.closing(connection):
        blob_path = f"/v1/jobs/{offer['job_id']}/blobs/{sha256}"
        connection.request("GET", blob_path, headers={"X-Api-Key": MINER})
        assert connection.getresponse().read() == content

    result = {"algorithm": "sha256", "digests": [{"input": "0", "digest": sha256, "size": len(content)}]}
    salt = secrets.token_hex(16)
    statement = sign_statement(key, statement_of(offer, registered, result, salt, started_ms))
    handed_in = {"attempt": 1, "result": result, "result_salt": salt, "statement": statement}
    completed = ask("POST", f"{path}/result", MINER, handed_in)
    assert ask("POST", f"{path}/result", MINER, handed_in) == completed
    health = coordinator.request("GET", "/health")[1]
    verify_promise(completed["promise"], health["signing_key_id"])
    ask("GET", f"/jobs/{offer['job_id']}/result?wait=30", ALICE)
    receipt = ask("GET", f"/jobs/{offer['job_id']}/receipt", ALICE)
    verify_receipt(receipt, health["signing_key_id"], public_id(key))

    refused = ask("POST", f"{path}/fail", MINER, {"attempt": 1, "error_code": "LATE"}, 409)
    assert refused["code"] == "CONFLICT_STATE"
    assert ask("POST", "/miners/drain", MINER, {})["state"] == "DRAINING"
    assert ask("POST", "/miners/poll", MINER, {}, 409)["code"] == "MINER_DRAINING"
    assert ask("POST", "/miners/leave", MINER, {})["state"] == "OFFLINE"


def test_live_from_the_page_alone(amqp_url: str, coordinator: Coordinator) -> None:
    """A miner over AMQP reports progress and text; its client follows by WebSocket and server-sent events,
    and resumes without a gap or a double."""
    base, _, netloc = coordinator.url.partition("://")
    assert base == "http"
    protocols = [Subprotocol("coordinator.v1"), Subprotocol(f"key.{encode(ALICE.encode())}")]
    with (
        closing(Miner(amqp_url, "rack", Ed25519PrivateKey.generate())) as miner,
        connect(
            f"ws://{netloc}/ws/client",
            subprotocols=protocols,
        ) as socket,
    ):
        registered = miner.register()

        def say(**message: Any) -> None:
            socket.send(json.dumps(message))

        def heard(until: str) -> list[Json]:
            messages: list[Json] = []
            while not messages or messages[-1]["type"] != until:
                messages.append(json.loads(socket.recv(WAIT_SECONDS)))
            return messages

        assert heard("welcome")[0]["name"] == "alice"
        say(type="subscribe", jobs="all", id="1")
        assert heard("subscribed")[-1]["id"] == "1"

        # 1. A job, an offer, a claim.
        payload = {"service": "checksum", "payload": {"text": "hello"}}
        _, submitted = coordinator.request("POST", "/v1/jobs", ALICE, payload)
        miner.consume(registered)
        tag, [offer] = miner.next_offers()
        assert offer["client"] == "alice"
        started_ms = time.time_ns() // 1_000_000
        assert miner.ask("job.start", miner.held(offer))["state"] == "RUNNING"
        miner.acknowledge(tag)

        # 2. Progress and text.
        text = "tick \N{SNOWMAN} tock"
        said = {"seq": 1, "fraction": 0.5, "note": "half", "text": text, "offset": 0}
        named = {"job_id": offer["job_id"], "attempt": offer["attempt"], **miner.who}
        miner.progress(offer, {**named, **said})
        told = heard("tokens")
        states = [(m["type"], m["state"]) for m in told if "state" in m]
        assert states == [("state.changed", "QUEUED"), ("state.changed", "RUNNING")]
        assert (told[-2]["type"], told[-2]["fraction"], told[-2]["note"]) == ("progress", 0.5, "half")
        assert (told[-1]["text"], told[-1]["offset"], told[-1]["attempt"]) == (text, 0, 1)

        # 3. The result, and its event.
        assert miner.ask("job.complete", miner.completion(offer, started_ms))["state"] == "COMPLETED"
        ready = heard("result.ready")[-1]
        assert (ready["job_id"], ready["state"]) == (submitted["job_id"], "COMPLETED")

        # 4. Resumed from each position: what came after it, in order, once.
        positions = [m["position"] for m in [*told, ready] if "state" in m]
        for cut, position in enumerate(positions):
            with connect(
                f"ws://{netloc}/ws/client?from={position}", additional_headers={"X-Api-Key": ALICE}
            ) as again:
                after = []
                while (message := json.loads(again.recv(WAIT_SECONDS)))["type"] != "subscribed":
                    after.append(message)
                assert [m["position"] for m in after if "state" in m] == positions[cut + 1 :]

    # 5. The same as server-sent events, until the job's end; then 204.
    connection = http.client.HTTPConnection(netloc, timeout=WAIT_SECONDS)
    with contextlib.closing(connection):
        path = f"/v1/jobs/{submitted['job_id']}/events"
        connection.request("GET", path, headers={"X-Api-Key": ALICE, "Last-Event-ID": str(positions[0])})
        body = connection.getresponse().read().decode()
        ids = [int(line[4:]) for line in body.splitlines() if line.startswith("id: ")]
        assert sorted(set(ids)) == positions[1:]
        connection.request("GET", path, headers={"X-Api-Key": ALICE, "Last-Event-ID": str(positions[-1])})
        assert connection.getresponse().status == 204


def test_every_code_and_every_command_is_on_the_page() -> None:
    """The tables name each refusal code and each command with its senders, as the schemas have them."""
    asyncapi = json.loads((ROOT / "schemas" / "asyncapi.json").read_text())

    codes = asyncapi["components"]["schemas"]["Refused"]["properties"]["code"]["enum"]
    assert {code for cells in table("What each code asks for") for code in names(cells[0])} == set(codes)
    commands = {
        name: message["x-senders"]
        for name, message in asyncapi["components"]["messages"].items()
        if "x-senders" in message
    }
    told = {name: sorted(cells[1].split(", ")) for cells in table("Commands") for name in names(cells[0])}
    assert told == commands


def test_every_live_message_is_on_the_page() -> None:
    """The page's table of what is told has the types of the schema, but for those that the text explains."""
    schema = json.loads((ROOT / "schemas" / "documents" / "live_message.json").read_text())
    types = set(schema["discriminator"]["mapping"])
    first = [names(cells[0]) for cells in table("Live, for clients")]
    told = {name for row in first for name in row if not name.startswith("{")}
    assert told == types - {"welcome", "unsubscribed", "pong", "refused"}
    for name in types:
        assert name in PAGE


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of the first table under a heading."""
    section = PAGE.partition(f"\n## {heading}")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
