"""Imports between modules make no circle, those for the type checker alone included."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import coordinator


def imports(package: Path) -> dict[str, set[str]]:
    """Each module of a package, and the modules of the package that it imports anywhere in its text."""
    modules: dict[str, Path] = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        home = module if path.name == "__init__.py" else module.rpartition(".")[0]
        # `from a import b` imports the module a.b where there is one, and a otherwise.
        found[module] = {
            inner if inner in modules else outer
            for outer, inner in _names(ast.parse(path.read_bytes()), home)
            if inner in modules or outer in modules
        }
    return found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below a node; expressions, of which there are ten times as many, hold none."""
    for field in ("body", "orelse", "handlers", "finalbody", "cases"):
        for inner in getattr(node, field, ()):
            yield inner
            yield from _statements(inner)


def _names(tree: ast.Module, home: str) -> Iterator[tuple[str, str]]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = home.split(".")[: len(home.split(".")) + 1 - node.level] if node.level else []
            outer = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((outer, f"{outer}.{name.name}") for name in node.names)


def circle(package: Path) -> list[str]:
    """The modules of one circle, in the order of their imports; empty where there is none."""
    try:
        TopologicalSorter(imports(package)).prepare()
    except CycleError as error:
        modules: list[str] = error.args[1]
        return modules
    return []


def test_no_circle() -> None:
    """A module can be read without the modules that import it."""
    assert [] == circle(Path(coordinator.__file__).parent)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("from p import right", "import p.left"),
        ("from p.right import x", "def f():\n    from . import left"),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.right import X",
            "from .left import Y",
        ),
    ],
)
def test_a_circle_is_found(tmp_path: Path, left: str, right: str) -> None:
    """Every spelling of an import counts, in a function and for the type checker, too."""
    for name, text in {"__init__": "", "left": left, "right": right}.items():
        path = tmp_path / "p" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert {"p.left", "p.right"} == set(circle(tmp_path / "p"))


def test_folders_are_small() -> None:
    """A reader can look over a folder at a glance: it holds at most 14 modules of its own."""
    source = Path(coordinator.__file__).parent
    modules = Counter(path.parent for path in source.rglob("*.py") if path.name != "__init__.py")
    assert {} == {str(folder): count for folder, count in modules.items() if count > 14}


def test_modules_are_short() -> None:
    """A reader can hold a module in mind: it has at most 400 lines."""
    source = Path(coordinator.__file__).parent
    lines = {str(path): len(path.read_bytes().splitlines()) for path in source.rglob("*.py")}
    assert {} == {path: count for path, count in lines.items() if count > 400}


def test_the_process_of_a_job_imports_little() -> None:
    """One starts for each job on strangers' files: it has the library of its work, and no framework."""
    look = (
        "import sys, coordinator.miner.executors.child, coordinator.miner.executors.images.child\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-I", "-c", look], capture_output=True, text=True, timeout=60)
    imported = set(done.stdout.split())
    assert "PIL" in imported, done.stderr
    assert {"asyncio", "pydantic", "rich", "structlog"}.isdisjoint(imported)
