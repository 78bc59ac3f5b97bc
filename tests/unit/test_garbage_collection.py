"""The thresholds of the garbage collector while a log is folded, and after."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from coordinator.runtime.process.garbage_collection import (
    LOOK_OBJECTS,
    THRESHOLDS,
    collecting_rarely,
    look_at_new_objects,
)


@pytest.fixture(autouse=True)
def usual() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    gc.set_threshold(701, 11, 12)
    yield 701, 11, 12
    gc.set_threshold(*before)


def test_the_thresholds_are_as_before_after_a_failure(usual: tuple[int, int, int]) -> None:
    """Collected rarely within, as usual after: also where it ends with an exception."""

    def fail() -> None:
        with collecting_rarely():
            assert THRESHOLDS == gc.get_threshold()
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail()
    assert usual == gc.get_threshold()


def test_many_new_objects_are_looked_at_before_they_are_more() -> None:
    """A look takes many new objects out of the next one, and does nothing while they are few."""
    gc.set_threshold(*THRESHOLDS)
    gc.collect()
    assert not look_at_new_objects()
    kept: list[list[int]] = [[] for _ in range(2 * LOOK_OBJECTS)]
    assert look_at_new_objects()
    assert gc.get_count()[0] < LOOK_OBJECTS
    assert 2 * LOOK_OBJECTS == len(kept)
