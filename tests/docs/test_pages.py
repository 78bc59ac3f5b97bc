"""What the pages say is there, is there."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import pytest

from coordinator.runtime.settings import Settings
from tests.harness.cases import every

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "coordinator"
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "docker" / "README.md", *DOCS.rglob("*.md")])
OPERATIONS = DOCS / "operations.md"
DECISIONS = DOCS / "decisions"


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def names_in(file: Path) -> set[str]:
    """Functions, classes, methods and constants of a module, methods as `Class.method`."""
    found: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign):
                found.update(prefix + t.id for t in node.targets if isinstance(t, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(prefix + node.target.id)

    collect(ast.parse(file.read_text(encoding="utf-8")).body, "")
    return found


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get where it is shown."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "least"), [("life-of-a-job.md", 40), ("glossary.md", 60)])
def test_places_in_the_code_exist(page: str, least: int) -> None:
    """Each `file.py:name` on the page is a file of ours with that function, class, method or constant."""
    named = re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", (DOCS / page).read_text(encoding="utf-8"))
    assert len(named) > least

    missing = [
        f"{file}:{name}"
        for file, name in named
        if not (SOURCE / file).is_file() or (name and name not in names_in(SOURCE / file))
    ]

    assert missing == []


def test_the_glossary_is_sorted_and_has_a_place_for_each_word() -> None:
    """Each row is a word, one meaning and one place; words are in order and occur once."""
    tables = re.findall(
        r"^\|---.*\n((?:\|.*\n)+)", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    rows = [[[cell.strip() for cell in row.strip("|").split("|")] for row in t.splitlines()] for t in tables]
    words = [[row[0] for row in table] for table in rows]
    all_words = [word for table in words for word in table]

    assert words == [sorted(table, key=str.lower) for table in words]
    assert len(all_words) == len(set(all_words))
    assert [] == [row for table in rows for row in table if not re.fullmatch(r"`[\w/]+\.py:\w+`", row[-1])]
    assert [] == [row for table in rows for row in table if len(row) != 3 or len(row[1]) < 20]


def test_how_to_add_names_paths_that_exist() -> None:
    """Each path on the page is there; one with a name to be chosen has a file of its kind beside it."""
    text = (DOCS / "how-to-add.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:[\w.-]+/)+[\w.<>-]*|[\w-]*\.(?:toml|md|example))`", text))
    assert len(paths) > 50

    def is_there(path: str) -> bool:
        pattern = re.sub(r"<\w+>", "*", path)
        return any(any(top.glob(pattern)) for top in (ROOT, SOURCE))

    assert [] == sorted(path for path in paths if not is_there(path))


def test_the_example_of_an_aggregate_is_the_one_of_the_tests() -> None:
    """The code on the page is part of the file that it names."""
    text = (DOCS / "how-to-add.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    example = (ROOT / "tests" / "harness" / "example" / "budget.py").read_text(encoding="utf-8")

    assert textwrap.indent(shown, "    ") in example


def test_the_index_has_every_page() -> None:
    """docs/README.md has one line for each page beside it, and decisions are in their own index."""
    lines = (DOCS / "README.md").read_text(encoding="utf-8").splitlines()
    listed = [line.partition("](")[2].partition(")")[0] for line in lines if line.startswith("- [")]
    pages = [page.name for page in DOCS.glob("*.md") if page.name != "README.md"]

    assert sorted([*pages, "decisions/README.md", "../schemas/"]) == sorted(listed)


@every("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link is to a file of the checkout, and to a heading that it has."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)

    assert broken == []


@every("page", PAGES)
def test_files_named_in_pages_exist(page: Path) -> None:
    """A path in code marks that begins with a folder of the checkout, or of the package, is there."""
    text = page.read_text(encoding="utf-8")
    packages = "|".join(p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists())
    tops = "src|docs|docker|tests|schemas|scripts"
    paths = re.findall(rf"`((?:{tops}|{packages})/[\w./-]+\.(?:py|md|sql|json|yaml|conf))[:`]", text)

    missing = [path for path in paths if not (ROOT / path).exists() and not (SOURCE / path).exists()]

    assert missing == []


def test_operations_explains_every_setting() -> None:
    """The table of settings has each one that there is, with its default, and no other."""
    section = OPERATIONS.read_text(encoding="utf-8").partition("\n## Settings")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    told = {row[0].strip("`"): row[1].strip("`") for row in rows if row[0].startswith("`")}
    expected = {
        name.upper(): "" if field.default in (None, ()) else str(field.default)
        for name, field in Settings.model_fields.items()
    }

    assert told == expected


def test_decisions_are_short_and_listed() -> None:
    """Each decision has 40 lines at most, and a row in the index."""
    pages = [page for page in DECISIONS.glob("*.md") if page.name != "README.md"]
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (DECISIONS / "README.md").read_text(encoding="utf-8"))

    assert sorted(listed) == sorted(page.name for page in pages)
    assert [page.name for page in pages if len(page.read_text().splitlines()) > 40] == []
