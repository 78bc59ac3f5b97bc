"""What the pages say is there, is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from coordinator.runtime.settings import Settings
from tests.harness.cases import every

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "coordinator"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "docker" / "README.md", *(ROOT / "docs").rglob("*.md")]
)
LIFE = ROOT / "docs" / "life-of-a-job.md"
OPERATIONS = ROOT / "docs" / "operations.md"
DECISIONS = ROOT / "docs" / "decisions"


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


def test_the_life_of_a_job_names_what_exists() -> None:
    """Each `file.py:name` on the page is a file of ours with that function, class, method or constant."""
    named = re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", LIFE.read_text(encoding="utf-8"))
    assert len(named) > 40

    missing = [
        f"{file}:{name}"
        for file, name in named
        if not (SOURCE / file).is_file() or (name and name not in names_in(SOURCE / file))
    ]

    assert missing == []


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
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()]
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
