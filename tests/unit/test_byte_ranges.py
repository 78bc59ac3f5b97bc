"""Ranges of files: the header as players send it, and as nobody should."""

from __future__ import annotations

import pytest

from coordinator.edge.http.byte_ranges import NotInFile, range_of
from tests.harness.cases import every


@every(
    ("text", "found"),
    [
        ("bytes=0-", (0, 99)),
        ("bytes=0-0", (0, 0)),
        ("bytes=10-19", (10, 19)),
        ("bytes=90-500", (90, 99)),
        ("bytes=-5", (95, 99)),
        ("bytes=-500", (0, 99)),
        # The whole: no range, several, in another unit, and what is none.
        *(
            (text, None)
            for text in (None, "", "bytes=-", "bytes=5-4", "bytes=0-1,5-6", "lines=0-1", "bytes=a-b")
        ),
        *(
            (text, None)
            for text in ("bytes= 0-1", "bytes=0-1 ", "bytes=+1-2", "bytes=1-" + "9" * 19, "BYTES")
        ),
    ],
)
def test_a_header_names_a_range_or_the_whole(text: str | None, found: tuple[int, int] | None) -> None:
    assert found == range_of(text, 100)


@every(("text", "size"), [("bytes=100-", 100), ("bytes=100-200", 100), ("bytes=-0", 100), ("bytes=0-", 0)])
def test_a_range_after_the_end_is_not_in_the_file(text: str, size: int) -> None:
    with pytest.raises(NotInFile):
        range_of(text, size)
