"""docs/openai.md, done as it says, against a real coordinator, miner and engine; its lists are the code's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from coordinator.edge.openai.requests import OpenAIRequest
from tests.harness.llama_engine import MODEL, LlamaEngine
from tests.harness.openai_members import CLIENTS, REQUESTS
from tests.harness.stage import ALICE, Stage
from tests.harness.waiting import eventually_now

PAGE = (Path(__file__).parents[2] / "docs" / "openai.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path: Path, llama: LlamaEngine) -> None:
    """The page's program lists the model, gets an answer, and streams another."""
    [program] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    with Stage(tmp_path) as stage:
        stage.coordinator()
        eventually_now(lambda: stage.health()["ready"], "ready")
        miner = stage.program_miner("rig1", transport="http", llm_engine_url=f"{llama.url}/v1")
        eventually_now(lambda: "registered" in miner.tail(), "registered")
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONIOENCODING": "utf-8",
                "OPENAI_BASE_URL": f"{stage.urls['main']}/v1",
                "OPENAI_API_KEY": ALICE,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    models, answer, *streamed = done.stdout.split("\n", 2)
    assert f"['{MODEL}']" == models
    assert "completion_tokens=" in done.stdout
    assert answer
    assert streamed


def treatment(request: type[OpenAIRequest], member: str) -> str:
    """How a request treats a member, in the words of the page."""
    if member in request.ONLY:
        allowed = " or ".join(f"`{json.dumps(value)}`" for value in request.ONLY[member])
        return f"only {allowed}"
    if member in request.IGNORED:
        return "ignored"
    if member in request.model_fields:
        return "here" if member in request.HERE else "passed on"
    return "refused"


def table() -> list[str]:
    """The page's table of members, as the code has it."""
    members = sorted(
        {member for one in REQUESTS.values() for member in (*one.model_fields, *one.IGNORED, *one.ONLY)}
    )
    rows = [["member", *REQUESTS]]
    rows.append(["---"] * len(rows[0]))
    rows += [
        [f"`{member}`", *(treatment(request, member) for request in REQUESTS.values())] for member in members
    ]
    return ["| " + " | ".join(row) + " |" for row in rows]


def refused_everywhere() -> list[str]:
    """The members of OpenAI's client that no endpoint takes."""
    members = sorted(frozenset().union(*CLIENTS.values()))
    return [m for m in members if all(treatment(one, m) == "refused" for one in REQUESTS.values())]


def test_the_table_of_members_is_the_codes() -> None:
    """For each member of the code and of OpenAI's client, and each endpoint, the page says what happens."""
    found = [line for line in PAGE.splitlines() if re.match(r"\| (member|---|`[a-z_]+`) \|", line)]
    assert table() == found, "\n".join(table())
    [listed] = re.findall(r"^No endpoint takes (.*?)\.$", PAGE, re.MULTILINE | re.DOTALL)
    assert refused_everywhere() == re.findall(r"`([a-z_]+)`", listed)
