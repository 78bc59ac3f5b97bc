"""Settings: where they come from, and the one line that says what is wrong with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.domain.messages import Principal, Role
from coordinator.miner.settings import MinerSettings
from coordinator.runtime.settings import BadSettings, Settings, load_settings
from tests.harness.keys import holder_of

SECRET = "hunter2hunter2"
DATABASE, AMQP = f"postgresql://u:{SECRET}@db/c", f"amqp://u:{SECRET}@mq/"
Environment = Callable[..., None]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    """An environment without any of our settings, in a directory without a `.env`; sets those named."""
    monkeypatch.chdir(tmp_path)
    for name in {*Settings.model_fields, *MinerSettings.model_fields}:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)

    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def test_everything_has_a_default() -> None:
    """Without any setting it runs in one process, on this machine only."""
    settings = load_settings()
    assert ("embedded", "127.0.0.1", 8011, 900) == (
        settings.mode,
        settings.app_host,
        settings.app_port,
        settings.job_ttl_seconds,
    )
    assert (10, 30) == (settings.heartbeat_interval_seconds, settings.heartbeat_timeout_seconds)
    assert None is holder_of(settings.keyring, "anybody:anything")


def test_the_environment_is_read(environment: Environment) -> None:
    """Names are those of REQUIREMENTS, in either letter case."""
    environment(APP_PORT="9000", app_env="prod", JOB_TTL_SECONDS="60")
    settings = load_settings()
    assert (9000, "prod", 60) == (settings.app_port, settings.app_env, settings.job_ttl_seconds)


def test_a_file_is_read_and_the_environment_wins(environment: Environment, tmp_path: Path) -> None:
    """`.env` in the working directory holds what the environment does not say."""
    (tmp_path / ".env").write_text("APP_PORT=9000\nJOB_TTL_SECONDS=60\nUNRELATED=1\n")
    environment(APP_PORT="9001")
    settings = load_settings()
    assert (9001, 60) == (settings.app_port, settings.job_ttl_seconds)


def test_what_the_caller_says_wins(environment: Environment) -> None:
    """The command line and tests may set what the environment set otherwise."""
    environment(APP_PORT="9000")
    assert 1 == load_settings(app_port=1).app_port


def test_an_empty_setting_is_one_that_is_not_set(environment: Environment) -> None:
    """Compose files and copies of `.env.example` have `NAME=` lines."""
    environment(**{name.upper(): "" for name in Settings.model_fields})
    assert load_settings() == Settings(_env_file=None)


# --- modes -------------------------------------------------------------------------------------------------
def test_both_urls_make_it_standard(environment: Environment) -> None:
    """A database and a broker are asked for together."""
    environment(DATABASE_URL=DATABASE, AMQP_URL=AMQP)
    assert "standard" == load_settings().mode


@pytest.mark.parametrize(
    ("there", "missing"),
    [({"DATABASE_URL": DATABASE}, "AMQP_URL"), ({"AMQP_URL": AMQP}, "DATABASE_URL")],
    ids=["no broker", "no database"],
)
def test_one_url_alone_is_refused(environment: Environment, there: dict[str, str], missing: str) -> None:
    """Half of a set-up is a mistake, never quietly the embedded mode."""
    environment(**there)
    assert complaint().startswith(f"{missing}: set it too")


# --- lists -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("https://a.example", ("https://a.example",)),
        ("https://a.example,https://b.example", ("https://a.example", "https://b.example")),
        (" https://a.example , https://b.example ,, ", ("https://a.example", "https://b.example")),
        (" , ", ()),
        ("*", ("*",)),
        ("http://[::1]:3000,chrome-extension://abc", ("http://[::1]:3000", "chrome-extension://abc")),
    ],
)
def test_lists_are_comma_separated(environment: Environment, text: str, items: tuple[str, ...]) -> None:
    """Blanks around an item and empty items do not count."""
    environment(ALLOW_ORIGINS=text)
    assert items == load_settings().allow_origins


def test_keys_are_comma_separated_and_make_the_ring(environment: Environment) -> None:
    """Each list gives its own role; a caller may pass a list."""
    environment(
        CLIENT_API_KEYS=f"alice:{SECRET}, alice:another-{SECRET},",
        MINER_API_KEYS=f"rig:{SECRET}",
        ADMIN_API_KEYS=f"root:{SECRET}",
    )
    ring = load_settings().keyring
    assert Principal("alice", Role.CLIENT) == holder_of(ring, f"alice:another-{SECRET}")
    assert Principal("rig", Role.MINER) == holder_of(ring, f"rig:{SECRET}")
    assert Principal("root", Role.ADMIN) == holder_of(ring, f"root:{SECRET}")
    ring = load_settings(miner_api_keys=[f"other:{SECRET}"]).keyring
    assert Principal("other", Role.MINER) == holder_of(ring, f"other:{SECRET}")
    assert None is holder_of(ring, f"rig:{SECRET}")


# --- wrong values ------------------------------------------------------------------------------------------
def complaint(**overrides: Any) -> str:
    with pytest.raises(BadSettings) as bad:
        load_settings(**overrides)
    # A traceback shows what it came from, and with it the values.
    assert None is bad.value.__cause__
    assert None is bad.value.__context__ or bad.value.__suppress_context__
    return str(bad.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APP_ENV", SECRET),
        ("APP_PORT", SECRET),
        ("APP_PORT", "-1"),
        ("APP_PORT", "65536"),
        ("APP_PORT", "80.5"),
        ("WORK_QUEUE_TYPE", SECRET),
        ("JOB_TTL_SECONDS", "0"),
        ("JOB_TTL_SECONDS", "604801"),
        ("JOB_TTL_SECONDS", f"{SECRET}\n"),
        ("HEARTBEAT_INTERVAL_SECONDS", "0"),
        ("HEARTBEAT_INTERVAL_SECONDS", "nan"),
        ("HEARTBEAT_INTERVAL_SECONDS", "inf"),
        ("HEARTBEAT_TIMEOUT_SECONDS", "nan"),
        ("HEARTBEAT_TIMEOUT_SECONDS", "19.9"),  # less than two intervals
        ("OFFER_TIMEOUT_SECONDS", "-1"),
        ("MAX_BLOB_BYTES", "0"),
        ("RECEIPT_SIGNING_KEY_HEX", SECRET),
        ("RECEIPT_SIGNING_KEY_HEX", "ab" * 31),
        ("RECEIPT_SIGNING_KEY_HEX", "ab" * 33),
        ("RECEIPT_SIGNING_KEY_HEX", "hunter22" * 8),  # long enough, and not hex
        ("RECEIPT_SIGNING_KEY_HEX", "٣" * 64),
        ("LOG_FORMAT", SECRET),
        ("LOG_LEVEL", SECRET),
        ("CLIENT_API_KEYS", SECRET),
        ("CLIENT_API_KEYS", f"alice:{SECRET},bob"),
        ("MINER_API_KEYS", "rig:hunter2"),
        ("ADMIN_API_KEYS", f"ro.ot:{SECRET}"),
        ("ADMIN_API_KEYS", f"root:{SECRET}é"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting(
    environment: Environment, name: str, value: str
) -> None:
    """Which setting, and what it must be; never what it was."""
    environment(**{name: value})
    text = complaint()
    assert text.startswith(f"{name}: ")
    assert "\n" not in text
    assert "hunter" not in text


@pytest.mark.parametrize("key", ["ab" * 32, "AB" * 32], ids=["lower", "upper"])
def test_a_signing_key_is_64_hex_digits(key: str) -> None:
    """In either letter case, as it was given."""
    signing_key = load_settings(receipt_signing_key_hex=key).receipt_signing_key_hex
    assert signing_key is not None
    assert key == signing_key.get_secret_value()


def test_further_keys_are_secrets(environment: Environment) -> None:
    """Retired keys are separated by commas; no text of the settings shows a seed, nor does an error."""
    environment(RECEIPT_RETIRED_KEYS_HEX=f"{'ab' * 32}, {'cd' * 32}", RECEIPT_ATTESTATION_KEY_HEX="ef" * 32)
    settings = load_settings()
    assert ["ab" * 32, "cd" * 32] == [key.get_secret_value() for key in settings.receipt_retired_keys_hex]
    shown = f"{settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert all(seed * 8 not in shown for seed in ("ab", "cd", "ef"))
    for name in ("RECEIPT_RETIRED_KEYS_HEX", "RECEIPT_ATTESTATION_KEY_HEX"):
        environment(**{name: f"{'ab' * 31}xy"})
        told = complaint()
        assert told.startswith(name)
        assert "ab" * 8 not in told
        environment(**{name: ""})


def test_several_wrong_values_are_still_one_line(environment: Environment) -> None:
    """The first is said; the next start says the next."""
    environment(APP_PORT=SECRET, JOB_TTL_SECONDS=SECRET, LOG_LEVEL=SECRET)
    assert "\n" not in complaint()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"settlement_sink": "file"}, "SETTLEMENT_SINK: needs accounts"),
        ({"settlement_sink": "webhook", "settlement": "on"}, "SETTLEMENT_WEBHOOK_URL: set it, too"),
        ({"settlement_minimum": 0}, "SETTLEMENT_MINIMUM: "),
        ({"settlement_amount": -1}, "SETTLEMENT_AMOUNT: "),
        ({"settlement_sink": "bank"}, "SETTLEMENT_SINK: "),
    ],
)
def test_settings_of_a_sink_fit_together(
    environment: Environment, given: dict[str, object], named: str
) -> None:
    """The setting that is missing or wrong is named."""
    with pytest.raises(BadSettings, match=f"^{named}"):
        load_settings(**given)


def test_the_timeout_is_at_least_twice_the_interval(environment: Environment) -> None:
    """One lost heartbeat ends no session."""
    environment(HEARTBEAT_INTERVAL_SECONDS="15", HEARTBEAT_TIMEOUT_SECONDS="30")
    assert 30 == load_settings().heartbeat_timeout_seconds


def test_settings_show_no_secret(environment: Environment) -> None:
    """Printed or dumped as JSON, keys and urls with passwords are stars."""
    environment(
        DATABASE_URL=DATABASE,
        AMQP_URL=AMQP,
        CLIENT_API_KEYS=f"alice:{SECRET}",
        MINER_API_KEYS=f"rig:{SECRET}",
        ADMIN_API_KEYS=f"root:{SECRET}",
        RECEIPT_SIGNING_KEY_HEX="deadbeef" * 8,
    )
    settings = load_settings()
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "hunter" not in text
        assert "deadbeef" not in text


def test_settings_do_not_change() -> None:
    """A process runs under the settings that it started with."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings().app_port = 1  # type: ignore[misc]


def test_production_refuses_the_secrets_that_are_shipped_for_trying_it_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """APP_ENV=prod names the setting and shows no secret; elsewhere the same key is fine."""
    key = "app:dev-only-client-secret"
    assert holder_of(Settings(_env_file=None, client_api_keys=key).keyring, key) is not None
    with pytest.raises(BadSettings, match=r"^CLIENT_API_KEYS: with APP_ENV=prod") as refused:
        load_settings(_env_file=None, app_env="prod", client_api_keys=key)
    assert "client-secret" not in str(refused.value)


# --- limits and signatures ---------------------------------------------------------------------------------
def test_limits_hold_in_production_only() -> None:
    """What nobody set limits nobody on a laptop; in production it does, each role by its own measure."""
    assert {0} == set(load_settings().rate_limits.values())
    prod = load_settings(app_env="prod")
    assert (60, 60) == (prod.rate_limits["client"], prod.rate_limit_window_seconds)
    assert prod.rate_limits["client"] < prod.rate_limits["admin"] < prod.rate_limits["miner"]
    assert prod.rate_limits["failures"] > 0


def test_limits_are_what_is_set(environment: Environment) -> None:
    """In either environment; 0 is any number."""
    environment(RATE_LIMIT_REQUESTS="5", RATE_LIMIT_MINER_REQUESTS="0")
    for app_env in ("dev", "prod"):
        limits = load_settings(app_env=app_env).rate_limits
        assert (5, 0) == (limits["client"], limits["miner"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RATE_LIMIT_REQUESTS", "-1"),
        ("RATE_LIMIT_WINDOW_SECONDS", "0"),
        ("RATE_LIMIT_REDIS_URL", f"http://:{SECRET}@redis/"),
        ("HMAC_SECRET", "too-short"),
        ("HMAC_WINDOW_SECONDS", "0"),
    ],
)
def test_a_bad_limit_stops_the_start(environment: Environment, name: str, value: str) -> None:
    """With its name, and without its value."""
    environment(**{name: value})
    with pytest.raises(BadSettings, match=name) as bad:
        load_settings()
    assert SECRET not in str(bad.value)
    assert "too-short" not in str(bad.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APP_HOST", f"a b{SECRET}"),
        ("DATABASE_URL", f"mysql://u:{SECRET}@db/c"),
        ("AMQP_URL", f"http://u:{SECRET}@mq/"),
        ("AMQP_URL", f"amqp://u:a/{SECRET}@mq/"),  # a slash in a password ends the host
        ("BLOB_STORE", f"ftp://u:{SECRET}@host/"),
        ("ALLOW_ORIGINS", f'["{SECRET}"]'),  # a list is comma separated, never JSON
        ("ALLOW_ORIGINS", f"https://a.example/{SECRET}"),
    ],
)
def test_a_bad_address_stops_the_start(environment: Environment, name: str, value: str) -> None:
    """With its name, and without its value, which may hold a secret."""
    environment(**{"DATABASE_URL": DATABASE, "AMQP_URL": AMQP, name: value})
    with pytest.raises(BadSettings, match=f"^{name}: ") as bad:
        load_settings()
    assert SECRET not in str(bad.value)


def test_a_dotenv_file_that_is_no_text(tmp_path: Path) -> None:
    """Is a setting that can't be used, and no traceback."""
    (tmp_path / ".env").write_bytes(b"APP_PORT=\xff")
    with pytest.raises(BadSettings, match=r"^\.env: "):
        load_settings()


def test_miners_read_dotenv_too(environment: Environment, tmp_path: Path) -> None:
    """The broker, hosts to fetch from and a folder of models may be in `.env`; the environment goes first."""
    (tmp_path / ".env").write_text(f"AMQP_URL={AMQP}\nFETCH_ALLOW_HOSTS=a,b\nEMBEDDING_MODELS_DIR=models\n")
    environment(FETCH_ALLOW_HOSTS="c")
    read = MinerSettings()
    assert read.amqp_url is not None
    assert (AMQP, "c", Path("models")) == (
        read.amqp_url.get_secret_value(),
        read.fetch_allow_hosts,
        read.embedding_models_dir,
    )


def test_proxies_are_addresses_and_networks(environment: Environment) -> None:
    """Without a setting this machine is trusted; names, and everybody at once, are refused."""
    assert () == load_settings().forwarded_allow_ips
    environment(FORWARDED_ALLOW_IPS="172.18.0.1, 10.0.0.0/24,2001:db8::1")
    assert ("172.18.0.1", "10.0.0.0/24", "2001:db8::1") == load_settings().forwarded_allow_ips
    for wrong in ("*", "proxy.example.org", "10.0.0.1/24"):
        environment(FORWARDED_ALLOW_IPS=wrong)
        with pytest.raises(BadSettings, match=r"FORWARDED_ALLOW_IPS.*must be addresses or networks"):
            load_settings()
