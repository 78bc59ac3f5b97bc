"""The log's last position, between the threads that move it and those that wait for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from coordinator.storage.log.head_position import HeadPosition

PATIENCE = 30.0


def test_a_wait_is_seen_by_the_thread_that_moves_the_position() -> None:
    """A thread that rests while nobody waits goes on with the first wait, and ends it."""
    head = HeadPosition()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(head.wait, 4, PATIENCE)
        assert head.wait_until_awaited(PATIENCE)
        head.moved(5)
        assert waiting.result()


def test_a_position_that_is_reached_disturbs_nobody() -> None:
    """A wait for a position that is known already is no reason to look for news."""
    head = HeadPosition()
    head.moved(5)
    assert head.wait(4, PATIENCE)
    assert not head.wait_until_awaited(0)


def test_nobody_waits_after_the_last_wait_gave_up() -> None:
    """A wait that ended in vain counts no longer."""
    head = HeadPosition()
    assert not head.wait(0, 0)
    assert not head.wait_until_awaited(0)


def test_closing_ends_the_rest() -> None:
    """Closing wakes the thread that rests, and the threads that wait."""
    head = HeadPosition()
    with ThreadPoolExecutor(2) as threads:
        resting = threads.submit(head.wait_until_awaited, PATIENCE)
        head.close()
        assert resting.result()
        assert not head.wait(0, PATIENCE)
