"""docs/webhooks.md, done as it says: its receiver verifies what the coordinator sends."""

from __future__ import annotations

from pathlib import Path

from coordinator.application.webhooks.schedule import DELAYS
from tests.harness import pages


def test_the_page_works_as_it_stands(tmp_path: Path) -> None:
    """A receiver of ten lines, a test message, the end of a job, and a callback."""
    pages.check_tools("bash", "python3")
    first, *rest = pages.blocks(pages.read("docs/webhooks.md"))
    assert "coordinator dev" in first.commands
    assert 4 == len(rest)

    with pages.another_program_at_8011(), pages.first_terminal(first.commands, tmp_path):
        printed = pages.second_terminal(rest, tmp_path)

    for block, output in zip(rest, printed, strict=True):
        pages.check_output(block, output)


def test_the_schedule_of_the_page() -> None:
    """The delays are those of the code."""
    text = " ".join(pages.read("docs/webhooks.md").split())
    told = "at once, and after 5 seconds, 5 and 30 minutes, 2, 5, 10, 14, 20 and 24 hours"
    assert told in text
    hours = [n * 3600 for n in (2, 5, 10, 14, 20, 24)]
    assert (0, 5, 5 * 60, 30 * 60, *hours) == DELAYS
