"""Settings of a miner from the environment or `.env`; its command line takes precedence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class MinerSettings(BaseSettings):
    """Engines have settings of their own (`executors/engine/`); `.env.example` explains them all."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    amqp_url: SecretStr | None = None
    """The broker, for miners that use AMQP."""
    coordinator_public_key: str = ""
    """The keys that sign the coordinator's messages over AMQP, separated by commas."""
    fetch_allow_hosts: str = ""
    """Private hosts from which files may be fetched, separated by commas."""
    gpus: str = ""
    """`none`, or the GPUs of this machine as JSON; without it they are found."""
    job_memory_mb: Annotated[int, Field(ge=256)] | None = None
    """The most main memory for the processes of one job, in MiB; by default the slots share the machine's."""
    embedding_models_dir: Path | None = None
    """A folder with one subfolder per static model."""
    health_file: Path | None = None
    """Tells a container's health check until when the miner counts as registered (`cli/health_file.py`)."""
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
