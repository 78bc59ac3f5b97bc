"""docs/http.md, done as it says: its `bash` blocks run in order, and print what the page shows."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from tests.docs import test_readme
from tests.docs.test_readme import MARK, RUN_SECONDS, alike, environment, running

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")
place, port = test_readme.place, test_readme.port


def blocks() -> list[tuple[str, str, str]]:
    """(commands, language of what they print, what they print); the last two are empty where nothing is."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    following = [*found[1:], ("", "")]
    return [
        (text, *(shown if shown[0] in ("json", "text") else ("", "")))
        for (language, text), shown in zip(found, following, strict=True)
        if language == "bash"
    ]


def test_the_page_works_as_it_stands(place: Path, port: int) -> None:
    """The life of a job, the registry, a typed service and a refusal, with curl alone."""
    (first, *_), *rest = blocks()
    assert "coordinator dev" in first
    assert len(rest) >= 10
    script = f"\necho '{MARK}'\n".join(commands for commands, *_ in rest)

    with running(first, place, port):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace("8011", str(port))],
            cwd=place,
            env=environment(place, port),
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
    assert done.returncode == 0, done.stdout + done.stderr

    for (_, language, shown), printed in zip(rest, done.stdout.split(f"{MARK}\n"), strict=True):
        if language == "json":
            assert like(json.loads(shown)) == like(json.loads(printed))
        else:
            assert alike(shown) == alike(printed)


def like(value: object) -> object:
    """The document with the kinds of what is another one each time, and the values of the rest."""
    other = {"job_id", "position", "expires_at", "finished_at", "result_digest", "result_salt", "request_id"}
    if isinstance(value, dict):
        return {k: type(v).__name__ if k in other else like(v) for k, v in value.items()}
    return [like(item) for item in value] if isinstance(value, list) else value
