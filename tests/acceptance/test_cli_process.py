"""The command line as a process: signals, streams, terminals, keys, and the coordinator's own commands."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from coordinator.dev.servers.processes import free_port
from tests.acceptance.cli_process import PROGRAM, TIMEOUT_S, call, dev, environment, run, running
from tests.harness.fork_server import Forked

HEAVY = {"pydantic", "httpx", "fastapi", "rich", "structlog", "asyncio", "psycopg", "nacl"}

NO_STREAM = "0190163d-8694-739b-aea5-966c26f8ad91"


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """`coordinator --help` does without every library that takes long to import."""
    look = f"import sys, coordinator.cli as c; c.main(['--help']); print({HEAVY!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert "set()" == done.stdout.splitlines()[-1], done.stderr


def test_unreachable(tmp_path: Path) -> None:
    """Where no coordinator is, a command ends with 6 and says how to start one."""
    ran = run(tmp_path, "job", "list", "--url", "http://127.0.0.1:9", "--api-key", "alice:secret-secret")
    cause, next_step = ran.err.splitlines()
    assert (6, "") == (ran.code, ran.out)
    assert cause.startswith("UNREACHABLE: http://127.0.0.1:9")
    assert "coordinator dev" in next_step


def test_a_key_is_never_shown(tmp_path: Path) -> None:
    """No error quotes the API key, whatever is wrong with it."""
    for key in ("alice:hunter2hunter2\n", "hunter2hunter2", "alïce:hunter2hunter2"):
        ran = call(tmp_path, "job", "list", "--url", "http://127.0.0.1:9", "--api-key", key)
        assert "hunter2" not in ran.out + ran.err


def test_keys_are_made_once_and_for_their_owner(tmp_path: Path) -> None:
    """`dev` makes keys that only its owner may read, and uses them again; open to others, it refuses them."""
    keys = tmp_path / "coordinator-data" / "dev-keys.env"
    with dev(tmp_path, "--miners", "1") as first:
        made = keys.read_text()
        assert 0o600 == keys.stat().st_mode & 0o777
        (miner,) = children_of(first.process.pid)
        told = Path(f"/proc/{miner}/cmdline").read_text()
        assert all(line.partition(":")[2] not in told for line in made.splitlines())
        stop(first.process, signal.SIGTERM)
    with dev(tmp_path) as second:
        assert 0 == second.run("job", "list", "--json").code
        assert made == keys.read_text()
        stop(second.process, signal.SIGTERM)
    keys.chmod(0o644)
    ran = call(tmp_path, "dev", "--port", "0", "--json")
    assert (2, "KEY_FILE") == (ran.code, json.loads(ran.err)["code"])


def test_keys_of_this_machine_go_to_this_machine_only(tmp_path: Path) -> None:
    """The keys that `dev` made are sent to loopback addresses and nowhere else."""
    from coordinator.cli.dev_files import find_key, load_or_create

    keys = load_or_create(tmp_path)
    local = ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "http://127.8.9.1")
    elsewhere = ("http://192.168.0.1:1", "http://localhost.example.org", "https://example.org", "127.0.0.1")
    assert {keys["client"]} == {find_key(url, "client", tmp_path) for url in local}
    assert {None} == {find_key(url, "client", tmp_path) for url in elsewhere}


def test_port_taken(tmp_path: Path) -> None:
    """`dev` takes another port where its own is taken, and says so; `serve` ends with 2."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with running(tmp_path, "dev", "--port", str(port)) as process:
            first = process.stdout.readline()
            stop(process, signal.SIGTERM)
        ran = run(tmp_path, "serve", APP_PORT=str(port), CLIENT_API_KEYS="alice:secret-secret")
    assert first.startswith("Coordinator on http://127.0.0.1:")
    assert str(port) not in first
    assert f"Port {port} is taken" in (tmp_path / "stderr.log").read_text()
    assert (2, "", True) == (ran.code, ran.out, ran.err.startswith("PORT: "))


def test_dev_listens_where_app_port_says(tmp_path: Path) -> None:
    """`dev` takes APP_PORT, and --port before it; the settings' servers are not for it."""
    port = free_port()
    given = {"APP_PORT": str(port), "DATABASE_URL": "postgresql://127.0.0.1:9/c"}
    with running(tmp_path, "dev", "--json", **given) as process:
        about = json.loads(process.stdout.readline())
        stop(process, signal.SIGTERM)
    with dev(tmp_path, **given) as chosen:  # --port 0
        stop(chosen.process, signal.SIGTERM)
    assert (f"http://127.0.0.1:{port}", "embedded") == (about["url"], about["mode"])
    assert about["url"] != chosen.url


def test_miners_of_dev_know_its_settings(tmp_path: Path) -> None:
    """Engines in `.env` are for them, too, and they sign where they must; servers are for nobody here."""
    servers = "AMQP_URL=amqp://127.0.0.1:9/\nDATABASE_URL=postgresql://127.0.0.1:9/c\n"
    (tmp_path / ".env").write_text(f"LLM_ENGINE_URL=http://127.0.0.1:9\n{servers}")
    secret = "sixteen-characters"
    with dev(tmp_path, "--miners", "1", HMAC_SECRET=secret) as coordinator:
        submit = ("job", "submit", "checksum", "--payload", '{"text": "signed"}', "--wait")
        assert 5 == coordinator.run(*submit).code
        assert 0 == coordinator.run(*submit, COORDINATOR_HMAC_SECRET=secret).code
        log = (tmp_path / "coordinator-data" / "miners" / "miner-1.log").read_text()
    assert "IMAGE_ENGINE_URL is not set" in log
    assert "LLM_ENGINE_URL is not set" not in log


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_dev_stops_in_order(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C ends `dev` with 130 and SIGTERM with 0, its miners with it, and the data directory is free."""
    with dev(tmp_path, "--miners", "1") as coordinator:
        coordinator.run("job", "watch", coordinator.submit("so that the miner is there"))
        (miner,) = children_of(coordinator.process.pid)
        assert code == stop(coordinator.process, number)
        assert not Path(f"/proc/{miner}").exists()
    assert 0 == call(tmp_path, "projections", "check", "--json").code


def test_miners_notice_that_dev_was_killed(tmp_path: Path) -> None:
    """SIGKILL takes `dev` without a word; the miners that it started end by themselves."""
    with dev(tmp_path, "--miners", "2") as coordinator:
        miners = [os.pidfd_open(pid) for pid in children_of(coordinator.process.pid)]
        coordinator.process.kill()
        assert 2 == len(miners)
        for miner in miners:
            assert select.select([miner], [], [], TIMEOUT_S)[0], "a miner still runs"
            os.close(miner)


def test_one_coordinator_per_data_dir(tmp_path: Path) -> None:
    """A second coordinator on the same data ends with 3 and names the one that has it."""
    with dev(tmp_path) as coordinator:
        ran = run(tmp_path, "dev", "--port", "0", "--json")
        told = json.loads(ran.err.splitlines()[-1])
        assert (3, "DATA_DIR_IN_USE") == (ran.code, told["code"])
        assert str(coordinator.process.pid) in told["detail"]


def test_settings_that_can_not_be_used(tmp_path: Path) -> None:
    """A wrong setting, or none that lets anybody in, ends `serve` with 2 and shows no secret."""
    without_keys = call(tmp_path, "serve")
    wrong = call(tmp_path, "serve", "--json", CLIENT_API_KEYS="alice:short")
    half = call(tmp_path, "serve", "--json", DATABASE_URL="postgresql://u:hunter2hunter2@db/c")
    assert (2, True) == (without_keys.code, without_keys.err.startswith("SETTINGS: there are no API keys"))
    assert (2, "SETTINGS") == (wrong.code, json.loads(wrong.err)["code"])
    assert "short" not in wrong.err
    assert (2, True, False) == (half.code, "AMQP_URL" in half.err, "hunter2" in half.err)


def test_a_miner_that_is_not_let_in(tmp_path: Path) -> None:
    """`miner run` with a client's key, or a wrong one, ends with 5, and so without one: nothing is tried."""
    with dev(tmp_path) as coordinator:
        key = next(
            line.partition("=")[2]
            for line in (tmp_path / "coordinator-data" / "dev-keys.env").read_text().splitlines()
            if line.startswith("CLIENT")
        )
        arguments = ("miner", "run", "--url", coordinator.url, "--key-file", str(tmp_path / "miner.key"))
        refused = run(tmp_path, *arguments, "--json", COORDINATOR_API_KEY=key)
        wrong = run(tmp_path, *arguments, "--json", COORDINATOR_API_KEY="dev-miner:wrong-wrong")
    nobody = call(tmp_path, "miner", "run", "--url", "http://192.0.2.1", "--json")
    assert (5, "FORBIDDEN") == (refused.code, json.loads(refused.err.splitlines()[-1])["code"])
    assert (5, "UNAUTHORIZED_KEY") == (wrong.code, json.loads(wrong.err.splitlines()[-1])["code"])
    assert (5, "UNAUTHORIZED_KEY") == (nobody.code, json.loads(nobody.err)["code"])


def test_the_log_is_read_where_it_is(tmp_path: Path) -> None:
    """`log show` prints a job's events beside the running coordinator; `log tail` those that come."""
    with dev(tmp_path) as coordinator:
        job_id = coordinator.submit("logged")
        shown = coordinator.run("log", "show", "--job", job_id, "--json")
        with running(tmp_path, "log", "tail", "--from", "0", "--json") as tail:
            seen = [json.loads(tail.stdout.readline()) for _ in range(shown.lines()[0]["position"])]
            coordinator.run("job", "cancel", job_id)
            seen.append(json.loads(tail.stdout.readline()))
            assert 130 == stop(tail, signal.SIGINT)
        nothing = coordinator.run("log", "show", "--stream", NO_STREAM, "--json")
    assert ["job.submitted.v1"] == [event["topic"] for event in shown.lines()]
    assert ["job.submitted.v1", "job.canceled.v1"] == [event["topic"] for event in seen[-2:]]
    assert job_id == seen[-1]["event"]["job_id"] == seen[-1]["stream"]
    assert (4, "") == (nothing.code, nothing.out)


def test_projections(tmp_path: Path) -> None:
    """`projections rebuild` folds the log anew once the coordinator has stopped; until then it is refused."""
    with dev(tmp_path) as coordinator:
        coordinator.submit("kept")
        events = len(coordinator.run("log", "show", "--json").lines())
        busy = call(tmp_path, "projections", "rebuild", "--json")
        stop(coordinator.process, signal.SIGTERM)
    rebuilt = call(tmp_path, "projections", "rebuild", "--json")
    checked = call(tmp_path, "projections", "check", "--json")
    nowhere = call(tmp_path, "projections", "rebuild", "--data-dir", "nowhere", "--json")
    assert (3, "DATA_DIR_IN_USE") == (busy.code, json.loads(busy.err)["code"])
    assert (0, {"events": events}) == (rebuilt.code, rebuilt.json())
    assert (0, {"ok": True, "differences": []}) == (checked.code, checked.json())
    assert (4, False) == (nowhere.code, (tmp_path / "nowhere").exists())


def test_doctor(tmp_path: Path) -> None:
    """`doctor` ends with 0 beside a running coordinator, and with 1 where a server does not answer."""
    with dev(tmp_path) as coordinator:
        well = coordinator.run("doctor", "--json")
    servers = {
        "DATABASE_URL": "postgresql://u:hunter2hunter2@127.0.0.1:9/c",
        "AMQP_URL": "amqp://127.0.0.1:9/",
    }
    ill = call(tmp_path, "doctor", "--json", **servers)
    status = {check["name"]: check["status"] for check in ill.json()["checks"]}
    assert (0, True) == (well.code, well.json()["ok"])
    assert {"database", "migrations", "blob store", "coordinator", "video_transcoding"} <= {
        check["name"] for check in well.json()["checks"] if check["status"] == "ok"
    }
    elsewhere = call(tmp_path, "doctor", "--json", APP_HOST="192.0.2.1", BLOB_STORE="/dev/null/x")
    failed = {check["name"] for check in elsewhere.json()["checks"] if check["status"] == "failed"}
    assert (1, {"coordinator", "blob store"}) == (elsewhere.code, failed)
    assert (1, "failed", "failed") == (ill.code, status["database"], status["broker"])
    assert "hunter2" not in ill.out


def test_doctor_of_miners(tmp_path: Path) -> None:
    """With a coordinator's address and none of its settings, `doctor` checks what a miner needs."""
    elsewhere, health = tmp_path / "elsewhere", tmp_path / "health"
    elsewhere.mkdir()
    health.write_text("1000000000")

    def checked(**variables: str) -> tuple[int, dict[str, str]]:
        ran = call(elsewhere, "doctor", "--json", COORDINATOR_URL=coordinator.url, **variables)
        return ran.code, {check["name"]: check["status"] for check in ran.json()["checks"]}

    with dev(tmp_path) as coordinator:
        keys = dict(
            line.split("=", 1)
            for line in (tmp_path / "coordinator-data" / "dev-keys.env").read_text().splitlines()
        )
        well, status = checked(COORDINATOR_API_KEY=keys["MINER_API_KEYS"])
        refused, refusals = checked(
            COORDINATOR_API_KEY=keys["CLIENT_API_KEYS"],
            HEALTH_FILE=str(health),
            AMQP_URL="amqp://127.0.0.1:9/",
        )
    gone, unreachable = checked()

    assert 0 == well
    named = {"settings", "temporary folder", "coordinator", "API key", "clock", "checksum"}
    assert {"ok"} == {status[name] for name in named}
    assert 1 == refused
    assert ["failed"] * 3 == [refusals[name] for name in ("API key", "broker", "registration")]
    assert (1, "failed") == (gone, unreachable["coordinator"])


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    """Whoever reads stdout may stop (`| head`): the command ends with 141 and complains to nobody."""
    with dev(tmp_path) as coordinator:
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [*PROGRAM, "service", "list", "--json", "--url", coordinator.url],
            cwd=tmp_path,
            env=environment(),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
        )
        os.close(writing)
    assert (141, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize(("variables", "coloured"), [({"TERM": "xterm"}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_on_a_terminal_only(tmp_path: Path, variables: dict[str, str], coloured: bool) -> None:
    """Errors are coloured on a terminal, unless NO_COLOR says otherwise."""
    ours, theirs = pty.openpty()
    arguments = ("job", "list", "--url", "http://127.0.0.1:9")
    subprocess.run(
        [*PROGRAM, *arguments], cwd=tmp_path, env=environment(**variables), stderr=theirs, timeout=TIMEOUT_S
    )
    os.close(theirs)
    said = read_all(ours)
    os.close(ours)
    assert coloured == (b"\x1b[31m" in said)
    assert b"UNREACHABLE" in said


def test_progress_stays_out_of_the_data(tmp_path: Path) -> None:
    """With bars on a terminal's stderr, data still goes to stdout, and only data."""
    ours, theirs = pty.openpty()
    drawn = bytearray()

    # As it comes: a terminal that nobody reads holds up who draws on it.
    looking = threading.Thread(target=lambda: drawn.extend(read_all(ours)))
    looking.start()
    with dev(tmp_path, "--miners", "1") as coordinator:
        job_id = coordinator.submit("watched")
        done = subprocess.run(
            [*PROGRAM, "job", "watch", job_id, "--url", coordinator.url],
            cwd=tmp_path,
            env=environment(TERM="xterm"),
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            timeout=TIMEOUT_S,
        )
    os.close(theirs)
    looking.join(TIMEOUT_S)
    os.close(ours)
    lines = done.stdout.splitlines()
    assert all(line.startswith(f"{job_id}  ") for line in lines)
    assert "COMPLETED" in lines[-1]
    assert "\x1b" not in done.stdout
    assert job_id.encode() in drawn


def test_ctrl_c_ends_a_wait(tmp_path: Path) -> None:
    """Ctrl-C ends a command that waits with 130 and without a traceback; the job goes on."""
    with dev(tmp_path) as coordinator:
        job_id = coordinator.submit("waited for")
        with running(tmp_path, "job", "watch", job_id, "--json", "--url", coordinator.url) as watch:
            assert "QUEUED" == json.loads(watch.stdout.readline())["state"]
            assert 130 == stop(watch, signal.SIGINT)
        assert "QUEUED" == coordinator.run("job", "show", job_id, "--json").json()["state"]
    assert "Traceback" not in (tmp_path / "stderr.log").read_text()


def read_all(terminal: int) -> bytes:
    """What was written on the other end of a terminal, until that is closed; it comes in pieces."""
    pieces = []
    with contextlib.suppress(OSError):  # which is how a terminal says so
        while piece := os.read(terminal, 65536):
            pieces.append(piece)
    return b"".join(pieces)


def stop(process: Forked, number: signal.Signals) -> int:
    """End a process with a signal; its exit code."""
    process.send_signal(number)
    return process.wait(TIMEOUT_S)


def children_of(pid: int) -> list[int]:
    """The process's own children."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
