"""The compose file fits the program: settings, keys and addresses are ones that it takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator.dev.servers.docker import POSTGRES_IMAGE, RABBITMQ_IMAGE
from coordinator.runtime.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    document = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    services: dict[str, Any] = document["services"]
    return services


def with_defaults(value: str) -> str:
    """What compose makes of `${NAME:-default}` where NAME is not set."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", value)


def test_the_coordinator_starts_with_these_settings(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every variable is a setting, and with the defaults they are a valid standard mode."""
    environment = services["coordinator"]["environment"]
    known = {name.upper() for name in Settings.model_fields}
    assert environment.keys() <= known

    monkeypatch.chdir(tmp_path)  # no .env of the checkout
    for name in known:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, with_defaults(value))
    settings = load_settings()

    assert settings.mode == "standard"
    assert settings.receipt_signing_key_hex is None
    assert settings.database_url is not None
    assert settings.amqp_url is not None
    assert "@postgres:5432/" in settings.database_url.get_secret_value()
    assert "@rabbitmq:5672/" in settings.amqp_url.get_secret_value()


def test_a_miner_s_key_is_one_that_the_coordinator_knows(services: dict[str, Any]) -> None:
    """Both miners speak with a key of MINER_API_KEYS, each under a name of its own."""
    keys = services["coordinator"]["environment"]["MINER_API_KEYS"].split(",")
    miners = [services["miner-1"], services["miner-2"]]

    for miner in miners:
        assert miner["environment"]["COORDINATOR_API_KEY"] in keys
        assert miner["environment"]["AMQP_URL"] == services["coordinator"]["environment"]["AMQP_URL"]
    names = [miner["command"][miner["command"].index("--name") + 1] for miner in miners]
    assert names == ["miner-1", "miner-2"]


def test_everything_waits_for_what_it_needs(services: dict[str, Any]) -> None:
    """The coordinator waits for healthy servers, the miners for a healthy coordinator."""
    waits = {
        name: {on: how["condition"] for on, how in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    assert waits["coordinator"] == {"rabbitmq": "service_healthy", "postgres": "service_healthy"}
    assert waits["miner-1"] == waits["miner-2"] == {"coordinator": "service_healthy"}
    assert all("test" in services[name]["healthcheck"] for name in ("rabbitmq", "postgres"))


def test_secrets_have_defaults_that_nobody_mistakes_for_secrets(services: dict[str, Any]) -> None:
    """Each secret comes from the environment; its default says that it is for development only."""
    text = (FOLDER / "compose.yaml").read_text()
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text))

    assert defaults.pop("APP_ENV") == "dev"
    assert defaults.pop("RECEIPT_SIGNING_KEY_HEX") == ""
    assert len(defaults) == 5
    assert all(default.startswith("dev-only-") for default in defaults.values())
    told = (FOLDER / "README.md").read_text()
    assert all(f"`{name}`" in told for name in defaults)


def test_the_same_servers_as_in_tests(services: dict[str, Any]) -> None:
    """Compose runs the server versions that the tests run where they use containers."""
    assert services["rabbitmq"]["image"] == RABBITMQ_IMAGE
    assert services["postgres"]["image"] == POSTGRES_IMAGE


def test_the_image_is_small_and_not_root() -> None:
    """The image's last stage runs as a numbered user, checks its health, and installs pinned versions."""
    text = (FOLDER / "Dockerfile").read_text()
    last = text.rpartition("\nFROM ")[2]

    assert re.search(r"^USER \d+$", last, re.MULTILINE)
    assert "/health" in last
    assert "-c constraints.txt" in text
    assert "pip" not in last.replace("--from=build", "")
