"""The blocking client: the same surface as the asynchronous one, on a thread of its own."""

from __future__ import annotations

import _thread
import asyncio
import gc
import inspect
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.client import AsyncCoordinator, AsyncJob, Coordinator, Job, NotFound
from coordinator.client.resources.accounts import AsyncAccounts
from coordinator.client.resources.keys import AsyncKeys
from coordinator.client.resources.registry import AsyncRegistry
from coordinator.client.sync import Accounts, Keys, Registry
from tests.unit.test_client import JOB, RESULT, SUBMITTED, VIEW, Server, ok, problem


def coordinator(server: Server) -> Coordinator:
    return Coordinator("http://c", "alice:secret", transport=httpx.MockTransport(server))


def surface(kind: type) -> dict[str, Any]:
    members = {name: member for name, member in inspect.getmembers(kind) if not name.startswith("_")}
    return {
        name: list(inspect.signature(member).parameters.values()) if callable(member) else None
        for name, member in members.items()
    }


@pytest.mark.parametrize(
    ("asynchronous", "blocking"),
    [
        (AsyncCoordinator, Coordinator),
        (AsyncJob, Job),
        (AsyncKeys, Keys),
        (AsyncRegistry, Registry),
        (AsyncAccounts, Accounts),
    ],
)
def test_same_surface(asynchronous: type, blocking: type) -> None:
    """Every public member of the asynchronous class is there, with the same parameters and docstring."""
    assert surface(asynchronous) == surface(blocking)
    for name in surface(asynchronous):
        assert getattr(blocking, name).__doc__, name


def test_a_job_from_start_to_end() -> None:
    """Submit, result, receipt and lists work without any event loop of the caller's."""
    receipt = {
        "receipt_id": "0" * 32,
        "job_id": JOB,
        "provider": "rig",
        "client": "alice",
        "units": "1.0",
        "unit_type": "gpu_seconds",
        "started_at": 1,
        "completed_at": 2,
    }
    page = {"items": [VIEW, VIEW], "next_cursor": None}
    server = Server(ok(SUBMITTED, 201), ok(RESULT), ok(receipt), ok(page), problem(404, "JOB_NOT_FOUND"))
    with coordinator(server) as client:
        job = client.submit("s", {"a": 1})
        assert isinstance(job, Job)
        assert {"n": 1} == job.result(timeout=5).result
        assert "1.0" == job.receipt().units
        assert [JOB, JOB] == [view.job_id for view in client.jobs()]
        with pytest.raises(NotFound):
            client.job("another").view()


def test_many_threads_share_one_client() -> None:
    """Threads call side by side: one that waits does not hold up the others."""
    arrived = threading.Barrier(4, timeout=30)

    def together(_: httpx.Request) -> httpx.Response:
        return ok(VIEW)

    server = Server(together)
    states: list[str] = []
    with coordinator(server) as client:

        def look() -> None:
            arrived.wait()
            states.append(client.job(JOB).view().state)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert ["QUEUED"] * 4 == states


def test_a_callback_can_not_wait_for_its_own_client(tmp_path: Path) -> None:
    """A blocking call out of a progress callback is an error, where it would have waited for ever."""
    (tmp_path / "file").write_bytes(b"x")
    asked: list[object] = []
    with coordinator(Server(httpx.Response(200))) as client, pytest.raises(RuntimeError, match="callback"):
        client.upload(tmp_path / "file", lambda done, total: asked.append(client.health()))


def test_an_iterator_that_is_left_early() -> None:
    """Leaving a list in the middle asks for no further page, and the client can be closed afterwards."""
    server = Server(ok({"items": [VIEW, VIEW], "next_cursor": "more"}))
    with coordinator(server) as client:
        for _ in client.jobs():
            break
        unfinished = client.jobs()
        next(unfinished)
    del unfinished
    gc.collect()
    assert 2 == len(server.asked)


def test_closing_ends_the_thread() -> None:
    """`close` ends the thread, may be called twice, leaves a clear error; so does forgetting it."""
    before = set(threading.enumerate())
    client = coordinator(Server(ok({"status": "ok"})))
    client.health()
    [thread] = set(threading.enumerate()) - before
    client.close()
    client.close()
    assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        client.health()

    forgotten = coordinator(Server(ok({"status": "ok"})))
    forgotten.health()
    [thread] = set(threading.enumerate()) - before
    del forgotten
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def real_interrupt() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts, even if the tests were started in the background, where shells ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("interrupt", [real_interrupt, _thread.interrupt_main])
def test_an_interrupt_ends_the_call(interrupt: Callable[[], None]) -> None:
    """Ctrl-C ends a wait at once, cancels the request, and leaves a client that still works.

    `interrupt_main` wakes nobody: so it is with a signal that arrives just before a thread begins to wait.
    """
    asked = threading.Event()
    canceled = threading.Event()
    began = time.monotonic()

    async def hang(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health":
            return ok({"status": "ok"})
        asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            canceled.set()
            raise
        raise AssertionError

    with Coordinator("http://c", transport=httpx.MockTransport(hang)) as client:

        def interrupt_later() -> None:
            asked.wait(30)
            interrupt()

        threading.Thread(target=interrupt_later).start()
        with pytest.raises(KeyboardInterrupt):
            client.job(JOB).wait()
        assert canceled.wait(30)
        assert time.monotonic() - began < 60
        assert {"status": "ok"} == client.health()


@pytest.mark.parametrize("collector", ["its own thread", "another client's thread"])
def test_a_forgotten_client_is_collected_anywhere(collector: str) -> None:
    """The thread of a client that nobody closed ends in order, whichever thread collects the garbage."""
    forgotten = coordinator(Server(ok({"status": "ok"})))
    forgotten.health()
    loop_thread = forgotten._thread
    loop, thread = loop_thread._loop, loop_thread._thread
    assert loop is not None
    with coordinator(Server(ok({"status": "ok"}), ok({"status": "ok"}))) as other:
        other.health()
        collecting = loop if collector == "its own thread" else other._thread._loop
        assert collecting is not None
        gc.disable()
        try:
            loop_thread.cycle = loop_thread  # type: ignore[attr-defined]
            gone = weakref.ref(loop_thread)
            del forgotten, loop_thread
            assert gone() is not None
            collecting.call_soon_threadsafe(gc.collect)
            thread.join(30)
        finally:
            gc.enable()
        assert not thread.is_alive()
        assert loop.is_closed()
        assert {"status": "ok"} == other.health()


def test_closing_ends_waits_of_other_threads() -> None:
    """A thread that waits for an answer while another one closes the client is not left waiting."""
    asked = threading.Event()
    raised: list[BaseException] = []

    async def hang(_: httpx.Request) -> httpx.Response:
        asked.set()
        await asyncio.sleep(60)
        raise AssertionError

    client = Coordinator("http://c", transport=httpx.MockTransport(hang))

    def wait() -> None:
        try:
            client.health()
        except BaseException as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert asked.wait(30)
    client.close()
    waiting.join(30)
    assert [CancelledError] == [type(error) for error in raised]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """A client that was used before a fork says so in the child, instead of waiting for a thread it lacks."""
    with coordinator(Server(ok({"status": "ok"}))) as client:
        client.health()
        child = os.fork()
        if child == 0:
            try:
                client.health()
            except RuntimeError as error:
                os._exit(42 if "fork" in str(error) else 1)
            os._exit(2)
        assert 42 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
