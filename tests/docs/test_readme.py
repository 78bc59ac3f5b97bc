"""README.md and docs/first-steps.md, done as they say: their blocks run in order and print what they show."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

from coordinator.services.catalog import load_catalog
from tests.harness import pages
from tests.harness.pages import ROOT

README = pages.read("README.md")
FIRST_STEPS = pages.read("docs/first-steps.md")


def test_first_steps(tmp_path: Path) -> None:
    """The commands of both pages work in order, with one coordinator, and print what the pages show."""
    pages.check_tools("bash", "curl")
    first, *rest = pages.blocks(README)
    rest += pages.blocks(FIRST_STEPS)
    assert "coordinator dev" in first.commands
    assert len(rest) == 8

    with pages.another_program_at_8011(), pages.first_terminal(first.commands, tmp_path):
        printed = pages.second_terminal(rest, tmp_path)

    for block, output in zip(rest, printed, strict=True):
        pages.check_output(block, output)
    facts = ["job.submitted.v1", "job.started.v1", "job.completed.v1"]
    *_, events, told = printed
    assert facts == re.findall(r"job\.\w+\.v\d", events)
    assert ["asked for", "began attempt 1", "delivered the result"] == re.findall(
        r"asked for|began attempt 1|delivered the result", told
    )


def test_the_first_lines_of_python_are_those_that_are_run() -> None:
    """The program at the top of the README is the one that its first steps run."""
    [shown] = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    [run] = re.findall(r"^cat > hello.py <<'END'\n(.*?)^END$", README, re.MULTILINE | re.DOTALL)
    assert run == shown


def test_the_commands_of_make_are_there() -> None:
    """The targets that the page names are in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    assert ["demo"] == re.findall(r"^\$ make (\w+)", README, re.MULTILINE)
    for target in {"demo", *re.findall(r"`make (\w+)", README)}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_services_are_counted() -> None:
    """The numbers of services and of executors are the catalogue's and the package's."""
    run = {name for point in entry_points(group="coordinator.executors") for name in point.load().services}
    assert f"{len(run)} of the registry's {len(load_catalog())} services" in README
