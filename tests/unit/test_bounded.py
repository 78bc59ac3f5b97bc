"""Answers of hostile servers: bounded in bytes and in time, and never decompressed."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count

import httpx
import pytest

from coordinator.wire.http import bounded
from tests.harness.cases import every

HEAD = b"HTTP/1.1 200 OK\r\n"
ENDLESS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n%s\r\n" % (b"x" * 1024) * 2000


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """A server that answers one request with these bytes; its URL."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                with suppress(OSError):  # the client had enough
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(10)


def whole(body: bytes, headers: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(body), body)


def test_an_answer_within_the_bounds() -> None:
    """Status, body and pause come back; a redirect is not followed."""
    with server(whole(b"here", b"Retry-After: 7\r\n")) as url, httpx.Client() as client:
        assert bounded.BoundedAnswer(200, b"here", 7.0) == bounded.get(client, url, 4)
    moved = whole(b"", b"Location: http://127.0.0.1:1/\r\n", b"302 Found")
    with server(moved) as url, httpx.Client() as client:
        assert bounded.BoundedAnswer(302, b"", 1.0) == bounded.get(client, url, 4)


@every("text", ["9" * 3000, "\u00b2", "-1", "1e9", ""])
def test_a_strange_pause_is_a_short_one(text: str) -> None:
    """Whatever a server calls a pause, it is at most a minute."""
    answer = whole(b"", b"Retry-After: %s\r\n" % text.encode("latin-1"), b"503 Busy")
    with server(answer) as url, httpx.Client() as client:
        assert bounded.get(client, url, 4).wait in (1.0, bounded.LONGEST_WAIT)


HOSTILE = {
    "more than": ENDLESS,
    "compressed": whole(gzip.compress(gzip.compress(b"\0" * 2**20)), b"Content-Encoding: gzip, gzip\r\n"),
    "RemoteProtocolError": HEAD + b"Content-Length: 10\r\n\r\nabc",
}


@every("reason", HOSTILE)
def test_an_answer_beyond_the_bounds(reason: str) -> None:
    """An endless, a compressed and an incomplete answer are refused."""
    with (
        server(HOSTILE[reason]) as url,
        httpx.Client() as client,
        pytest.raises(bounded.OutOfBounds, match=reason),
    ):
        bounded.get(client, url, 100_000)


def test_a_slow_answer() -> None:
    """A server that sends a little from time to time is given up."""
    clock = count(0.0, 20.0)
    with (
        server(ENDLESS) as url,
        httpx.Client() as client,
        pytest.raises(bounded.OutOfBounds, match="too slow"),
    ):
        bounded.get(client, url, 10**6, lambda: next(clock))


def test_an_invalid_url() -> None:
    """A URL that is none is a refusal, too."""
    with httpx.Client() as client, pytest.raises(bounded.OutOfBounds):
        bounded.get(client, "http://[::1", 10)
