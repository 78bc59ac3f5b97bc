"""docs/http.md, done as it says: its `bash` blocks run in order, and print what the page shows."""

from __future__ import annotations

from pathlib import Path

from tests.harness import pages


def test_the_page_works_as_it_stands(tmp_path: Path) -> None:
    """The life of a job, the registry, a typed service and a refusal, with curl alone."""
    pages.check_tools("bash", "curl", "python3")
    first, *rest = pages.blocks(pages.read("docs/http.md"))
    assert "coordinator dev" in first.commands
    assert len(rest) >= 10

    with pages.another_program_at_8011(), pages.first_terminal(first.commands, tmp_path):
        printed = pages.second_terminal(rest, tmp_path)

    for block, output in zip(rest, printed, strict=True):
        pages.check_output(block, output)
