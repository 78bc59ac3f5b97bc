"""One try to tell a receiver, over real sockets: honest servers, hostile ones, names that lead elsewhere."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpcore
import pytest

from coordinator.application.webhooks.post import MAX_ANSWER_BYTES, Answered, HttpPost
from tests.harness.receiver import Receiver, answer
from tests.unit.test_miner_fetch import certificate

HEADERS = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,x"}
BODY = '{"type":"job.completed","data":{"text":"Grüße"}}'.encode()
SECONDS = 1.0


def post(seconds: float = SECONDS, **options: object) -> HttpPost:
    return HttpPost(seconds, **{"allow_private": True, **options})  # type: ignore[arg-type]


def resolving(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """A resolver that gives these answers for every name, one after another."""
    waiting = list(addresses)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return waiting.pop(0).split()

    return resolve


async def told(receiver: Receiver, path: str, **options: object) -> Answered:
    return await post(**options)(f"{receiver.url}{path}", HEADERS, BODY)  # type: ignore[arg-type]


async def test_a_message_as_it_is_sent() -> None:
    """A POST of the very bytes, with the three headers, and nothing that says who else is told."""
    async with Receiver() as receiver:
        answered = await told(receiver, "/hook?x=1")
    assert (200, "", True) == (answered.status, answered.error, answered.succeeded)
    [got] = receiver.got
    assert ("POST", "/hook?x=1", BODY) == (got.method, got.target, got.body)
    assert HEADERS.items() <= got.headers.items()
    assert "application/json" == got.headers["content-type"]
    assert {"cookie", "authorization", "x-api-key", "traceparent"}.isdisjoint(got.headers)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_success(status: int) -> None:
    """Any status from 200 to 299."""
    async with Receiver(lambda _: answer(f"{status} Fine")) as receiver:
        assert (await told(receiver, "/")).succeeded


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 410, 500, 503])
async def test_failure(status: int) -> None:
    """Any other one; a redirect is not followed, wherever it leads."""
    async with Receiver() as elsewhere:
        told_to = f"{elsewhere.url}/secret"
        async with Receiver(lambda _: answer(f"{status} No", Location=told_to)) as receiver:
            answered = await told(receiver, "/")
    assert (status, False, []) == (answered.status, answered.succeeded, elsewhere.got)


async def test_a_receiver_may_ask_for_time() -> None:
    """`Retry-After` in seconds counts with 429 and 503; anything else in it does not."""
    texts = iter(["7", "Wed, 21 Oct 2026 07:28:00 GMT", "-1", "9" * 40])
    async with Receiver(lambda _: answer("503 Busy", Retry_After=next(texts))) as receiver:
        assert [7.0, None, None, None] == [(await told(receiver, "/")).retry_after for _ in range(4)]


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254"])
async def test_a_name_of_a_private_address(address: str) -> None:
    """A public name that leads to a private network is not connected to, also beside a public address."""
    async with Receiver() as receiver:
        for addresses in (address, f"93.184.216.34 {address}"):
            sender = post(allow_private=False, resolve=resolving(addresses))
            answered = await sender(f"https://hooks.example:{receiver.port}/", HEADERS, BODY)
            assert (None, "refused: its host has an address that is not public") == answered[:2]
    assert [] == receiver.got


async def test_a_name_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at is what is connected to, wherever the name leads a moment later (rebinding)."""
    connected: list[str] = []

    async def connect(self: object, host: str, port: int, *_: object) -> object:
        connected.append(host)
        raise httpcore.ConnectError("nobody there")

    monkeypatch.setattr("httpcore.AnyIOBackend.connect_tcp", connect)
    sender = post(allow_private=False, resolve=resolving("93.184.216.34", "127.0.0.1"))
    answered = await sender("https://hooks.example/", HEADERS, BODY)
    assert ["93.184.216.34"] == connected
    assert (None, "can't connect") == answered[:2]
    # The next try resolves again, and refuses what the name leads to by then.
    assert "refused" in (await sender("https://hooks.example/", HEADERS, BODY)).error
    assert ["93.184.216.34"] == connected


async def test_settings_may_change() -> None:
    """A URL that was taken under other settings is refused at the try."""
    async with Receiver() as receiver:
        answered = await told(receiver, "/", allow_private=False)
    assert "refused: should be an https URL" == answered.error
    assert [] == receiver.got


async def test_a_slow_drip_ends() -> None:
    """A receiver that sends a byte now and then, in head or body, costs the timeout and no more."""

    async def drip(writer: asyncio.StreamWriter, first: bytes) -> None:
        writer.write(first)
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    for first in (b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n"):

        def play(writer: asyncio.StreamWriter, first: bytes = first) -> Awaitable[None]:
            return drip(writer, first)

        async with Receiver(play=play) as receiver:
            begun = time.monotonic()
            answered = await told(receiver, "/", seconds=0.4)
            assert 5 > time.monotonic() - begun
        assert answered.status is None
        assert answered.error in ("no answer within 0.4 s", "not an HTTP answer")


async def test_an_endless_answer_is_cut_off() -> None:
    """Its status counts; nobody reads more than 16 KiB."""
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")
            await writer.drain()
            sent += 0x1000

    async with Receiver(play=endless) as receiver:
        answered = await told(receiver, "/", seconds=30)
    assert (200, True) == (answered.status, 30_000 > answered.ms)
    assert MAX_ANSWER_BYTES * 1000 > sent


@pytest.mark.parametrize(
    "raw", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00" * 100, b"HTTP/1.1 200"]
)
async def test_what_is_no_answer(raw: bytes) -> None:
    """Other protocols, garbage and half an answer are failures with a reason of our own words."""

    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    async with Receiver(play=say) as receiver:
        answered = await told(receiver, "/")
    assert answered.status is None
    assert answered.error in ("not an HTTP answer", "the connection broke")


async def test_nobody_there() -> None:
    """A closed port is a failure at once."""
    async with Receiver() as receiver:
        url = receiver.url
    assert (None, "can't connect") == (await post()(f"{url}/", HEADERS, BODY))[:2]


async def test_tls_proves_the_name(tmp_path: Path) -> None:
    """The certificate must be the receiver's name's, although the connection goes to an address."""
    server, trusting = certificate("hooks.example", tmp_path)
    async with Receiver(tls=server) as receiver:
        for host, status in (("hooks.example", 200), ("other.example", None)):
            sender = post(resolve=resolving("127.0.0.1"), tls=trusting)
            answered = await sender(f"https://{host}:{receiver.port}/", HEADERS, BODY)
            assert status == answered.status
        untrusted = post(resolve=resolving("127.0.0.1"), tls=ssl.create_default_context())
        answered = await untrusted(f"https://hooks.example:{receiver.port}/", HEADERS, BODY)
    assert "the certificate is not valid" == answered.error
    assert [f"hooks.example:{receiver.port}"] == [got.headers["host"] for got in receiver.got]


async def test_name_servers_that_hang_hold_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many names that do not resolve fail in time, and the threads of other work stay free."""
    answer = threading.Event()

    def hanging(*_: object, **__: object) -> list[Any]:
        answer.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    try:
        sender = HttpPost(0.5, tls=ssl.create_default_context())
        tries = [sender(f"https://hook-{n}.example.org/", HEADERS, BODY) for n in range(40)]
        sending = asyncio.gather(*tries)
        assert 7 == await asyncio.wait_for(asyncio.to_thread(lambda: 7), 30)
        assert {(None, "no answer within 0.5 s")} == {(a.status, a.error) for a in await sending}
        assert 7 == await asyncio.wait_for(asyncio.to_thread(lambda: 7), 30)
    finally:
        answer.set()
