"""Hostile peers, byte by byte: each kind sends as much as it can until its budget or its time is used up.

They run in threads on blocking sockets with prepared bytes, so that they cost the tests' process little, and
an honest client beside them measures the server and not its neighbours.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

MIB = 2**20
BLOCK = 256 * 1024


@dataclass
class Peer:
    """An attacker with a budget of bytes and seconds. `kept` sockets stay open until `leave`."""

    port: int
    budget: int = 100 * MIB
    seconds: float = 5.0
    sent: int = 0
    kept: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.seconds

    @property
    def goes_on(self) -> bool:
        return self.sent < self.budget and time.monotonic() < self._until

    def connect(self, first: bytes = b"") -> socket.socket:
        """A connection with a small window, on which `first` was sent."""
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(1.0)
        try:
            peer.connect(("127.0.0.1", self.port))
            self.kept.append(peer)
            if first:
                peer.sendall(first)
                self.sent += len(first)
        except OSError:
            peer.close()
            raise
        return peer

    def flood(self, peer: socket.socket, block: bytes) -> None:
        """Send the block over and over, until the other side has taken nothing for a second, or closes."""
        view = memoryview(block)
        at = 0
        with contextlib.suppress(OSError):
            while self.goes_on:
                count = peer.send(view[at:])
                self.sent += count
                at = (at + count) % len(block)

    def leave(self) -> None:
        for peer in self.kept:
            peer.close()
        self.kept.clear()


def head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: edge", *headers, "", ""]).encode()


def handshake(path: str, *headers: str) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    return head("GET", path, *upgrade, f"Sec-WebSocket-Key: {key}", *headers)


def frame(opcode: int, body: bytes = b"", *, fin: bool = True) -> bytes:
    """A masked frame with the mask 0, so that the body is sent as it is."""
    assert len(body) < 126
    return bytes([(0x80 if fin else 0) | opcode, 0x80 | len(body)]) + bytes(4) + body


def filled(unit: bytes) -> bytes:
    return unit * max(1, BLOCK // len(unit))


def over_and_over(peer: Peer, first: bytes, block: bytes) -> None:
    """Connect, send `first`, flood; then once more, as long as the budget lasts."""
    while peer.goes_on:
        try:
            connection = peer.connect(first)
        except OSError:
            time.sleep(0.02)
            continue
        peer.flood(connection, block)


class Honest(threading.Thread):
    """A client that asks for the coordinator's health and submits a job, over and over."""

    def __init__(self, port: int, key: str) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._key = key
        self._over = threading.Event()
        self.times: list[float] = []
        """Seconds of each answer."""
        self.failed: list[str] = []

    def run(self) -> None:
        body = json.dumps({"service": "checksum", "payload": {"text": "honest"}})
        headers = {"X-Api-Key": self._key, "Content-Type": "application/json"}
        while not self._over.is_set():
            began = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            try:
                for method, path, content in (("GET", "/health/live", None), ("POST", "/v1/jobs", body)):
                    began = time.monotonic()
                    connection.request(method, path, content, headers)
                    answer = connection.getresponse()
                    answer.read()
                    self.times.append(time.monotonic() - began)
                    if answer.status not in (200, 201):
                        self.failed.append(f"{method} {path}: {answer.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(f"{type(error).__name__}: {error} after {time.monotonic() - began:.2f} s")
            finally:
                connection.close()
            self._over.wait(0.05)

    def stop(self) -> None:
        self._over.set()
        self.join()


def run_all(*attacks: Callable[[], None]) -> None:
    """All of these at once, until each is over."""
    threads = [threading.Thread(target=attack, daemon=True) for attack in attacks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def honest_beside(port: int, key: str) -> Iterator[Honest]:
    honest = Honest(port, key)
    honest.start()
    try:
        yield honest
    finally:
        honest.stop()


def resident(pid: int) -> int:
    """The resident memory of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError("VmRSS")


def descriptors(pid: int) -> int:
    """The open sockets of a process, and the files of uploads and downloads."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(descriptor.readlink())
            found += target.startswith("socket:") or "/blobs/" in target
    return found
