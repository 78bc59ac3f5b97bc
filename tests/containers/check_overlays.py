"""What is added to the compose file: Prometheus, TLS, and API keys as users of the broker."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import ssl
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from coordinator.client import Coordinator
from coordinator.dev.servers.processes import free_port

from .stack import FIVE, PROJECT, Stack, documents, eventually


@pytest.fixture(autouse=True)
def plain_again(stack: Stack) -> Iterator[None]:
    """Each check has the stack for itself, with new volumes, and leaves nothing of it."""
    stack.down("--volumes")
    yield
    stack.down("--volumes")
    stack.files, stack.profiles = ("compose.yaml",), ()


def digest(client: Coordinator, text: str) -> str:
    """The digest of a text by a miner, once it is known to be right."""
    found: str = client.submit("checksum", {"text": text}).result(60).result["digests"][0]["digest"]
    assert hashlib.sha256(text.encode()).hexdigest() == found
    return found


def test_prometheus_scrapes_the_coordinator(stack: Stack, client: Coordinator) -> None:
    """The profile's Prometheus reads the metrics with its own key, has loaded the rules, and counts jobs."""
    port = free_port()
    stack.set(PROMETHEUS_PORT=str(port))
    stack.profiles = ("monitoring",)
    stack.up("prometheus", *FIVE)
    digest(client, "monitored")

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def targets() -> list[str]:
        return [f"{t['labels']['job']} {t['health']}" for t in ask("targets")["activeTargets"]]

    eventually(lambda: targets() == ["coordinator up"], 60, "a scrape")
    rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    assert rules
    assert {"ok", "unknown"} >= {rule["health"] for rule in rules}
    query = urllib.parse.quote('sum({__name__=~"coordinator_.+", job="coordinator"}) != bool 0')
    eventually(lambda: bool(ask(f"query?query={query}")["result"]), 60, "a figure")
    assert documents(stack.logs("prometheus"))


def test_tls_between_all(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the private authority every connection is encrypted and verified; one in the clear is refused."""
    certificates = ("sh", "make-certificates.sh", "coordinator.example.org")
    subprocess.run(certificates, cwd=stack.folder, check=True, capture_output=True)
    stack.set(AMQPS_PORT=str(free_port()))
    stack.files = ("compose.yaml", "compose.tls.yaml")
    stack.up()

    authority = stack.folder / "tls/ca.crt"
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with stack.client("https://localhost") as client:
        digest(client, "over TLS")
    monkeypatch.delenv("SSL_CERT_FILE")
    address = ("127.0.0.1", int(stack.setting("AMQPS_PORT")))
    trusting = ssl.create_default_context(cafile=authority)
    with socket.create_connection(address) as plain, trusting.wrap_socket(plain, server_hostname="localhost"):
        pass
    with socket.create_connection(address) as plain, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
    query = (
        "SELECT ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL"
    )
    psql = ("psql", "--username", "coordinator", "--tuples-only", "--no-align", "--command", query)
    sessions = stack.execute("postgres", *psql).stdout.split()
    assert sessions
    assert {"t|TLSv1.3"} == set(sessions)
    clear = (
        "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL'].split('?')[0] + '?sslmode=disable')"
    )
    refused = stack.execute("coordinator", "python", "-c", clear, check=False)
    assert "no encryption" in refused.stderr
    listing = stack.execute("rabbitmq", "rabbitmqctl", "--quiet", "list_connections", "ssl", "ssl_protocol")
    assert {"true\ttlsv1.3"} == set(listing.stdout.strip().splitlines()[1:])


def test_keys_are_users_of_the_broker(stack: Stack, client: Coordinator) -> None:
    """With compose.broker-auth.yaml miners log in with their API key, and jobs go through."""
    stack.files = ("compose.yaml", "compose.broker-auth.yaml")
    stack.up()
    digest(client, "with a user for each key")
    listing = stack.execute("rabbitmq", "rabbitmqctl", "--quiet", "list_connections", "user").stdout
    assert {"coordinator", "rack"} == set(listing.split()[1:])
    assert all("event" in line or "url" in line for line in documents(stack.logs("broker-auth")))


def test_a_backup_is_restored_into_new_volumes(stack: Stack) -> None:
    """The README's commands back up the log and the key; after a restore all jobs are there."""
    page = (stack.folder / "README.md").read_text().partition("## Backup")[2]
    back_up, restore = re.findall(r"```sh\n(.+?)```", page, re.DOTALL)[:2]
    stack.up()
    with stack.client() as client:
        old = client.submit("checksum", {"text": "kept"})
        result, key = old.result(60).result, client.health()["signing_key_id"]
    shell(stack, back_up)
    stack.down("--volumes")
    shell(stack, restore)
    with stack.client() as client:
        assert result == client.job(old.job_id).result(30).result
        assert key == client.health()["signing_key_id"]
        digest(client, "after the restore")


def shell(stack: Stack, commands: str) -> None:
    """Commands of the README, as they are written there, on our project. Fails with the first that fails."""
    environment = {**os.environ, **stack.engine.environment, "COMPOSE_PROJECT_NAME": PROJECT}
    done = subprocess.run(
        ("sh", "-exc", commands),
        cwd=stack.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert 0 == done.returncode, done.stderr[-3000:]
