"""What a miner takes from the environment or `.env`, where its command line says nothing."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class MinerSettings(BaseSettings):
    """Engines have settings of their own (`executors/engine.py`); `.env.example` explains them all."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    amqp_url: SecretStr | None = None
    """The broker, for those that do not speak HTTP alone."""
    fetch_allow_hosts: str = ""
    """Hosts that files may come from though they are not public, separated by commas."""
    embedding_models_dir: Path | None = None
    """A folder with one static model a subfolder."""
