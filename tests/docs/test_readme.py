"""README.md, done as it says: its `bash` blocks run in order, and give what the page shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from coordinator.dev.servers.processes import free_port
from coordinator.runtime import parent_watch

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
START_SECONDS = 60.0
RUN_SECONDS = 120.0
MARK = "--- end of block ---"
# What the page asks of curl, for machines that have none.
STAND_IN_CURL = """#!/usr/bin/env python3
import argparse, sys, urllib.error, urllib.request
parser = argparse.ArgumentParser()
parser.add_argument("--silent", action="store_true")
parser.add_argument("--header", action="append", default=[])
parser.add_argument("--data")
parser.add_argument("url")
asked = parser.parse_args()
headers = dict(header.split(": ", 1) for header in asked.header)
request = urllib.request.Request(asked.url, asked.data and asked.data.encode(), headers)
try:
    answer = urllib.request.urlopen(request)
except urllib.error.HTTPError as refusal:  # to curl that is an answer, too
    answer = refusal
sys.stdout.write(answer.read().decode())
"""


class Block(NamedTuple):
    """Commands of the page, and what it shows as their output ("" where nothing)."""

    commands: str
    language: str
    output: str


def blocks() -> list[Block]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    given: list[Block] = []
    for (language, text), (next_language, next_text) in zip(found, [*found[1:], ("", "")], strict=True):
        if language == "bash":
            shown = next_language in ("text", "json")
            given.append(Block(text, next_language if shown else "", next_text if shown else ""))
    return given


def alike(text: str) -> str:
    """The text without what is another one each time: ids, moments, keys, positions, which miner it was."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "<moment>", text)
    text = re.sub(r"\b(receipt_id +)[0-9a-f]{32}\b", r"\1<receipt>", text)
    text = re.sub(r"(key_id +)[A-Za-z0-9_-]{43}", r"\1<key>", text)
    text = re.sub(r'"position": ?\d+', '"position": <n>', text)
    text = re.sub(r"miner-[12]@", "miner-<n>@", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the virtual environment where the page expects it, and curl."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "bin").mkdir()
    if shutil.which("curl") is None:
        (tmp_path / "bin" / "curl").write_text(STAND_IN_CURL)
        (tmp_path / "bin" / "curl").chmod(0o755)
    return tmp_path


@pytest.fixture
def port() -> int:
    """In the place of the page's port, which another program may have here."""
    return free_port()


def environment(place: Path, port: int) -> dict[str, str]:
    return {
        "PATH": f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{place / 'bin'}",
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "COLUMNS": "200",
        "COORDINATOR_URL": f"http://127.0.0.1:{port}",
    }


@contextmanager
def running(commands: str, place: Path, port: int) -> Iterator[None]:
    """What the first terminal does, until it says that it is ready."""
    log = place / "first-terminal.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-euc", commands.replace("coordinator dev", f"exec coordinator dev --port {port}")],
            cwd=place,
            env=environment(place, port) | {parent_watch.VARIABLE: "1"},  # it ends if the tests are killed
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    too_long = threading.Timer(START_SECONDS, process.kill)
    too_long.start()
    try:
        assert process.stdout is not None
        said: list[str] = []
        while not said or said[-1] not in ("", "Ctrl-C stops it.\n"):  # "" is the end
            said.append(process.stdout.readline())
        assert said[-1], f"{''.join(said)}\n{log.read_text()}"
        too_long.cancel()
        yield
    finally:
        too_long.cancel()
        process.terminate()
        process.communicate(timeout=30)


def test_first_steps(place: Path, port: int) -> None:
    """The commands of the page work one after the other, and print what it says that they print."""
    first, *rest = blocks()
    assert "coordinator dev" in first.commands
    assert len(rest) == 5
    script = f"\necho '{MARK}'\n".join(block.commands for block in rest)

    with running(first.commands, place, port):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace("8011", str(port))],
            cwd=place,
            env=environment(place, port),
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
    assert done.returncode == 0, done.stderr

    printed = done.stdout.split(f"{MARK}\n")
    for block, output in zip(rest, printed, strict=True):
        if block.language == "json":
            assert json.loads(output).keys() == json.loads(block.output).keys()
        if block.output:
            assert alike(output) == alike(block.output)
    facts = ["job.submitted.v1", "job.started.v1", "job.completed.v1"]
    assert re.findall(r"job\.\w+\.v\d", printed[-1]) == facts


def test_the_two_commands_are_there() -> None:
    """What the page tells a newcomer to type is in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    typed = re.findall(r"^\$ make (\w+)", README, re.MULTILINE)

    assert typed == ["demo", "test"]
    for target in {*typed, *re.findall(r"`make (\w+)", README)}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
