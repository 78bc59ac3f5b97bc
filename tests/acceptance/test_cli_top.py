"""`coordinator top` in a terminal: it ends with Ctrl-C, and outlives a coordinator that goes and comes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from fcntl import ioctl
from pathlib import Path

from tests.acceptance.cli_process import PROGRAM, dev, environment, running

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


class Terminal:
    """A command in a terminal of this size."""

    def __init__(self, folder: Path, *arguments: str, columns: int = 60, rows: int = 20, **variables: str):
        self._file, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments],
            cwd=folder,
            env={**environment(**variables), "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.text = ""

    def until(self, words: str, seconds: float = 40.0) -> None:
        """Read until these words come; what was read before them is forgotten."""
        end = time.monotonic() + seconds
        while words not in self.text:
            left = end - time.monotonic()
            assert left > 0, f"no {words!r} in {self.text[-2000:]!r}"
            if select.select([self._file], [], [], left)[0]:
                self.text += ESCAPES.sub("", os.read(self._file, 65536).decode())
        self.text = self.text[self.text.index(words) :]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._file)


def test_top_outlives_the_coordinator(tmp_path: Path) -> None:
    """The last figures stay while the coordinator is gone, new ones follow, and Ctrl-C is a clean end."""
    with dev(tmp_path, "--miners", "0") as first:
        port = first.url.rpartition(":")[2]
        job_id = first.submit("nobody runs it")
        once = first.run("top", "--once")
        assert 0 == once.code, once.err
        assert "queued 1, oldest" in once.out
        assert re.search(r"1 x checksum, \d+s", once.out)
        assert re.search(r"projector +leading +lag 0", once.out)
        figures = first.run("top", "--once", "--json").json()
        assert (1, "ok", []) == (figures["queued"], figures["status"], figures["miners"])
        [waiting] = figures["waiting"]
        assert ("checksum", 1) == (waiting["service"], waiting["jobs"])
        assert first.run("job", "why", job_id, "--json").json()["sentence"] == waiting["why"]

        terminal = Terminal(tmp_path, "top", "--interval", "0.3", COORDINATOR_URL=first.url)
        try:
            terminal.until("queued 1")
            first.process.kill()
            first.process.wait()
            terminal.until("out of reach for")
            terminal.until("queued 1")  # the last figures stay
            with running(tmp_path, "dev", "--port", port, "--json") as second:
                assert second.stdout.readline()
                terminal.text = ""
                terminal.until("ok  embedded")
                os.killpg(terminal.process.pid, signal.SIGINT)
                assert 0 == terminal.process.wait(20)
            assert "Traceback" not in terminal.text
        finally:
            terminal.close()


def test_top_as_json_lines(tmp_path: Path) -> None:
    """Without --once, --json prints one line for each reading, with rates from the second one on."""
    with dev(tmp_path, "--miners", "1") as coordinator:
        process = subprocess.Popen(
            [*PROGRAM, "top", "--json", "--interval", "0.3"],
            cwd=tmp_path,
            env=environment(COORDINATOR_URL=coordinator.url),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.close()
            code = process.wait(20)
        assert (0, None) == (code, first["events"])
        assert second["events"] >= 0
        wrong = coordinator.run("top", "--json", "--api-key", "root:wrong-secret-of-root")
        assert (5, "UNAUTHORIZED_KEY") == (wrong.code, json.loads(wrong.err)["code"])
