"""Webhooks by command line and by the blocking SDK, against a real coordinator and a real receiver."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import standardwebhooks

from coordinator.client import Coordinator as Client
from coordinator.edge.models.webhooks import DeliveryView, SecretView, WebhookSecretAnswer, WebhookView
from tests.acceptance.cli_process import Coordinator, dev

NOBODY = "0190163d-8694-739b-aea5-966c26f8ad91"


class Inbox(HTTPServer):
    """Answers with the status in the path, and keeps what it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.got: list[tuple[dict[str, str], bytes]] = []

    def url(self, status: int) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{status}"


class _Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Inbox)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((dict(self.headers), body))
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        return None


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    with Inbox() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with dev(tmp_path_factory.mktemp("webhooks"), WEBHOOK_ALLOW_PRIVATE="true") as running:
        yield running


def told(coordinator: Coordinator, *arguments: str) -> Any:
    ran = coordinator.run("webhook", *arguments, "--json")
    assert ran.code == 0, ran.err
    return ran.json()


def test_a_webhook_from_its_making_to_its_end(coordinator: Coordinator, inbox: Inbox) -> None:
    """Added, tested, changed, rotated, replayed, removed; the secret verifies what came."""
    made = told(coordinator, "add", inbox.url(204), "--event", "job.canceled", "--label", "ours")
    assert WebhookSecretAnswer.model_validate(made)
    hook = made["webhook_id"]
    [item] = told(coordinator, "list")["items"]
    shown = WebhookView.model_validate(told(coordinator, "show", hook))
    assert (WebhookView.model_validate(item), inbox.url(204), ["job.canceled"]) == (
        shown,
        shown.url,
        shown.events,
    )
    assert made["secret"] == SecretView.model_validate(told(coordinator, "secret", hook)).secret

    tested = DeliveryView.model_validate(told(coordinator, "test", hook))
    assert ("DELIVERED", [204]) == (tested.state, [attempt.status for attempt in tested.attempts])
    headers, body = inbox.got[-1]
    assert "webhook.test" == standardwebhooks.Webhook(made["secret"]).verify(body, headers)["type"]

    told(coordinator, "change", hook, "--to", inbox.url(500), "--label", "theirs")
    failed = coordinator.run("webhook", "test", hook)
    assert (1, True) == (failed.code, "NOT_DELIVERED: the receiver answered 500" in failed.err)
    told(coordinator, "change", hook, "--to", inbox.url(200), "--disable")
    job = coordinator.submit("canceled while it is disabled")
    assert 0 == coordinator.run("job", "cancel", job).code
    [missed] = told(coordinator, "deliveries", hook, "--subject", job)["items"]
    assert ("FAILED", []) == (missed["state"], missed["attempts"])
    told(coordinator, "change", hook, "--enable")
    rotated = told(coordinator, "rotate", hook, "--grace", "1h")
    assert (2, True) == (rotated["generation"], rotated["secret"] != made["secret"])
    before = len(inbox.got)
    told(coordinator, "replay", hook, "--delivery", missed["delivery_id"])
    while len(inbox.got) == before:
        threading.Event().wait(0.02)
    headers, body = inbox.got[-1]
    for secret in (made["secret"], rotated["secret"]):
        assert job == standardwebhooks.Webhook(secret).verify(body, headers)["data"]["job_id"]
    told(coordinator, "replay", hook, "--since", "1h")
    assert hook in coordinator.run("webhook", "list").out
    told(coordinator, "remove", hook)
    assert [] == told(coordinator, "list")["items"]


def test_the_blocking_sdk(coordinator: Coordinator, inbox: Inbox) -> None:
    """A job's callback, and its delivery."""
    with Client(coordinator.url, _key(coordinator)) as client:
        job = client.submit("checksum", {"text": "called"}, callback_url=inbox.url(202))
        job.cancel()
        found: list[dict[str, Any]] = []
        while not found or found[0]["state"] == "PENDING":
            found = list(client.webhooks.deliveries(subject=job.job_id))
        secret = client.webhooks.secret()["secret"]
    assert ("DELIVERED", "job.canceled") == (found[0]["state"], found[0]["type"])
    headers, body = next(got for got in reversed(inbox.got) if job.job_id.encode() in got[1])
    assert "CANCELED" == standardwebhooks.Webhook(secret).verify(body, headers)["data"]["state"]


def _key(coordinator: Coordinator) -> str:
    lines = (coordinator.folder / "coordinator-data" / "dev-keys.env").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("CLIENT_API_KEYS="))


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("show", NOBODY), 4, "WEBHOOK_NOT_FOUND"),
        (("test", NOBODY), 4, "WEBHOOK_NOT_FOUND"),
        (("deliveries", NOBODY), 4, "WEBHOOK_NOT_FOUND"),
        (("replay", NOBODY, "--since", "1h"), 4, "WEBHOOK_NOT_FOUND"),
        (("show", "mine"), 2, "USAGE"),
        (("test", "callbacks"), 2, "USAGE"),
        (("change", NOBODY), 2, "USAGE"),
        (("replay",), 2, "USAGE"),
        (("replay", "--since", "soon"), 2, "USAGE"),
        (("replay", "--since", "1h", "--delivery", "x"), 2, "USAGE"),
        (("add", "ftp://hooks.example.org/"), 3, "INVALID_PAYLOAD"),
        (("add", "https://hooks.example.org/", "--event", "job.begun"), 3, "INVALID_PAYLOAD"),
        (("add", "https://hooks.example.org/", "--event", "audit.diverged"), 5, "FORBIDDEN"),
    ],
)
def test_mistakes(coordinator: Coordinator, arguments: tuple[str, ...], code: int, expected: str) -> None:
    """Each mistake has its exit code, and its line on stderr."""
    ran = coordinator.run("webhook", *arguments, "--json")
    assert (code, "") == (ran.code, ran.out)
    assert expected == json.loads(ran.err)["code"]
