"""The configuration of a miner program."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from coordinator.domain.matching.gpus import Gpu
from coordinator.domain.matching.needs import Capabilities, UnitPrice
from coordinator.domain.messages import NAME
from coordinator.miner.gpus.setting import BadSetting, read_setting
from coordinator.validation import first_invalid_field
from coordinator.wire.http.urls import check_amqp_url, parse_allowed

DEFAULT_KEY_FILE = Path.home() / ".config" / "coordinator" / "miner.key"
DEFAULT_GRACE_SECONDS = 30.0
DEFAULT_RECHECK_SECONDS = 30.0


class BadConfig(ValueError):
    """The miner's configuration is invalid; the message names the value, never a secret."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """GPUs of this machine, and the newest CUDA version that its driver supports."""

    gpus: tuple[Gpu, ...] = ()
    cuda: str | None = None


@dataclass(frozen=True, slots=True)
class MinerConfig:
    """One miner process."""

    key: str = field(repr=False)
    """`name:secret`; the name is the principal."""
    node: str | None = None
    """Names this machine if one principal runs several."""
    concurrency: int = 1
    """Jobs at the same time."""
    coordinator_url: str = "http://127.0.0.1:8011"
    """For blobs; without `amqp_url`, for everything."""
    amqp_url: str | None = field(default=None, repr=False)
    coordinator_keys: tuple[str, ...] = ()
    """The coordinator's public keys, for messages over AMQP; without one, the key of its first answer."""
    key_file: Path = DEFAULT_KEY_FILE
    """The Ed25519 key that signs statements; made on first use."""
    hardware: Hardware | None = None
    """None: the GPUs that `gpus` names, or else those that are found on this machine."""
    gpus: str = ""
    """The setting GPUS (`miner/gpus/setting.py`)."""
    models: tuple[str, ...] = ()
    region: str | None = None
    price: str | None = None
    """The price of one GPU second, a decimal string. None takes the registry's list price."""
    prices: Mapping[str, str] = field(default_factory=dict)
    """The prices of counted units (`image`, `output_token`, …); the registry's list price for others."""
    grace_seconds: float = DEFAULT_GRACE_SECONDS
    """How long a stop waits for running jobs."""
    recheck_seconds: float = DEFAULT_RECHECK_SECONDS
    """Time between checks of the engines; a job that can't reach its engine causes a check at once."""
    work_folder: Path | None = None
    """The folder of the jobs' temporary folders; None is the system's."""
    job_memory_bytes: int | None = None
    """The main memory for the processes of one job; None divides the machine's among the slots."""

    fetch_allow_hosts: tuple[str, ...] = ()
    """Private hosts (`host` or `host:port`) from which inputs may be fetched."""

    def __post_init__(self) -> None:
        name, _, secret = self.key.partition(":")
        if not re.fullmatch(NAME, name) or not secret:
            raise BadConfig("the API key must be name:secret")
        if self.node is not None and not re.fullmatch(NAME, self.node):
            raise BadConfig("the node name must be at most 63 letters, digits, - and _")
        if not 1 <= self.concurrency <= 1024:
            raise BadConfig("the concurrency must be 1 to 1024")
        if self.recheck_seconds <= 0:
            raise BadConfig("the time between checks must be positive")
        if self.grace_seconds < 0:
            raise BadConfig("the grace period must not be negative")
        if self.amqp_url is not None:
            try:
                check_amqp_url(self.amqp_url)
            except ValueError as error:
                raise BadConfig(f"the broker's address (AMQP_URL) {error}") from None
        try:
            read_setting(self.gpus)
        except BadSetting as error:
            raise BadConfig(f"GPUS: {error}") from None
        try:
            parse_allowed(self.fetch_allow_hosts)
        except ValueError as error:
            raise BadConfig(f"hosts to fetch from: {error}") from None

    @property
    def principal(self) -> str:
        return self.key.partition(":")[0]

    @property
    def miner_id(self) -> str:
        """`node@principal`, or the principal's name alone."""
        return f"{self.node}@{self.principal}" if self.node else self.principal

    def capabilities(
        self, services: Sequence[str], hardware: Hardware, *, models: Sequence[str] | None = None
    ) -> Capabilities:
        """The capabilities to register, with `models` or the miner's own. Raises BadConfig."""
        try:
            return Capabilities(
                services=tuple(services),
                gpus=hardware.gpus,
                cuda=hardware.cuda,
                models=self.models if models is None else tuple(models),
                region=self.region,
                price=self.price,
                prices=tuple(
                    UnitPrice.model_validate({"unit": u, "amount": a}) for u, a in self.prices.items()
                ),
            )
        except ValidationError as error:
            first = first_invalid_field(error).text("capabilities")
            raise BadConfig(f"invalid capabilities: {first}") from None


def new_session_id() -> str:
    """A new, unique session id."""
    return secrets.token_hex(12)
