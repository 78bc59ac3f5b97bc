"""The container files fit the program, and each other. `make docker-test` runs them for real."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator.cli.miner_checks import is_for_miners
from coordinator.dev.servers.docker import POSTGRES_IMAGE, RABBITMQ_IMAGE
from coordinator.miner.config import DEFAULT_GRACE_SECONDS
from coordinator.miner.program import LEAVE_SECONDS
from coordinator.miner.settings import MinerSettings
from coordinator.runtime.process.http_server import STOP_SECONDS
from coordinator.runtime.settings import Settings, load_settings
from tests.containers.bases import MADE_FROM

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker"
OURS = ("coordinator", "miner-1", "miner-2")
FIXED = {"APP_HOST", "APP_PORT", "DATA_DIR", "DATABASE_URL", "AMQP_URL", "HEALTH_FILE"}
"""Settings that the compose file gives itself; APP_HOST and APP_PORT say where it publishes HTTP."""
BROKER_AUTH = {"BROKER_AUTH_HOST", "BROKER_AUTH_PORT"}
"""Of `coordinator broker-auth`, which compose.broker-auth.yaml adds."""
NOT_SETTINGS = {"COORDINATOR_URL", "COORDINATOR_API_KEY", "COORDINATOR_HMAC_SECRET"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return document


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of compose.yaml, with the environments of settings.yaml."""
    found: dict[str, Any] = read("compose.yaml")["services"]
    settings = read("settings.yaml")["services"]
    for service in found.values():
        if "extends" in service:
            assert service["extends"]["file"] == "settings.yaml"
            of = settings[service["extends"]["service"]]["environment"]
            service["environment"] = {**of, **service.get("environment", {})}
    return found


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """`.env` as make-secrets.sh writes it."""
    script = tmp_path / "make-secrets.sh"
    script.write_text((FOLDER / "make-secrets.sh").read_text())
    subprocess.run(("sh", str(script)), check=True, capture_output=True)
    assert 0o600 == (tmp_path / ".env").stat().st_mode & 0o777
    lines = (tmp_path / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def filled(value: str | None, environment: dict[str, str], name: str) -> str:
    """What compose makes of a variable's value; without one, what `.env` has."""

    def found(match: re.Match[str]) -> str:
        return environment.get(match[1]) or (match[3] if match[2] == "-" else environment[match[1]])

    return environment.get(name, "") if value is None else _VARIABLE.sub(found, value)


def started_with(
    of: dict[str, str | None], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """This process's environment becomes the container's."""
    monkeypatch.chdir(folder)  # no .env of the checkout
    for name in {*os.environ} & ({name.upper() for name in Settings.model_fields} | NOT_SETTINGS):
        monkeypatch.delenv(name)
    for name, value in of.items():
        monkeypatch.setenv(name, filled(value, environment, name))


def test_the_coordinator_starts_with_the_secrets_that_are_made(
    services: dict[str, Any], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """make-secrets.sh and the compose file give a valid standard mode for APP_ENV=prod, with a key a role."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    started_with(services["coordinator"]["environment"], environment, monkeypatch, folder)
    settings = load_settings()

    assert ("standard", "prod") == (settings.mode, settings.app_env)
    assert settings.receipt_signing_key_hex is None
    assert settings.database_url is not None
    assert settings.amqp_url is not None
    password, broker = environment["POSTGRES_PASSWORD"], environment["RABBITMQ_PASSWORD"]
    assert f":{password}@postgres:5432/coordinator" in settings.database_url.get_secret_value()
    assert f":{broker}@rabbitmq:5672/" in settings.amqp_url.get_secret_value()
    admins = [key.get_secret_value() for key in settings.admin_api_keys]
    assert [f"ops:{environment['ADMIN_SECRET']}", environment["METRICS_KEY"]] == admins
    made = [value for name, value in environment.items() if name != "APP_ENV"]
    assert len(made) == len(set(made)) == 7


def test_a_miner_speaks_with_a_key_of_the_coordinator(
    services: dict[str, Any], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both miners have a key of MINER_API_KEYS, and a name; `doctor` sees that they are miners."""
    keys = filled(services["coordinator"]["environment"]["MINER_API_KEYS"], environment, "")
    miners = [services["miner-1"], services["miner-2"]]
    for miner in miners:
        assert filled(miner["environment"]["COORDINATOR_API_KEY"], environment, "") in keys.split(",")
        assert miner["environment"]["AMQP_URL"] == services["coordinator"]["environment"]["AMQP_URL"]
    names = [miner["command"][miner["command"].index("--name") + 1] for miner in miners]
    assert ["miner-1", "miner-2"] == names

    started_with(miners[0]["environment"], {**environment, "LOG_LEVEL": "debug"}, monkeypatch, tmp_path)
    assert is_for_miners()
    assert ("json", "debug") == (MinerSettings().log_format, MinerSettings().log_level)


def test_every_setting_reaches_the_container_that_it_is_for(services: dict[str, Any]) -> None:
    """settings.yaml passes on all that .env.example explains, the coordinator's and the miners'."""
    example = (ROOT / ".env.example").read_text()
    name = re.compile(r"^#? ?([A-Z][A-Z0-9_]*)=", re.MULTILINE)
    of_all, _, of_miners = example.partition("# --- Of miners and clients")
    both = {"FETCH_ALLOW_HOSTS", "LOG_FORMAT", "LOG_LEVEL"}
    for_coordinators, for_miners = set(name.findall(of_all)), set(name.findall(of_miners)) | both
    assert {field.upper() for field in Settings.model_fields} <= for_coordinators
    assert {field.upper() for field in MinerSettings.model_fields} - {"AMQP_URL"} <= for_miners

    given = {service: set(services[service]["environment"]) for service in OURS}
    assert for_coordinators - FIXED - BROKER_AUTH <= given["coordinator"]
    assert for_miners - FIXED <= given["miner-1"]
    assert given["miner-1"] == given["miner-2"]
    shared = {"AMQP_URL", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", *both}
    assert {n for n in given["coordinator"] & given["miner-1"] if not n.startswith("OTEL_")} == shared


def test_what_has_no_default_is_made_or_explained(environment: dict[str, str]) -> None:
    """Each variable is a secret that make-secrets.sh makes, or has a default; the README has it."""
    told = (FOLDER / "README.md").read_text()
    texts = [path.read_text() for path in FOLDER.glob("*.yaml")]
    needed = {v[0] for text in texts for v in _VARIABLE.findall(text) if v[1] == "?"}
    optional = {v[0] for text in texts for v in _VARIABLE.findall(text) if v[1] == "-"}
    bare = {v[0] for text in texts for v in _VARIABLE.findall(text) if not v[1]}
    example = (ROOT / ".env.example").read_text()

    assert needed <= environment.keys()
    assert bare <= environment.keys()
    assert {
        name for name in needed | optional if f"`{name}`" not in told and f"{name}=" not in example
    } == set()


def test_the_readme_s_signing_key_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both pages that say how to make a signing key give the number of digits that the settings take."""
    monkeypatch.chdir(tmp_path)
    for page in ("docker/README.md", "docs/operations.md"):
        [line] = [
            text for text in (ROOT / page).read_text().splitlines() if "`RECEIPT_SIGNING_KEY_HEX` |" in text
        ]
        [digits] = re.findall(r"openssl rand -hex (\d+)", line)
        monkeypatch.setenv("RECEIPT_SIGNING_KEY_HEX", secrets.token_hex(int(digits)))
        assert load_settings().receipt_signing_key_hex is not None


def test_everything_waits_for_what_it_needs(services: dict[str, Any]) -> None:
    """The coordinator waits for healthy servers, the miners for a healthy coordinator."""
    waits = {
        name: {on: how["condition"] for on, how in services[name]["depends_on"].items()} for name in OURS
    }
    assert waits["coordinator"] == {"rabbitmq": "service_healthy", "postgres": "service_healthy"}
    assert waits["miner-1"] == waits["miner-2"] == {"coordinator": "service_healthy"}
    assert all("test" in services[name]["healthcheck"] for name in ("rabbitmq", "postgres"))
    assert ["-h", "127.0.0.1"] == services["postgres"]["healthcheck"]["test"][2:4]
    for name in (*OURS, "rabbitmq", "postgres"):
        assert {"start_interval", "start_period"} <= services[name]["healthcheck"].keys()


def test_an_image_is_built_for_one_service(services: dict[str, Any]) -> None:
    """Services that share an image share its build, or each `up --build` would make them anew."""
    for image in ("coordinator:local", "coordinator-miner:local"):
        users = [service for service in services.values() if service["image"] == image]
        assert 1 == sum("build" in service for service in users)
        assert all(service.get("pull_policy") == "never" for service in users if "build" not in service)
    assert "coordinator" == read("compose.yaml")["name"]


def test_a_stop_has_the_time_that_it_needs(services: dict[str, Any]) -> None:
    """No container is killed before the program in it has ended in order."""
    graces = {name: int(services[name]["stop_grace_period"].removesuffix("s")) for name in OURS}
    assert graces["coordinator"] >= STOP_SECONDS + 30
    assert graces["miner-1"] == graces["miner-2"] >= DEFAULT_GRACE_SECONDS + 2 * LEAVE_SECONDS


def test_no_container_has_more_rights_than_it_needs(services: dict[str, Any]) -> None:
    """All drop the capabilities, gain none and rotate their logs; ours write to their volume alone."""
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert all(str(port).startswith(("127.0.0.1:", "${APP_HOST")) for port in service.get("ports", ())), (
            name
        )
    for name in OURS:
        assert services[name]["read_only"] is True
        assert services[name]["tmpfs"] == ["/tmp"]
        assert "cap_add" not in services[name]


def test_the_same_servers_as_in_tests(services: dict[str, Any]) -> None:
    """Compose runs the server versions that the tests run in containers, and `make docker-test` can make."""
    images = {name: filled(service["image"], {}, name) for name, service in services.items()}
    assert (images["rabbitmq"], images["postgres"]) == (RABBITMQ_IMAGE, POSTGRES_IMAGE)
    others = {image.partition(":")[0] for name, image in images.items() if name not in OURS}
    assert others - {"grafana/grafana"} == MADE_FROM.keys()
    for made_from in MADE_FROM.values():
        assert (ROOT / f"tests/containers/images/{made_from}.Dockerfile").exists()


def test_the_images_are_small_and_not_root() -> None:
    """Both run as a numbered user, check their health and have pinned versions; no pip runs in them."""
    text = (FOLDER / "Dockerfile").read_text()
    program = text[text.index(" AS program\n") :]

    assert re.search(r"^USER \d+$", program, re.MULTILINE)
    assert 2 == program.count("\nHEALTHCHECK ")
    assert 2 == text.count("-c constraints.txt")
    assert "--without-pip" in text
    assert "pip" not in program
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    assert {f"!{name}" for names in copied for name in names.split()} == {n for n in ignored if n[0] == "!"}


def test_overlays_change_services_that_there_are(services: dict[str, Any]) -> None:
    """What an overlay adds to a service of compose.yaml names one, and what it adds besides has an image."""
    for path in FOLDER.glob("compose.*.yaml"):
        for name, service in read(path.name)["services"].items():
            assert name in services or "image" in service, path.name
