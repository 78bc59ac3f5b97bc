"""Processes and ports of the operating system."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

LOWEST_PORT = 10_000
GONE_TIMEOUT_S = 30.0

_claims: dict[int, socket.socket | None] = {}
"""The ports given to this process, each with the socket that claims it among processes."""


class Watchdog:
    """A shell that outlives us briefly, to end our servers if we are killed.

    It reads process ids from a pipe that only we can write to. However we end, the pipe closes. Then the
    shell kills these processes and removes the directory.

    The kernel's parent-death signal (PR_SET_PDEATHSIG) is no substitute. It is sent when the *thread* that
    started the process ends, so a node started by a worker thread would die with that thread. To set it needs
    code between fork and exec, which is unsafe with threads. And it reaches neither grandchildren nor the
    directory.
    """

    _PROGRAM = """
        while read -r line; do
            case $line in forget) pids= ;; *) pids="$pids $line" ;; esac
        done
        [ -z "$pids" ] || kill -KILL $pids
        # Children of the killed processes may still write for a moment.
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            [ -z "$1" ] || rm -rf -- "$1" && break
            sleep 0.2
        done
    """

    def __init__(self, directory: Path | None) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", self._PROGRAM, "coordinator-watchdog", str(directory or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._shell.pid

    def watch(self, pid: int) -> None:
        self._write(str(pid))

    def forget(self) -> None:
        self._write("forget")

    def dismiss(self) -> None:
        self._shell.kill()  # before the pipe closes, which would mean that we have died
        self._shell.wait()
        assert self._shell.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._shell.stdin.close()

    def _write(self, line: str) -> None:
        assert self._shell.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._shell.stdin.write(line.encode() + b"\n")
            self._shell.stdin.flush()


def free_port() -> int:
    """A loopback port that nobody uses now, and that no outgoing connection will get later.

    While this process lives, no other process gets the port from this function: a server that starts, or is
    down for a while, finds its port free.

    Ephemeral ports are excluded: while a server is down, a client that keeps connecting to its port can get
    the same port for its own end, and then connects to itself.
    """
    highest = _lowest_ephemeral_port()
    for _ in range(1_000):
        port = LOWEST_PORT + secrets.randbelow(highest - LOWEST_PORT)
        if port in _claims:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _claims[port] = _claim(port)
            return port
    raise OSError(errno.EADDRINUSE, "no free port on 127.0.0.1")


def _claim(port: int) -> socket.socket | None:
    """Claim the port among our processes; None if the system can't. Raises OSError if it is taken.

    By a name in Linux's abstract namespace: it is in no file system, and ends with its process.
    """
    if sys.platform != "linux":
        return None
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0coordinator-port-{port}")
    except OSError as error:
        claim.close()
        if error.errno == errno.EADDRINUSE:
            raise
        return None
    return claim


def _lowest_ephemeral_port() -> int:
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        lowest = 32_768
    return lowest if lowest > LOWEST_PORT + 1_000 else 65_536


def family(roots: Iterable[int]) -> tuple[int, ...]:
    """The given processes and all their descendants, parents before children.

    Without /proc only the given ones: servers end their own children when they are killed.
    """
    children: dict[int, list[int]] = {}
    for pid in _all_processes():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # "pid (command) state parent …"; the command itself may contain spaces and brackets
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
    members = list(roots)
    for member in members:  # the list grows during the loop
        members.extend(children.get(member, ()))
    return tuple(members)


def processes_in(directory: Path) -> tuple[int, ...]:
    """The processes with this working directory; none without /proc."""
    found = []
    for pid in _all_processes():
        with contextlib.suppress(OSError):  # it has ended meanwhile, or belongs to another account
            if Path(f"/proc/{pid}/cwd").readlink() == directory:
                found.append(pid)
    return tuple(found)


def _all_processes() -> list[int]:
    """All processes of this machine; none without /proc.

    Not by `Path.glob`, which raises if a process ends meanwhile.
    """
    with contextlib.suppress(FileNotFoundError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return []


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Signal each process; one that has ended already is no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_until_gone(pids: Iterable[int]) -> None:
    """Return when all have ended (zombies count as ended), after GONE_TIMEOUT_S at the latest."""
    if not hasattr(os, "pidfd_open"):
        return
    deadline = time.monotonic() + GONE_TIMEOUT_S
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1_000)
        finally:
            os.close(descriptor)
