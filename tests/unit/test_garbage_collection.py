"""The thresholds of the garbage collector while a log is folded, and after."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from coordinator.runtime.process.garbage_collection import THRESHOLDS, collecting_rarely


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
