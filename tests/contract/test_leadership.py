"""At most one process holds a name, whatever happens to it; one process uses a data directory."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Protocol

import psycopg
import pytest

from coordinator.application.ports import Leadership
from coordinator.dev.servers import PostgresServer
from coordinator.storage.connections.data_directory import DataDirectory, DataDirectoryInUse
from coordinator.storage.tables import leadership as module
from coordinator.storage.tables.leadership import LEADER_APPLICATION, LocalLeadership, PostgresLeadership
from tests.harness.waiting import eventually

PATIENCE = 30.0  # seconds before a test gives up on something that should happen

# A process that leads, says so, and answers whenever it is asked whether it still does.
LEADER = """
import asyncio, sys
from coordinator.storage.tables.leadership import PostgresLeadership

async def main():
    leadership = PostgresLeadership(sys.argv[1])
    await leadership.acquire("projector")
    print("leads", file=sys.stderr)  # logs go to stdout
    while await asyncio.to_thread(sys.stdin.readline):
        print(leadership.holds("projector"), file=sys.stderr)

asyncio.run(main())
"""
HOLDER = """
import sys
from coordinator.storage.connections.data_directory import DataDirectory
held = DataDirectory(sys.argv[1])
print("holds", flush=True)
sys.stdin.readline()
"""


class Opener(Protocol):
    def __call__(self, url: str | None = None) -> PostgresLeadership: ...


@pytest.fixture
async def candidate(database_url: str) -> AsyncIterator[Opener]:
    """Makes as many candidates as a test wants, each as if in a process of its own."""
    opened: list[PostgresLeadership] = []

    def open_one(url: str | None = None) -> PostgresLeadership:
        opened.append(PostgresLeadership(url or database_url))
        return opened[-1]

    yield open_one
    for leadership in opened:
        await leadership.close()


async def acquired(leadership: Leadership, name: str = "projector") -> None:
    async with asyncio.timeout(PATIENCE):
        await leadership.acquire(name)


def terminate(url: str) -> None:
    """Close all candidates' connections from the server's side."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE application_name = %s AND datname = current_database()",
            (LEADER_APPLICATION,),
        )


async def test_one_holds_and_the_next_follows(candidate: Opener) -> None:
    """While one holds a name another waits for it, and has it when the first gives it up."""
    first, second = candidate(), candidate()
    await acquired(first)
    waiting = asyncio.create_task(second.acquire("projector"))
    await acquired(second, "notary")  # it has asked for both by now
    assert (first.holds("projector"), second.holds("projector"), waiting.done()) == (True, False, False)
    await eventually(lambda: second.led_elsewhere("projector"), timeout=PATIENCE)
    assert not first.led_elsewhere("projector")
    await first.release("projector")
    await asyncio.wait_for(waiting, PATIENCE)
    assert (first.holds("projector"), second.holds("projector")) == (False, True)


async def test_names_are_independent(candidate: Opener) -> None:
    """Different names may be with different processes."""
    first, second = candidate(), candidate()
    await acquired(first, "projector")
    await acquired(second, "dispatcher")
    await acquired(first, "notary")
    names = ("projector", "dispatcher", "notary", "nobody")
    assert [first.holds(name) for name in names] == [True, False, True, False]
    assert [second.holds(name) for name in names] == [False, True, False, False]


async def test_acquiring_twice(candidate: Opener) -> None:
    """Asking again for what one holds changes nothing: one release gives it up."""
    first, second = candidate(), candidate()
    await asyncio.gather(acquired(first), acquired(first))
    await acquired(first)
    await first.release("projector")
    await first.release("projector")
    await acquired(second)
    assert second.holds("projector")


async def test_close_gives_up(candidate: Opener) -> None:
    """Closing gives up every name, may be done twice or without a start, and ends the waiting."""
    first, second, third = candidate(), candidate(), candidate()
    await third.close()
    await acquired(first)
    waiting = asyncio.create_task(second.acquire("projector"))
    await acquired(second, "notary")
    await second.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await first.close()
    await first.close()
    assert not first.holds("projector")
    await acquired(candidate())


async def test_a_given_up_wait_takes_nothing(candidate: Opener) -> None:
    """Whoever stopped waiting for a name does not get it afterwards: the next one does."""
    first, second, third = candidate(), candidate(), candidate()
    await acquired(first)
    waiting = asyncio.create_task(second.acquire("projector"))
    await acquired(second, "notary")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await first.release("projector")
    await acquired(third)
    assert (second.holds("projector"), third.holds("projector")) == (False, True)


async def test_a_lost_connection_loses_all(candidate: Opener, database_url: str) -> None:
    """With its connection a process loses every name, and can have them again over a new one."""
    first = candidate()
    await acquired(first, "projector")
    await acquired(first, "notary")
    terminate(database_url)
    await eventually(lambda: not first.holds("projector"))
    assert not first.holds("notary")
    await acquired(first, "projector")
    assert (first.holds("projector"), first.holds("notary")) == (True, False)


async def test_a_stopped_leader_is_replaced(candidate: Opener, database_url: str) -> None:
    """A leader that is stopped loses its name within seconds, and knows it as soon as it goes on."""
    leader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LEADER, database_url, stdin=PIPE, stdout=DEVNULL, stderr=PIPE
    )
    assert leader.stdin is not None
    assert leader.stderr is not None
    try:
        assert await leader.stderr.readline() == b"leads\n"
        leader.stdin.write(b"?\n")
        assert await leader.stderr.readline() == b"True\n"
        leader.send_signal(signal.SIGSTOP)
        successor = candidate()
        await acquired(successor)
        leader.send_signal(signal.SIGCONT)
        leader.stdin.write(b"?\n")
        assert await leader.stderr.readline() == b"False\n"
        assert successor.holds("projector")
    finally:
        leader.kill()
        await leader.wait()


async def test_time_away_counts_at_once(candidate: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time away as long as the server's patience nothing is held, and never again by itself."""
    first = candidate()
    await acquired(first)
    now = module._now
    monkeypatch.setattr(module, "_now", lambda: now() + module.IDLE_SECONDS)
    assert not first.holds("projector")
    await acquired(first, "notary")  # it goes on over a new connection
    assert (first.holds("projector"), first.holds("notary")) == (False, True)


async def test_a_server_that_is_away(breakable_postgres: PostgresServer, candidate: Opener) -> None:
    """While the server is away nobody holds anything; waiting for a name outlasts it."""
    url = breakable_postgres.new_database()
    first = candidate(url)
    await acquired(first)
    await asyncio.to_thread(breakable_postgres.kill)
    await eventually(lambda: not first.holds("projector"))
    waiting = asyncio.create_task(first.acquire("projector"))
    await asyncio.to_thread(breakable_postgres.start)
    await asyncio.wait_for(waiting, PATIENCE)
    assert first.holds("projector")


async def test_locally_there_is_nobody_else() -> None:
    """In the embedded mode every name is there for the taking."""
    local = LocalLeadership()
    assert not local.holds("projector")
    await local.acquire("projector")
    assert local.holds("projector")
    await local.release("projector")
    assert not local.holds("projector")
    await local.acquire("projector")
    await local.close()
    await local.close()
    assert not local.holds("projector")


# --- the data directory ------------------------------------------------------------------------------------
def test_one_process_per_data_directory(tmp_path: Path) -> None:
    """The second process on a data directory is refused, and told which one has it; its death frees it."""
    directory = tmp_path / "new" / "data"
    command = [sys.executable, "-c", HOLDER, str(directory)]
    holder = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        with pytest.raises(DataDirectoryInUse, match=f"in use by process {holder.pid}; stop it, or set"):
            DataDirectory(directory)
        holder.kill()
    with DataDirectory(directory) as held:
        assert f"{os.getpid()}\n" == (directory / "lock").read_text()
        with pytest.raises(DataDirectoryInUse, match=f"process {os.getpid()}"):
            DataDirectory(directory)
    held.close()
    DataDirectory(directory).close()
