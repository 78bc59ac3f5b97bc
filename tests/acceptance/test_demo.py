"""The demo, run as a newcomer would: processes, real jobs, receipts, and nothing left behind."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from coordinator.wire.amounts import micros_of
from tests.acceptance.cli_process import PROGRAM, TIMEOUT_S, Ran, dev, environment, run
from tests.harness import pages


def check_well(ran: Ran, jobs: int, folder: Path) -> None:
    """It said so in one line, every job gave something, and the folder has nothing else of the demo."""
    assert 0 == ran.code, ran.err
    *table, last = [line for line in ran.out.splitlines() if not line.startswith("See it: ")]
    assert last.startswith(f"demo: ok jobs={jobs} receipts={jobs} events=")
    assert (
        int(last.split("events=")[1].split()[0]) > 3 * jobs
    )  # submitted, started, completed, and what is not a job's
    assert jobs == sum("video_transcoding" in line or "checksum" in line for line in table)
    files = [path for path in (folder / "results").iterdir() if path.is_file() and path.stat().st_size]
    assert jobs == len(files)
    assert ["results", "tmp"] == sorted(path.name for path in folder.iterdir())
    assert [] == list((folder / "tmp").iterdir())


def demo(folder: Path, *arguments: str, **variables: str) -> Ran:
    (folder / "tmp").mkdir()
    return run(folder, "demo", "--output", "results", *arguments, TMPDIR=str(folder / "tmp"), **variables)


def test_embedded(tmp_path: Path) -> None:
    """Without servers: a coordinator and two miners over HTTP, on SQLite. It prints what the README shows.

    A `.env` file and servers in the environment do not get into it.
    """
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://nowhere/x\nHEARTBEAT_INTERVAL_SECONDS=wrong\n")
    ran = demo(tmp_path, AMQP_URL="amqp://nowhere/")
    (tmp_path / ".env").unlink()
    check_well(ran, 16, tmp_path)

    [shown] = re.findall(r"^\$ make demo\n(.*?)^```$", pages.read("README.md"), re.MULTILINE | re.DOTALL)
    printed = iter(pages.demo_lines(f"{ran.err}\n{ran.out}"))
    missing = [line for line in pages.demo_lines(shown) if line not in ("…", "") and line not in printed]
    assert [] == missing  # in this order: `in` uses the iterator up

    # The last line shows it in the dashboard, on any machine with this folder.
    command = shlex.split(ran.out.splitlines()[-1].removeprefix("See it: coordinator "))
    assert ["dev", "--data-dir", "results/data"] == command
    with dev(tmp_path, *command[1:]) as coordinator, httpx.Client(follow_redirects=True) as browser:
        page = browser.get(str(coordinator.about["dashboard"])).text
        assert "Nothing waits" in page
        listed = browser.get(f"{coordinator.url}/jobs?q=state:completed").text
    assert 16 == listed.count('<tr id="job-')


def test_with_rabbitmq_and_postgres(tmp_path: Path, amqp_url: str, database_url: str) -> None:
    """With the servers that AMQP_URL and DATABASE_URL name: miners consume work queues. Videos cost by
    their size, and every job is paid."""
    ran = demo(tmp_path, "--amqp", "--money", "--jobs", "8", AMQP_URL=amqp_url, DATABASE_URL=database_url)
    assert "over AMQP" in ran.err
    assert "8 × payment" in ran.err
    assert {"gigabytes", "gpu_seconds"} <= set(ran.out.split())
    check_well(ran, 8, tmp_path)


def test_with_money(tmp_path: Path) -> None:
    """With accounts the last line has the sum of all payments, as in the statement, and that of all: 0."""
    ran = demo(tmp_path, "--money", "--jobs", "4")
    assert 0 == ran.code, ran.err
    *_, last = [line for line in ran.out.splitlines() if not line.startswith("See it: ")]
    found = re.fullmatch(r"demo: ok jobs=4 receipts=4 events=\d+ paid=(\d+) sum=0", last)
    assert found is not None, last
    [told] = re.findall(r"^Statement of (?!@).*× deposit .*× payment -([0-9.]+);", ran.err, re.MULTILINE)
    assert int(found[1]) == micros_of(told)


@contextmanager
def demo_at_work(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A demo whose jobs are running, and descriptors of its processes that become readable at their end."""
    (folder / "tmp").mkdir()
    process = subprocess.Popen(
        [*PROGRAM, "demo", "--jobs", "200", "--output", "results"],
        cwd=folder,
        env=environment(TMPDIR=str(folder / "tmp")),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children: list[int] = []
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("["):  # the first job is done
                break
        pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert 3 == len(pids), said
        children += [os.pidfd_open(int(pid)) for pid in pids]
        yield process, children
    finally:
        process.kill()
        process.wait()
        for child in children:
            os.close(child)
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM end the demo with everything that it started, and leave no files."""
    with demo_at_work(tmp_path) as (process, children):
        process.send_signal(number)
        process.communicate(timeout=TIMEOUT_S)
        assert code == process.returncode
        assert sorted(children) == sorted(select.select(children, [], [], 0)[0])
        assert [] == list((tmp_path / "tmp").iterdir())


def test_killed(tmp_path: Path) -> None:
    """SIGKILL takes the demo without a word; its processes notice and end."""
    with demo_at_work(tmp_path) as (process, children):
        process.kill()
        for child in children:
            assert select.select([child], [], [], TIMEOUT_S)[0], "a process still runs"


def test_says_what_is_wrong(tmp_path: Path) -> None:
    """A demo that can't work ends with 1, says why, and keeps the processes' output."""
    (tmp_path / "bin").mkdir()
    ffmpeg = tmp_path / "bin" / "ffmpeg"
    ffmpeg.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    ffmpeg.chmod(0o755)
    ran = demo(tmp_path, "--jobs", "1", PATH=f"{ffmpeg.parent}:{os.environ['PATH']}")
    (kept,) = (tmp_path / "tmp").iterdir()
    assert (1, "") == (ran.code, ran.out)
    assert "DEMO: ffmpeg could not make the video: broken" in ran.err
    assert str(kept) in ran.err
    assert (kept / "coordinator.log").exists()
