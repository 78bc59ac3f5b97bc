"""One thread for blocking calls: in order, with their outcomes, and gone after the stop."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from coordinator.application.one_thread import OneThread


async def test_calls_run_one_after_the_other_and_answer_their_callers() -> None:
    """In the order in which they were made, in one thread of this name; an error is its caller's alone."""
    thread, order = OneThread("writer"), []

    def call(number: int) -> tuple[int, str]:
        order.append(number)
        if number == 2:
            raise ValueError("the second one")
        return number, threading.current_thread().name

    outcomes = await asyncio.gather(*(thread.call(call, n) for n in range(4)), return_exceptions=True)
    thread.stop()
    assert order == [0, 1, 2, 3]
    assert [o if isinstance(o, tuple) else str(o) for o in outcomes] == [
        (0, "writer"),
        (1, "writer"),
        "the second one",
        (3, "writer"),
    ]


async def test_a_cancelled_call_is_left_out_unless_it_has_begun() -> None:
    """One that has begun goes on, and its outcome is nobody's."""
    thread, begun, go_on = OneThread("writer"), threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        begun.set()
        go_on.wait(30)
        done.append("first")

    running, waiting = thread.call(first), thread.call(done.append, "second")
    await asyncio.to_thread(begun.wait, 30)
    running.cancel()
    waiting.cancel()
    go_on.set()
    assert await thread.call(len, "abc") == 3
    thread.stop()
    assert done == ["first"]


async def test_a_stop_finishes_the_calls_so_far_and_takes_no_more() -> None:
    """It may come twice, or before any call."""
    done: list[int] = []
    thread = OneThread("writer")
    futures = [thread.call(done.append, n) for n in range(3)]
    await asyncio.to_thread(thread.stop)
    thread.stop()
    await asyncio.gather(*futures)
    assert done == [0, 1, 2]
    with pytest.raises(RuntimeError):
        thread.call(done.append, 3)
    OneThread("unused").stop()


async def test_the_thread_keeps_nothing_of_a_call() -> None:
    """What a call was given is free once it is answered, and not with the next call."""

    class Large:
        pass

    thread, freed = OneThread("writer"), threading.Event()
    gc.disable()
    try:
        given = Large()
        weakref.finalize(given, freed.set)
        await thread.call(id, given)
        del given
        assert await asyncio.to_thread(freed.wait, 30)
    finally:
        gc.enable()
        thread.stop()
