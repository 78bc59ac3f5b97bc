"""Pages that are done as they are written: their `bash` blocks, typed into terminals that a newcomer has.

A terminal begins in the checkout, with a new home directory and with nothing else set. The block after the
commands (`text` or `json`) is their output, standard error included, as a terminal shows both.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from coordinator.runtime.process import parent_watch

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
RUN_SECONDS = 120.0
READY = "Ctrl-C stops it.\n"
"""The last line that `coordinator dev` prints once it answers."""
APP_PORT = 8011
MARK = "--- end of block ---"


class Block(NamedTuple):
    """Commands of a page, and the output that it shows for them ("" where it shows none)."""

    commands: str
    language: str
    output: str


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fences(text: str) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[Block]:
    found = fences(text)
    given: list[Block] = []
    for (language, commands), (next_language, shown) in zip(found, [*found[1:], ("", "")], strict=True):
        if language == "bash":
            has_output = next_language in ("text", "json")
            given.append(Block(commands, next_language if has_output else "", shown if has_output else ""))
    return given


def environment(home: Path) -> dict[str, str]:
    """Of a new login: no virtual environment, no setting of ours."""
    kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    return {**kept, "HOME": str(home), "LANG": "C.UTF-8"}


def check_tools(*names: str) -> None:
    """The programs that a page says it needs, and the virtual environment that `make` has made."""
    missing = [name for name in names if shutil.which(name) is None]
    assert not missing, f"install {', '.join(missing)}: the page says that it is needed"
    assert (ROOT / ".venv/bin/activate").exists(), "run `make .venv/bin/.test` first"


@contextmanager
def another_program_at_8011() -> Iterator[None]:
    """`coordinator dev` finds its port taken, so that a page has to find the address that it took."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # another program here has it indeed
            taken.bind(("127.0.0.1", APP_PORT))
            taken.listen()
        yield


@contextmanager
def first_terminal(commands: str, home: Path) -> Iterator[None]:
    """The block that ends in `coordinator dev`, until Ctrl-C; entered once it is ready."""
    with (home / "first-terminal.log").open("w+") as errors:
        process = subprocess.Popen(
            ["bash", "-ec", commands],
            cwd=ROOT,
            env=environment(home) | {parent_watch.VARIABLE: "1"},  # it ends if the tests are killed
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        too_long = threading.Timer(START_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        too_long.start()
        try:
            assert process.stdout is not None
            said: list[str] = []
            while not said or said[-1] not in ("", READY):  # "" is the end
                said.append(process.stdout.readline())
            too_long.cancel()
            if not said[-1]:
                errors.seek(0)
                raise AssertionError(f"{''.join(said)}\n{errors.read()}")
            yield
        finally:
            too_long.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
            process.communicate(timeout=30)


def second_terminal(todo: Sequence[Block], home: Path) -> list[str]:
    """What each of these blocks prints, one after the other. The first command that fails fails the test."""
    script = f"\necho '{MARK}'\n".join(block.commands for block in todo)
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=ROOT,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.split(f"{MARK}\n")


def alike(text: str) -> str:
    """The text without the values that differ each time: ids, moments, keys, positions, files, the miner."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "<moment>", text)
    text = re.sub(r"\b(receipt_id +)[0-9a-f]{32}\b", r"\1<receipt>", text)
    text = re.sub(r"(key_id +)[A-Za-z0-9_-]{43}", r"\1<key>", text)
    text = re.sub(r'"position": ?\d+', '"position": <n>', text)
    text = re.sub(r"\bblob:[0-9a-f]{64}\b", "blob:<sha256>", text)
    text = re.sub(r'"size": \d{3,}', '"size": <bytes>', text)
    text = re.sub(r"\([\d.]+ kB\)", "(<bytes>)", text)
    text = re.sub(r"miner-[12]@", "miner-<n>@", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def demo_lines(text: str) -> list[str]:
    """The lines of a demo's output, without the order of jobs and the values that differ each time."""
    text = re.sub(r"process \d+, http://127\.0\.0\.1:\d+", "process <n>, <address>", text)
    text = re.sub(r"\b(alpha|beta)-[0-9a-f]{6}\b", "<miner>", text)
    text = re.sub(r"^(Results: |See it: .* )\S+$", r"\1<folder>", text, flags=re.MULTILINE)
    text = re.sub(
        r"^\[ ?\d+/16\] COMPLETED  .+  on <miner>  attempt 1  [\d.]+ s$", "<job>", text, flags=re.MULTILINE
    )
    text = re.sub(
        r"[\d.]+ +[\d.]+ +(\w+) +[\d.]+ +[0-9a-f]{32}$",
        r"<s> <units> \1 <price> <receipt>",
        text,
        flags=re.MULTILINE,
    )
    return [" ".join(line.split()) for line in alike(text).splitlines()]


def like(value: object) -> object:
    """A document with the kinds of the values that differ each time, and all other values."""
    other = {"job_id", "position", "expires_at", "finished_at", "result_digest", "result_salt", "request_id"}
    if isinstance(value, dict):
        return {k: type(v).__name__ if k in other else like(v) for k, v in value.items()}
    return [like(item) for item in value] if isinstance(value, list) else value


def check_output(block: Block, printed: str) -> None:
    """It printed what the page shows."""
    if block.language == "json":
        assert like(json.loads(block.output)) == like(json.loads(printed))
    elif block.output:
        assert alike(block.output) == alike(printed)
