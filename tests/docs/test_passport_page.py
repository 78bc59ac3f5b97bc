"""The page on passports suffices to write a verifier: one that imports nothing of ours agrees with ours."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.crypto.merkle import root_of_path
from tests.docs import passport_verifier
from tests.harness import passports
from tests.harness.cases import every
from tests.harness.decided_log import COORDINATOR
from tests.harness.passports import SPOILT, STRANGER, Passes

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "passport.md"
VERIFIER = Path(passport_verifier.__file__)
TRUSTED = [COORDINATOR.key_id]


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> Passes:
    return passports.make(tmp_path_factory.mktemp("log"))


def test_the_verifier_imports_nothing_of_ours() -> None:
    """Only the standard library, and a library of Ed25519."""
    tree = ast.parse(VERIFIER.read_text())
    imported = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    strange = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert {"cryptography"} == strange


def test_the_verifier_accepts_every_good_passport(passes: Passes) -> None:
    """Of each way in which a job can end; not with a stranger's key."""
    for document in passes.by_one_key():
        assert {} == passport_verifier.verify(document, TRUSTED)
    assert {} == passport_verifier.verify(passes.rotated, [*TRUSTED, STRANGER.key_id])
    assert {"receipt"} == set(passport_verifier.verify(passes.rotated, TRUSTED))
    assert {"checkpoint", "receipt"} == set(passport_verifier.verify(passes.retried, [STRANGER.key_id]))


@every("name", list(SPOILT))
def test_the_verifier_refuses_every_spoilt_passport(passes: Passes, name: str) -> None:
    """By the same checks as ours."""
    found = passport_verifier.verify(passports.spoil(name, passes), TRUSTED)
    assert set(SPOILT[name].red) <= set(found), found


def test_every_value_of_a_passport_counts(passes: Passes) -> None:
    """No text and no number can be changed without a failed check of that verifier, or a refusal."""
    unnoticed = []
    for name, document in passports.every_value_changed(passes.retried):
        try:
            if not passport_verifier.verify(document, TRUSTED):
                unnoticed.append(name)
        except (ValueError, KeyError):
            continue
    # It looks at no cosignature, which is at the end of the checkpoint.
    assert set(unnoticed) <= {"checkpoint"}


def test_the_verifier_is_a_program(passes: Passes, tmp_path: Path) -> None:
    """It runs from anywhere, without our package on its path."""
    file = tmp_path / "p.json"
    file.write_text(json.dumps(passes.retried))
    program = [sys.executable, "-S", "-c", _ISOLATED, str(VERIFIER), str(file), *TRUSTED]
    ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (0, "verified\n") == (ran.returncode, ran.stdout), ran.stderr


_ISOLATED = f"""
import sys, runpy
sys.path += {[p for p in sys.path if p.endswith("site-packages")]!r}
sys.modules["coordinator"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_pages_code_runs() -> None:
    """The path's algorithm on the page gives the same roots as ours, and refuses the same paths."""
    [code] = [part.split("```")[0] for part in PAGE.read_text().split("```python\n")[1:]]
    scope: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), scope)
    theirs = scope["root_of_path"]
    assert callable(theirs)
    leaf, path = b"\x01" * 32, [bytes([n]) * 32 for n in range(5)]
    for size in range(1, 20):
        for index in range(-1, size + 1):
            for length in range(5):
                expected = root_of_path(leaf, index, size, path[:length])
                assert expected == theirs(leaf, index, size, path[:length])
