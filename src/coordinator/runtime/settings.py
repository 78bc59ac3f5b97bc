"""Settings, from the environment (and a `.env` file). An invalid one stops the start with one clear line."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from coordinator.application.keys.keyring import BadKey, Keyring
from coordinator.application.proof.addresses import WitnessAddress
from coordinator.crypto.api_keys import KeySecrets
from coordinator.domain.messages import Millis, Role
from coordinator.domain.quota import Limits
from coordinator.runtime.money.settings import MoneySettings
from coordinator.validation import first_invalid_field
from coordinator.wire.http.urls import check_amqp_url, parse_allowed

DEVELOPMENT_PREFIX = "dev-only-"
"""The prefix of the secrets in the container files, which are for trials only."""
Mode = Literal["embedded", "standard"]
Keys = Annotated[tuple[SecretStr, ...], NoDecode]
RateLimit = Annotated[int, Field(ge=0, le=10_000_000)] | None
"""Requests in a window; 0 for any number, None for the default of APP_ENV."""
Limit = Annotated[int, Field(ge=0, le=1_000_000)]
"""The most connections or streams at a time; 0 for any number."""
KEY_SETTINGS = ("client_api_keys", "miner_api_keys", "viewer_api_keys", "operator_api_keys", "admin_api_keys")
RATE_LIMITS = {"client": 60, "miner": 6000, "admin": 600, "failures": 30}
"""Requests allowed in a window with APP_ENV=prod; otherwise only the limits in the settings apply.

A miner's key may serve many nodes, each of which polls, reports and sends heartbeats. A failure is a request
with an invalid key, counted by its address.
"""


COMMANDS_PER_MINUTE = 600_000
"""Commands that a name may send with APP_ENV=prod; otherwise only a limit in the settings applies."""
Quota = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""A limit of each name; 0 for none."""
Hours = Annotated[int, Field(ge=0, le=876_000)]
"""An age at which something is removed; 0 for never."""


_SEED = re.compile(r"[0-9a-fA-F]{64}")
_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?"
)


class BadSettings(Exception):
    """Invalid settings; the text is one line that names the setting and the reason, and shows no value."""


class Settings(MoneySettings):
    """All settings; `.env.example` lists them with their meaning."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    app_env: Literal["dev", "test", "prod"] = "dev"
    app_host: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:%-]+$")] = "127.0.0.1"
    app_port: Annotated[int, Field(ge=0, le=65535)] = 8011
    edges: Annotated[int, Field(ge=0, le=64)] = 0
    """Edge processes of `serve`; 0: the coordinator's process speaks HTTP itself."""
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    data_dir: Path = Path("coordinator-data")
    database_url: SecretStr | None = None
    amqp_url: SecretStr | None = None
    broker_users: Literal["shared", "keys"] = "shared"
    """`keys`: each API key is a user of the broker (see `broker.auth`), which names the sender."""
    broker_auth_host: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:%-]+$")] = "127.0.0.1"
    broker_auth_port: Annotated[int, Field(ge=0, le=65535)] = 8012
    broker_management_url: SecretStr | None = None
    work_queue_type: Literal["classic", "quorum"] = "classic"
    blob_store: str | None = None

    client_api_keys: Keys = ()
    miner_api_keys: Keys = ()
    viewer_api_keys: Keys = ()
    operator_api_keys: Keys = ()
    admin_api_keys: Keys = ()
    hmac_secret: Annotated[SecretStr, Field(min_length=16)] | None = None
    hmac_window_seconds: Annotated[int, Field(ge=1, le=3600)] = 300
    allow_origins: Annotated[tuple[str, ...], NoDecode] = ()
    forwarded_allow_ips: Annotated[tuple[str, ...], NoDecode] = ()
    """Proxies (addresses, networks) whose X-Forwarded-For and -Proto count; empty: this machine's."""

    rate_limit_requests: RateLimit = None
    rate_limit_miner_requests: RateLimit = None
    rate_limit_admin_requests: RateLimit = None
    rate_limit_failures: RateLimit = None
    rate_limit_window_seconds: Annotated[int, Field(ge=1, le=86_400)] = 60
    rate_limit_redis_url: SecretStr | None = None

    quota_queued_jobs: Quota = 1_000_000
    quota_stored_bytes: Quota = 100 * 2**30
    quota_commands_per_minute: RateLimit = None
    quota_miners: Quota = 10_000
    quota_profiles: Quota = 1_000
    max_client_priority: Annotated[int, Field(ge=0, le=9)] = 9
    blob_expiry_hours: Hours = 168
    retention_payload_hours: Hours = 0
    retention_result_hours: Hours = 0
    retention_miner_hours: Hours = 720
    expiry_interval_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60
    max_connections: Limit | None = None
    max_connections_per_address: Limit | None = None
    max_connections_per_key: Limit | None = None
    max_streams: Limit | None = None
    max_streams_per_key: Limit = 100

    job_ttl_seconds: Annotated[int, Field(ge=1, le=604_800)] = 900
    openai_timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600
    heartbeat_interval_seconds: Annotated[float, Field(gt=0, le=600)] = 10
    heartbeat_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 30
    offer_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 10
    private_payloads: bool = False
    metrics_public: bool = False
    max_blob_bytes: Annotated[int, Field(ge=1)] = 5 * 2**30
    fetch_allow_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    webhook_allow_private: bool = False
    webhook_timeout_seconds: Annotated[float, Field(ge=1, le=60)] = 15
    webhook_concurrency: Annotated[int, Field(ge=1, le=1000)] = 32
    """Messages under way at a time, in all."""
    webhook_log_hours: Hours = 168
    receipt_signing_key_hex: SecretStr | None = None
    receipt_retired_keys_hex: Keys = ()
    receipt_attestation_key_hex: SecretStr | None = None
    log_origin: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}$")] | None = None
    witnesses: Annotated[tuple[str, ...], NoDecode] = ()
    witness_quorum: Annotated[int, Field(ge=0, le=16)] = 0
    """Cosignatures that a checkpoint needs to be published."""
    checkpoint_file: str | None = None
    """Where the last signed checkpoint is kept outside of the database; `off` for nowhere."""

    ui_enabled: bool = True
    ui_read_only: bool = False
    ui_base_path: Annotated[str, Field(pattern=r"^((/[A-Za-z0-9._~-]+)+)?$")] = ""
    """The path of the dashboard behind a proxy, which removes it: its links begin with it."""
    ui_session_hours: Annotated[int, Field(ge=1, le=720)] = 12

    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator(
        "client_api_keys",
        "miner_api_keys",
        "viewer_api_keys",
        "operator_api_keys",
        "admin_api_keys",
        "allow_origins",
        "forwarded_allow_ips",
        "fetch_allow_hosts",
        "receipt_retired_keys_hex",
        "witnesses",
        mode="before",
    )
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("receipt_signing_key_hex", "receipt_attestation_key_hex")
    @classmethod
    def _key_in_hex(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not _SEED.fullmatch(key.get_secret_value()):
            raise ValueError("must be 64 hex digits")
        return key

    @field_validator("receipt_retired_keys_hex")
    @classmethod
    def _keys_in_hex(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(_SEED.fullmatch(key.get_secret_value()) for key in keys):
            raise ValueError("each must be 64 hex digits, separated by commas")
        return keys

    @field_validator("witnesses")
    @classmethod
    def _witnesses(cls, witnesses: tuple[str, ...]) -> tuple[str, ...]:
        names = [WitnessAddress.parse(text).key.name for text in witnesses]
        if len(set(names)) < len(names):
            raise ValueError("each witness once, by a name of its own")
        return witnesses

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return url

    @field_validator("amqp_url")
    @classmethod
    def _amqp(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            check_amqp_url(url.get_secret_value())
        return url

    @field_validator("broker_management_url")
    @classmethod
    def _management(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return url

    @field_validator("blob_store")
    @classmethod
    def _store(cls, where: str | None) -> str | None:
        if where is not None and "://" in where:
            if not where.startswith("s3://"):
                raise ValueError("must be a directory, or s3://bucket/prefix")
            if find_spec("boto3") is None:
                raise ValueError("needs the package boto3: install coordinator[s3]")
        return where

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _proxies(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                ip_network(proxy)
            except ValueError:
                raise ValueError("must be addresses or networks, such as 172.18.0.1 or 10.0.0.0/24") from None
        return proxies

    @field_validator("allow_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError("each must be an origin such as https://example.org, without a path")
        return origins

    @field_validator("fetch_allow_hosts")
    @classmethod
    def _hosts(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(parse_allowed(entries)))

    @field_validator("rate_limit_redis_url")
    @classmethod
    def _redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            if not url.get_secret_value().startswith(("redis://", "rediss://")):
                raise ValueError("must begin with redis:// or rediss://")
            if find_spec("redis") is None:
                raise ValueError("needs the package redis: install coordinator[redis]")
        return url

    @property
    def mode(self) -> Mode:
        """Decided by DATABASE_URL and AMQP_URL alone."""
        return "standard" if self.database_url and self.amqp_url else "embedded"

    @cached_property
    def keyring(self) -> Keyring:
        """The keys of the settings alone."""
        return self.new_keyring()

    @property
    def rate_limits(self) -> dict[str, int]:
        """Requests in a window, by role and for failures; 0 for any number."""
        given = {
            "client": self.rate_limit_requests,
            "miner": self.rate_limit_miner_requests,
            "admin": self.rate_limit_admin_requests,
            "failures": self.rate_limit_failures,
        }
        usual = RATE_LIMITS if self.app_env == "prod" else dict.fromkeys(RATE_LIMITS, 0)
        limits = {name: usual[name] if value is None else value for name, value in given.items()}
        return {**limits, "viewer": limits["admin"], "operator": limits["admin"]}

    @property
    def limits(self) -> Limits:
        """The limits of a name that has none of its own."""
        per_minute = self.quota_commands_per_minute
        if per_minute is None:
            per_minute = COMMANDS_PER_MINUTE if self.app_env == "prod" else 0
        return Limits(
            queued_jobs=self.quota_queued_jobs or None,
            stored_bytes=self.quota_stored_bytes or None,
            commands_per_minute=per_minute or None,
            miners=self.quota_miners or None,
            profiles=self.quota_profiles or None,
            max_priority=self.max_client_priority,
        )

    def new_keyring(
        self, secrets: KeySecrets | None = None, now: Callable[[], Millis] | None = None
    ) -> Keyring:
        """A new keyring with the keys of the settings; more keys may be added. Raises BadKey."""
        keys = {
            Role.CLIENT: self.client_api_keys,
            Role.MINER: self.miner_api_keys,
            Role.VIEWER: self.viewer_api_keys,
            Role.OPERATOR: self.operator_api_keys,
            Role.ADMIN: self.admin_api_keys,
        }
        plain = {role: [key.get_secret_value() for key in those] for role, those in keys.items()}
        hmac_secret = self.hmac_secret.get_secret_value() if self.hmac_secret else None
        clock = {} if now is None else {"now": now}
        return Keyring(plain, hmac_secret=hmac_secret, secrets=secrets, **clock)


def load_settings(**overrides: object) -> Settings:
    """The settings from the environment; `overrides` take precedence. Raises BadSettings."""
    try:
        settings = Settings(**overrides)  # type: ignore[arg-type]
        settings.keyring  # noqa: B018 - read the keys now, so that a bad one stops the start
    except ValidationError as error:
        first = first_invalid_field(error)
        name = first.where.partition(".")[0].upper() or "settings"
        raise BadSettings(f"{name}: {first.why}") from None
    except BadKey as error:
        raise BadSettings(str(error)) from None
    except UnicodeDecodeError:
        raise BadSettings(".env: not UTF-8 text") from None
    if bool(settings.database_url) != bool(settings.amqp_url):
        missing = "AMQP_URL" if settings.database_url else "DATABASE_URL"
        raise BadSettings(f"{missing}: set it too, or neither (then everything runs in one process)")
    if bool(settings.tls_cert_file) != bool(settings.tls_key_file):
        missing = "TLS_KEY_FILE" if settings.tls_cert_file else "TLS_CERT_FILE"
        raise BadSettings(f"{missing}: set it too, or neither (then the server speaks plain HTTP)")
    if settings.witness_quorum > len(settings.witnesses):
        raise BadSettings("WITNESS_QUORUM: more than there are WITNESSES, so nothing would be published")
    if fault := settings.sink_fault():
        raise BadSettings(fault)
    if settings.app_env == "prod":
        _check_production(settings)
    if settings.heartbeat_timeout_seconds < 2 * settings.heartbeat_interval_seconds:
        raise BadSettings("HEARTBEAT_TIMEOUT_SECONDS: must be at least twice HEARTBEAT_INTERVAL_SECONDS")
    return settings


def _check_production(settings: Settings) -> None:
    """Raises BadSettings for a setting that is fine on a laptop but not on a server."""
    for name in KEY_SETTINGS:
        for key in getattr(settings, name):
            if key.get_secret_value().partition(":")[2].startswith(DEVELOPMENT_PREFIX):
                raise BadSettings(f"{name.upper()}: with APP_ENV=prod, use a secret of your own")
