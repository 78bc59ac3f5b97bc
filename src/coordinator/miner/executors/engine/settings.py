"""The settings of one engine: its address, its key, and names for its models."""

from __future__ import annotations

from typing import Annotated

import httpx
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from coordinator.services.model_names import RULE, is_model_name


class EngineSettings(BaseSettings):
    """One engine, from the environment or `.env`. Without a `url` there is no engine."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    url: str | None = None
    """Such as http://127.0.0.1:8000/v1; the /v1 may be left out."""
    key: SecretStr | None = None
    """Sent as a bearer token; never logged, never in a result."""
    models: Annotated[dict[str, str], NoDecode] = {}
    """Names in jobs → the engine's names, from `mistral-7b=mistral:7b-instruct,llama-7b=…`."""
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """The longest silence of the engine in the middle of a job."""

    @field_validator("url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError("must be an http:// or https:// address")
        base = url.rstrip("/")
        return base if base.endswith("/v1") else f"{base}/v1"

    @field_validator("models", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if not all(equals and name.strip() and target.strip() for name, equals, target in pairs):
            raise ValueError("must be name=engine's name, separated by commas")
        if not all(is_model_name(name.strip()) for name, _, _ in pairs):
            raise ValueError(f"invalid name of a model; a name has {RULE}")
        return {name.strip(): target.strip() for name, _, target in pairs}
