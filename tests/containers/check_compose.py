"""The compose file with its five containers. Each check begins where the one before ended."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.client import Coordinator
from coordinator.client.errors import CoordinatorError

from .engine import Engine
from .stack import FIVE, OURS, ROOT, Stack, documents, eventually

MEGABYTE = 10**6


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_without_secrets_nothing_starts(engine: Engine, stack: Stack) -> None:
    """Without docker/.env a start is refused, and says how to make one; making it again changes nothing."""
    kept = (stack.folder / ".env").read_text()
    (stack.folder / ".env").unlink()
    try:
        refused = engine.run("compose", "up", "--no-build", folder=stack.folder, check=False)
    finally:
        (stack.folder / ".env").write_text(kept)
    again = subprocess.run(("sh", "make-secrets.sh"), cwd=stack.folder, capture_output=True, text=True)

    assert refused.returncode != 0
    assert "is missing a value: run make-secrets.sh first" in refused.stderr
    assert (0, "docker/.env exists already, and stays as it is\n") == (again.returncode, again.stderr)
    assert kept == (stack.folder / ".env").read_text()


def test_the_images_are_small_and_of_a_plain_user(
    engine: Engine, stack: Stack, figures: dict[str, str]
) -> None:
    """The coordinator's has 200 MB at most, and neither pip nor ffmpeg; neither image runs as root."""
    look = "import importlib.util as i, json; names = ('pip', 'imageio_ffmpeg', 'polars', 'PIL', 'fastapi')\n"
    look += "print(json.dumps([n for n in names if i.find_spec(n)]))"
    found = {}
    for image in ("coordinator:local", "coordinator-miner:local"):
        [document] = engine.inspect(image)
        size = int(str(document["Size"]))
        figures[f"MB of {image}"] = f"{size / MEGABYTE:.0f}"
        found[image] = json.loads(engine.read("run", "--rm", "--entrypoint", "python", image, "-c", look))
        assert "10001" == document["Config"]["User"]  # type: ignore[index]
        if image == "coordinator:local":
            assert size <= 200 * MEGABYTE

    assert found["coordinator:local"] == ["fastapi"]
    assert found["coordinator-miner:local"] == ["imageio_ffmpeg", "polars", "PIL", "fastapi"]


def test_every_setting_reaches_its_container(stack: Stack) -> None:
    """What docker/.env sets of .env.example is in the container that it is for, and in no other."""
    fixed = {"APP_HOST", "APP_PORT", "DATA_DIR", "DATABASE_URL", "AMQP_URL", "HEALTH_FILE"}
    example = (ROOT / ".env.example").read_text()
    names = set(re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE)) - fixed
    names -= {
        "BROKER_AUTH_HOST",
        "BROKER_AUTH_PORT",
    }  # of `coordinator broker-auth`: compose.broker-auth.yaml
    names.add("HTTPS_PROXY")
    kept = (stack.folder / ".env").read_text()
    stack.set(**{name: f"sample-{name}" for name in names})
    project = "coordinator-docker-test-settings"
    try:
        stack.compose("create", "--no-build", *OURS, project=project)
        given = {service: stack.environment(service, project) for service in OURS}
    finally:
        (stack.folder / ".env").write_text(kept)
        stack.compose("down", "--volumes", project=project)

    both = {service: {n for n in names if f"sample-{n}" in given[service].get(n, "")} for service in OURS}
    assert names == both["coordinator"] | both["miner-1"]
    assert both["miner-1"] == both["miner-2"]
    assert both["coordinator"] & both["miner-1"] == {
        *("FETCH_ALLOW_HOSTS", "HTTPS_PROXY", "LOG_FORMAT", "LOG_LEVEL"),
        *(name for name in names if name.startswith("OTEL_")),
    }
    assert "sample-HMAC_SECRET" == given["miner-1"]["COORDINATOR_HMAC_SECRET"]
    secrets = [line.partition("=")[2] for line in kept.splitlines() if "_SECRET=" in line]
    for secret in secrets:
        if secret != stack.setting("MINER_SECRET"):
            assert secret not in str(given["miner-1"])


def test_it_comes_up(stack: Stack, figures: dict[str, str]) -> None:
    """`up --wait` ends well: every container is healthy, the miners too."""
    figures["seconds of `up --wait`"] = f"{stack.up():.0f}"
    states = {name: found["State"]["Health"]["Status"] for name, found in stack.containers().items()}
    assert dict.fromkeys(FIVE, "healthy") == states


def test_a_job_goes_through_all_containers(client: Coordinator, clip: Path, tmp_path: Path) -> None:
    """Texts are digested and a video is converted by the miners, and the results are right and proven."""
    texts = [f"text {number}" for number in range(20)]
    jobs = client.submit_many("checksum", [{"text": text} for text in texts])
    movie = client.submit(
        "video_transcoding", {"input_url": client.upload(clip).ref, "resolution": "160x90"}, ttl_seconds=600
    )

    digests = [job.result(60).result["digests"][0]["digest"] for job in jobs]
    assert [digest_of(text) for text in texts] == digests
    result = movie.result(120).result
    assert (160, 90) == (result["width"], result["height"])
    assert movie.job_id in str(movie.receipt())


def test_containers_have_few_rights(stack: Stack) -> None:
    """Ours write to their volume and /tmp alone, have no capability and gain none; logs are rotated."""
    for service, found in stack.containers().items():
        host = found["HostConfig"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert host["CapDrop"] == ["ALL"], service
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "5", "max-size": "10m"}}
        assert found["Config"].get("StopTimeout", 0) >= 60, service
    for service in OURS:
        host = stack.container(service)["HostConfig"]
        assert host["ReadonlyRootfs"] is True
        assert host["CapAdd"] is None
        status = stack.execute(service, "cat", "/proc/self/status").stdout
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        written = stack.execute(service, "touch", "/opt/coordinator/x", check=False)
        assert "Read-only file system" in written.stderr


def test_the_doctor_finds_all_well(stack: Stack) -> None:
    """`coordinator doctor` ends with 0 in the coordinator's and in a miner's container."""
    for service, named in (
        ("coordinator", {"settings", "data dir", "database", "migrations", "broker", "blob store"}),
        ("miner-1", {"settings", "data dir", "coordinator", "API key", "broker", "registration"}),
    ):
        done = stack.execute(service, "coordinator", "doctor", "--json", check=False)
        checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert 0 == done.returncode, done.stdout
        assert named <= checks.keys()
        assert {"ok"} == {checks[name]["status"] for name in named}, done.stdout


def test_logs_are_json(stack: Stack) -> None:
    """Every line that our containers write is a JSON object; those of the log have a level and a time."""
    for service in OURS:
        lines = documents(stack.logs(service))
        facts = [line for line in lines if "event" in line]
        assert len(lines) - len(facts) <= 1, service  # what a start tells programs
        assert facts, service
        assert all({"level", "timestamp"} <= fact.keys() for fact in facts)


def test_up_again_makes_nothing_anew(stack: Stack) -> None:
    """A second `up -d`, also after a build, leaves every container as it is."""
    before = {name: (found["Id"], found["State"]["StartedAt"]) for name, found in stack.containers().items()}
    stack.up()
    stack.build()
    stack.up()
    after = {name: (found["Id"], found["State"]["StartedAt"]) for name, found in stack.containers().items()}
    assert before == after


def test_addresses_behind_a_proxy(engine: Engine, stack: Stack) -> None:
    """With the proxy in FORWARDED_ALLOW_IPS failures count by the client's address, else by its own."""

    def statuses(*addresses: str) -> list[int]:
        bad = {"X-Api-Key": "app:wrong-wrong-wrong"}
        return [
            httpx.get(f"{stack.url}/v1/jobs", headers={**bad, "X-Forwarded-For": address}).status_code
            for address in addresses
        ]

    kept = (stack.folder / ".env").read_text()
    stack.set(RATE_LIMIT_FAILURES="2")
    stack.up("coordinator")
    mixed = statuses("203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4")
    network = next(iter(stack.container("coordinator")["NetworkSettings"]["Networks"].values()))
    stack.set(FORWARDED_ALLOW_IPS=network["Gateway"])
    stack.up("coordinator")
    apart = statuses(*(["203.0.113.1"] * 3), "203.0.113.2")
    (stack.folder / ".env").write_text(kept)
    stack.up()

    assert [401, 401, 429, 429] == mixed
    assert [401, 401, 429, 401] == apart


class Load:
    """Submits texts until it is told to stop, through every outage; a repeat has the same idempotency key."""

    def __init__(self, client: Coordinator) -> None:
        self.accepted: dict[int, Any] = {}
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._submit)

    def _submit(self) -> None:
        for number in count():
            while not self._stop.is_set():
                try:
                    payload = {"text": f"load {number}"}
                    job = self._client.submit("checksum", payload, idempotency_key=f"load-{number}")
                except CoordinatorError:
                    time.sleep(0.2)
                    continue
                self.accepted[number] = job
                break
            if self._stop.is_set():
                return

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)


def test_five_kills_at_once_lose_nothing(
    stack: Stack, client: Coordinator, clip: Path, figures: dict[str, str]
) -> None:
    """All five die at one moment under load and come back; every accepted job ends once, with its result."""
    ref = client.upload(clip).ref
    asked = {"input_url": ref, "resolution": "640x360", "codec": "h264"}
    with Load(client) as load:
        movies = [client.submit("video_transcoding", asked, ttl_seconds=900) for _ in range(6)]
        eventually(lambda: any(movie.view().state == "RUNNING" for movie in movies), 60, "a video in work")
        eventually(lambda: len(load.accepted) > 50, 60, "load")
        stack.kill_at_once()
        killed, before = time.monotonic(), len(load.accepted)
        eventually(lambda: len(load.accepted) > before + 50, 180, "jobs accepted after the kills")
        figures["seconds from five kills to accepted jobs"] = f"{time.monotonic() - killed:.0f}"
    accepted = dict(load.accepted)

    digests = {n: job.result(180).result["digests"][0]["digest"] for n, job in accepted.items()}
    assert {n: digest_of(f"load {n}") for n in accepted} == digests
    assert ["COMPLETED"] * 6 == [movie.wait(300).state for movie in movies]
    assert all(found["RestartCount"] >= 1 for found in stack.containers().values())
    ends = [
        sum(entry.type.startswith("job.completed") for entry in job.history().entries)
        for job in (*movies, *list(accepted.values())[:: max(1, len(accepted) // 50)])
    ]
    assert [1] * len(ends) == ends
    figures["jobs accepted around the kills"] = f"{len(accepted)} texts, {len(movies)} videos; lost: 0"


def test_a_killed_miner_leaves_no_files(stack: Stack) -> None:
    """After the kills nothing of the jobs that were under way is left on the miners' disks."""
    look = "ls -d /tmp/coordinator-* /tmp/job-* /var/lib/coordinator/jobs/* 2>/dev/null; true"

    def left() -> str:
        return "".join(stack.execute(name, "sh", "-c", look).stdout for name in ("miner-1", "miner-2"))

    eventually(lambda: left() == "", 30, "no job's folder")


def test_down_and_up_keep_data_and_key(stack: Stack, client: Coordinator, figures: dict[str, str]) -> None:
    """`down` stops all within their time; after `up` the log, the results and the key are the same."""
    before, old = client.health(), client.submit("checksum", {"text": "kept"})
    result = old.result(60).result
    services = stack.containers()
    watches = [str(found["Id"]) for found in services.values()]
    began = time.monotonic()
    stack.compose("stop")
    ended = {name: stack.container(name)["State"]["ExitCode"] for name in services}
    figures["seconds of an orderly stop"] = f"{time.monotonic() - began:.0f}"
    stack.down()
    figures["seconds of `up --wait` with data"] = f"{stack.up():.0f}"

    assert 5 == len(watches)
    assert dict.fromkeys(OURS, 0) == {name: ended[name] for name in OURS}
    assert 137 not in ended.values()  # nobody had to be killed
    after = client.health()
    assert before["signing_key_id"] == after["signing_key_id"]
    assert after["position"] > before["position"]
    assert result == old.result(0).result
    fresh = client.submit("checksum", {"text": "new"}).result(60).result
    assert digest_of("new") == fresh["digests"][0]["digest"]


def test_passwords_can_be_changed(stack: Stack, client: Coordinator) -> None:
    """The README's commands change the passwords of Postgres and RabbitMQ, and jobs go on."""
    commands = re.findall(
        r"^docker compose exec (.+)$", (stack.folder / "README.md").read_text(), re.MULTILINE
    )
    changing = [command for command in commands if "NEW" in command]
    assert 2 == len(changing)
    for command in changing:
        shell = f"set -- {command.replace('NEW', 'anothersecret')}; printf '%s\\n' \"$@\""
        words = subprocess.run(
            ("sh", "-c", shell), capture_output=True, text=True, check=True
        ).stdout.splitlines()
        stack.execute(words[0], *words[1:])
    stack.set(POSTGRES_PASSWORD="anothersecret", RABBITMQ_PASSWORD="anothersecret")
    stack.up()
    done = client.submit("checksum", {"text": "again"}).result(60).result
    assert digest_of("again") == done["digests"][0]["digest"]


@pytest.mark.parametrize("service", ["coordinator", "miner-1"])
def test_an_unhealthy_program_is_seen(stack: Stack, service: str) -> None:
    """Without its database the coordinator becomes unhealthy, and a miner without it; both recover."""
    needed = {"coordinator": "postgres", "miner-1": "coordinator"}[service]

    def status() -> str:
        return str(stack.container(service)["State"]["Health"]["Status"])

    stack.compose("stop", needed)
    eventually(lambda: status() == "unhealthy", 120, f"{service} unhealthy")
    stack.compose("start", needed)
    eventually(lambda: status() == "healthy", 60, f"{service} healthy")
