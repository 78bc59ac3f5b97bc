"""The client of an engine: any server with OpenAI's HTTP API that the miner's owner runs.

vLLM, llama.cpp's server, Ollama, LocalAI, speaches and others have it. Each kind of work has settings of its
own, as one machine often runs several engines: LLM_ENGINE_URL, EMBEDDING_ENGINE_URL, SPEECH_ENGINE_URL and
IMAGE_ENGINE_URL, and for each of them …_KEY, …_MODELS and …_TIMEOUT_SECONDS.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import httpx
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from coordinator.miner.executors.base import (
    ENGINE_UNAVAILABLE,
    EXECUTOR_FAILED,
    INVALID_PAYLOAD,
    OUTPUT_TOO_LARGE,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.services.model_names import RULE, is_model_name, name_of_path
from coordinator.validation import first_invalid_field
from coordinator.wire.proxies import BadProxy, new_client

CONNECT_SECONDS: Final = 10.0
CHECK_SECONDS: Final = 10.0
CHECK_TRIES: Final = 2
"""A busy engine may miss one deadline; a dead one refuses at once."""
MAX_MODELS: Final = 400
MAX_ANSWER_BYTES: Final = 64 << 20
MAX_STREAM_BYTES: Final = 512 << 20
"""Of an answer with probabilities: an event has a kilobyte for a token. The model ends it much earlier."""
MAX_LINE_BYTES: Final = 1 << 20
_REFUSAL_CHARACTERS: Final = 300
_UNAVAILABLE: Final = (429, 502, 503, 504)
"""The statuses of an engine that is overloaded, still loading, or missing behind its proxy."""
_LABEL: Final = re.compile(r"[^\x00-\x1f]{1,1000}")


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


class Engine:
    """One OpenAI-compatible server. `kind` is the settings' prefix: LLM, EMBEDDING, SPEECH or IMAGE.

    `recognise` gives the catalogue's name of one of the engine's models, or None. If a service knows only the
    catalogue's names (`closed`), models without such a name are not offered.
    """

    def __init__(
        self,
        kind: str,
        settings: EngineSettings | None = None,
        *,
        recognise: Callable[[str], str | None] = lambda _: None,
        closed: bool = False,
    ) -> None:
        self.kind = kind
        self._recognise = recognise
        self._closed = closed
        self.setting = f"{kind}_ENGINE_URL"
        self.models: tuple[str, ...] = ()
        """The engine's own names; empty before `check`."""
        self.notes: tuple[str, ...] = ()
        """Models of the engine that are offered by another name, or not at all; for the miner's owner."""
        self._names: dict[str, str] = {}
        self._settings = settings
        self._client: httpx.AsyncClient | None = None

    def settings(self) -> EngineSettings:
        """The settings of this engine. Raises ValueError, which shows no value."""
        if self._settings is None:
            try:
                self._settings = EngineSettings(_env_prefix=f"{self.kind}_ENGINE_")
            except ValidationError as error:
                where, why, _ = first_invalid_field(error)
                raise ValueError(f"{self.kind}_ENGINE_{where.upper()}: {why}") from None
        return self._settings

    async def check(self) -> str | None:
        """Ask for the engine's models. None if it has a usable one, otherwise the reason."""
        try:
            settings = self.settings()
        except ValueError as error:
            return str(error)
        if settings.url is None:
            return f"{self.setting} is not set"
        problem = ""
        for _ in range(CHECK_TRIES):
            try:
                answer = await self._json("GET", "models", timeout=httpx.Timeout(CHECK_SECONDS))
            except ExecutorError as error:
                problem = error.detail
                if "in time" not in problem:
                    break
            else:
                self._keep(_models_in(answer))
                return None if self._names else self._no_models()
        self.forget()
        return problem

    def forget(self) -> None:
        """Offer nothing until the next check."""
        self._keep(())

    def _keep(self, models: tuple[str, ...]) -> None:
        """Set the models, and the names for them that jobs may use; later names win."""
        self.models = models
        names: dict[str, str] = {}
        for model in models:
            known = self._recognise(model)
            if known is not None and is_model_name(known):
                names[known.lower()] = model
        notes = []
        for model in () if self._closed else models:
            if is_model_name(model):
                names[model.lower()] = model
        for model in () if self._closed else models:
            # Jobs can't ask for a path, and nobody shall read one: its last part is a name.
            if not is_model_name(model) and (last := name_of_path(model)):
                names.setdefault(last.lower(), model)
        here = {model.lower(): model for model in models}
        for name, target in self.settings().models.items():
            if target.lower() in here and is_model_name(name):
                names[name.lower()] = here[target.lower()]
        offered = set(names.values())
        for model in () if self._closed else models:
            if not is_model_name(model):
                its = [name for name, target in names.items() if target == model]
                setting = f"{self.kind}_ENGINE_MODELS"
                notes.append(
                    f"{model!r} is offered as {', '.join(its)}"
                    if model in offered
                    else f"{model!r} is not offered: jobs can't ask for this name; give it one with {setting}"
                )
        self._names, self.notes = names, tuple(notes)

    def _no_models(self) -> str:
        if not self.models:
            return "the engine has no model"
        if not self._closed:
            return f"jobs can't ask for its models by their names; set {self.kind}_ENGINE_MODELS"
        return f"the engine has no model that the service knows; map one with {self.kind}_ENGINE_MODELS"

    def name_of(self, model: str) -> str:
        """The engine's name for a job's model. Raises ExecutorError: UNSUPPORTED if it has no such model."""
        name = self._names.get(model.lower())
        if name is None:
            raise ExecutorError(UNSUPPORTED, f"this miner has no model {model}", retryable=True)
        return name

    @property
    def offered(self) -> tuple[str, ...]:
        """Names to advertise, in lower case, in which models are compared."""
        return tuple(sorted(self._names))

    async def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        data: Mapping[str, Any] | None = None,
        files: Any = None,
    ) -> Any:
        """POST JSON (`body`) or a form (`data`, `files`); returns the answer's JSON. Raises ExecutorError."""
        return await self._json("POST", path, json=body, data=data, files=files)

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """POST JSON, and yield each server-sent event of the answer. Raises ExecutorError.

        To close the iterator closes the connection, which stops such engines. If the stream ends before its
        `[DONE]`, the error is ENGINE_UNAVAILABLE.
        """
        async with self._request("POST", path, json=body) as response:
            received, rest = 0, b""
            async for chunk in response.aiter_bytes():
                received += len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                if received > MAX_STREAM_BYTES or len(rest) > MAX_LINE_BYTES:
                    raise ExecutorError(OUTPUT_TOO_LARGE, "the engine's answer is too large")
                for line in lines:
                    data = line.strip().removeprefix(b"data:").strip()
                    if data == line.strip():
                        continue  # a comment, an empty line or another field
                    if data == b"[DONE]":
                        return
                    yield self._event(data)
        raise ExecutorError(ENGINE_UNAVAILABLE, "the engine's answer was cut short", retryable=True)

    def _event(self, data: bytes) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise ExecutorError(EXECUTOR_FAILED, "the engine sent an invalid event", retryable=True)
        if event.get("error"):
            raise ExecutorError(EXECUTOR_FAILED, self._message_of(event), retryable=True)
        return event

    async def _json(self, method: str, path: str, **request: Any) -> Any:
        async with self._request(method, path, **request) as response:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise ExecutorError(OUTPUT_TOO_LARGE, "the engine's answer is too large")
        try:
            return json.loads(content)
        except ValueError:
            raise ExecutorError(EXECUTOR_FAILED, "the engine's answer is not JSON", retryable=True) from None

    @asynccontextmanager
    async def _request(self, method: str, path: str, **request: Any) -> AsyncIterator[httpx.Response]:
        settings = self.settings()
        if settings.url is None:
            raise ExecutorError(UNSUPPORTED, f"{self.setting} is not set", retryable=True)
        try:
            connection = self._connection(settings)
        except BadProxy as error:
            raise _unavailable(str(error)) from None
        try:
            async with connection.stream(method, f"{settings.url}/{path}", **request) as response:
                if not response.is_success:
                    await self._raise_for_status(response)
                yield response
        except httpx.TimeoutException:
            raise _unavailable("the engine does not answer in time") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _unavailable(f"the engine can't be reached ({type(error).__name__})") from None

    def _connection(self, settings: EngineSettings) -> httpx.AsyncClient:
        if self._client is None:
            key = settings.key.get_secret_value() if settings.key else None
            self._client = new_client(
                settings.url or "",
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(settings.timeout_seconds, connect=CONNECT_SECONDS),
                limits=httpx.Limits(max_connections=None),
            )
        return self._client

    async def _raise_for_status(self, response: httpx.Response) -> None:
        """Raise ExecutorError for a status. 4xx means a bad job, except 401 and 403: the miner's own key."""
        status = response.status_code
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise _unavailable(f"the engine does not accept this miner's {self.kind}_ENGINE_KEY")
        if status == httpx.codes.NOT_FOUND:
            raise ExecutorError(UNSUPPORTED, "the engine has no such model or function", retryable=True)
        if status in _UNAVAILABLE or status < 400:
            raise _unavailable(f"the engine answers with status {status}")
        content = b""
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > MAX_LINE_BYTES:
                break
        try:
            message = self._message_of(json.loads(content))
        except ValueError:
            message = f"status {status}"
        if status >= 500:
            raise ExecutorError(EXECUTOR_FAILED, f"the engine failed: {message}", retryable=True)
        raise ExecutorError(INVALID_PAYLOAD, f"the engine refuses this: {message}")

    def _message_of(self, answer: Any) -> str:
        """The message of an engine's error, without addresses, paths and the miner's key."""
        error = answer.get("error", answer) if isinstance(answer, dict) else None
        text = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        if not isinstance(text, str):
            return "no reason given"
        key = self.settings().key
        if key is not None:
            text = text.replace(key.get_secret_value(), "…")
        # The pattern takes quadratic time, and an engine may repeat a client's whole text.
        text = text[: 10 * _REFUSAL_CHARACTERS]
        text = re.sub(r"\w+://\S+|(?<!\w)~?/[\w.+-]+(/\S*)?|\b\d{1,3}(\.\d{1,3}){3}(:\d+)?", "…", text)
        return " ".join(text.split())[:_REFUSAL_CHARACTERS]


def _unavailable(detail: str) -> ExecutorError:
    return ExecutorError(ENGINE_UNAVAILABLE, detail, retryable=True)


def _models_in(answer: Any) -> tuple[str, ...]:
    """The ids in an answer of `/v1/models`; invalid names are left out."""
    data = answer.get("data") if isinstance(answer, dict) else None
    ids = [item.get("id") for item in data if isinstance(item, dict)] if isinstance(data, list) else []
    names = {name for name in ids if isinstance(name, str) and _LABEL.fullmatch(name)}
    return tuple(sorted(names)[:MAX_MODELS])
