"""The client of one engine: its models and their names, requests, and one code for each cause of failure."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from pydantic import ValidationError

from coordinator.miner.executors.engine.reasons import reason_in, reason_in_json
from coordinator.miner.executors.engine.settings import EngineSettings
from coordinator.miner.executors.errors import (
    ENGINE_UNAVAILABLE,
    EXECUTOR_FAILED,
    INPUT_TOO_LARGE,
    INVALID_PAYLOAD,
    OUTPUT_TOO_LARGE,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.services.model_names import is_model_name, name_of_path
from coordinator.validation import first_invalid_field
from coordinator.wire.http.proxies import BadProxy, new_client

CONNECT_SECONDS: Final = 10.0
CHECK_SECONDS: Final = 10.0
CHECK_TRIES: Final = 2
"""A busy engine may miss one deadline; a dead one refuses at once."""
MAX_MODELS: Final = 400
MAX_ANSWER_BYTES: Final = 64 << 20
MAX_STREAM_BYTES: Final = 512 << 20
"""Of an answer with probabilities: an event has a kilobyte for a token. The model ends it much earlier."""
MAX_LINE_BYTES: Final = 1 << 20
WRITE_BYTES: Final = 256 << 10
_TOO_LONG: Final = re.compile(
    r"too large to process|too many tokens|maximum context|exceed\w* (the )?(\w+ )?context", re.IGNORECASE
)
"""A text that is too long for the model; llama.cpp says so of embeddings with a 500."""
_UNAVAILABLE: Final = (408, 409, 425, 429, 502, 503, 504)
"""The statuses of an engine that is overloaded, still loading, or missing behind its proxy."""
_NOT_THERE: Final = (404, 405, 501)
"""The statuses of an engine without this model or function."""
_LABEL: Final = re.compile(r"[^\x00-\x1f]{1,1000}")


class Engine:
    """One OpenAI-compatible server. `kind` is the prefix of its settings, such as LLM.

    `recognise` gives the catalogue's name of one of the engine's models, or None. If a service knows only the
    catalogue's names (`closed`), models without such a name are not offered. Some engines tell the `task` of
    each model; models for another task are not offered either. `known`: all names of the service.
    """

    def __init__(
        self,
        kind: str,
        settings: EngineSettings | None = None,
        *,
        recognise: Callable[[str], str | None] = lambda _: None,
        closed: bool = False,
        task: str | None = None,
        known: Collection[str] | None = None,
    ) -> None:
        self.kind = kind
        self._recognise = recognise
        self._closed = closed
        self._task = task
        self._known = known
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
                self._keep(_models_in(answer, self._task))
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
            if self._known is not None and name.lower() not in self._known:
                notes.append(f"{name!r} is not offered: the service has no such model")
            elif target.lower() in here and is_model_name(name):
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
            raise ExecutorError(
                UNSUPPORTED, f"model: this miner has no model {model} for this service", retryable=True
            )
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
            if _is_json(response):  # it does not stream, or failed with status 200
                reason = reason_in_json(await _start_of(response), self.settings())
                raise ExecutorError(EXECUTOR_FAILED, f"the engine sent no stream: {reason}", retryable=True)
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

    async def fetch(self, path: str, body: Mapping[str, Any], to: Path, *, max_bytes: int) -> None:
        """POST JSON, and write the answer, which is no JSON, into a new file. Raises ExecutorError.

        JSON is an error, whatever its status.
        """
        async with self._request("POST", path, json=body) as response:
            is_json = _is_json(response)
            size, waiting = 0, bytearray()
            with await asyncio.to_thread(to.open, "xb") as file:
                async for chunk in response.aiter_bytes():
                    size += len(chunk)
                    waiting += chunk
                    if size > (MAX_LINE_BYTES if is_json else max_bytes):
                        raise ExecutorError(OUTPUT_TOO_LARGE, "the engine's answer is too large")
                    if len(waiting) >= WRITE_BYTES and not is_json:
                        await asyncio.to_thread(file.write, waiting)
                        waiting = bytearray()
                await asyncio.to_thread(file.write, waiting)
        if is_json:
            reason = reason_in_json(bytes(waiting), self.settings())
            raise ExecutorError(EXECUTOR_FAILED, f"the engine sent no file: {reason}", retryable=True)

    async def probe(self, path: str, body: Mapping[str, Any]) -> None:
        """POST JSON, and return once an answer that is no JSON begins. Raises ExecutorError."""
        async with self._request("POST", path, json=body) as response:
            if not _is_json(response):
                return
            content = await _start_of(response)
        raise ExecutorError(EXECUTOR_FAILED, reason_in_json(content, self.settings()), retryable=True)

    async def voices(self) -> tuple[str, ...]:
        """The names of the engine's voices; empty if it does not list them."""
        try:
            answer = await self._json("GET", "audio/voices", timeout=httpx.Timeout(CHECK_SECONDS))
        except ExecutorError:
            return ()
        given = answer.get("voices") if isinstance(answer, dict) else answer
        names = []
        for one in given[:MAX_MODELS] if isinstance(given, list) else ():
            name = one.get("id") or one.get("name") if isinstance(one, dict) else one
            if isinstance(name, str) and re.fullmatch(r"[^\x00-\x1f]{1,100}", name):
                names.append(name)
        return tuple(dict.fromkeys(names))

    def _event(self, data: bytes) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise ExecutorError(EXECUTOR_FAILED, "the engine sent an invalid event", retryable=True)
        if event.get("error"):
            raise ExecutorError(EXECUTOR_FAILED, reason_in(event, self.settings()), retryable=True)
        return event

    async def _json(self, method: str, path: str, **request: Any) -> Any:
        async with self._request(method, path, **request) as response:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise ExecutorError(OUTPUT_TOO_LARGE, "the engine's answer is too large")
        try:
            answer = json.loads(content)
        except ValueError:
            raise ExecutorError(EXECUTOR_FAILED, "the engine's answer is not JSON", retryable=True) from None
        if isinstance(answer, dict) and answer.get("error"):  # some say so with status 200
            reason = reason_in(answer, self.settings())
            raise ExecutorError(EXECUTOR_FAILED, f"the engine failed: {reason}", retryable=True)
        return answer

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
        if status in _NOT_THERE:
            raise ExecutorError(UNSUPPORTED, "the engine has no such model or function", retryable=True)
        if status in _UNAVAILABLE or status < 400:
            raise _unavailable(f"the engine answers with status {status}")
        content = await _start_of(response)
        message = reason_in_json(content, self.settings()) or f"status {status}"
        if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            raise ExecutorError(INPUT_TOO_LARGE, f"the engine refuses this: {message}")
        if status >= 500 and not _TOO_LONG.search(message):
            raise ExecutorError(EXECUTOR_FAILED, f"the engine failed: {message}", retryable=True)
        raise ExecutorError(INVALID_PAYLOAD, f"the engine refuses this: {message}")


def _is_json(response: httpx.Response) -> bool:
    return bool(response.headers.get("content-type", "").startswith("application/json"))


async def _start_of(response: httpx.Response) -> bytes:
    """The first megabyte or so of an answer."""
    content = b""
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_LINE_BYTES:
            break
    return content


def _unavailable(detail: str) -> ExecutorError:
    return ExecutorError(ENGINE_UNAVAILABLE, detail, retryable=True)


def _models_in(answer: Any, task: str | None) -> tuple[str, ...]:
    """The ids in an answer of `/v1/models`, without those for another task; invalid names are left out."""
    data = answer.get("data") if isinstance(answer, dict) else None
    items = [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
    ids = [item.get("id") for item in items if task is None or item.get("task") in (None, task)]
    names = {name for name in ids if isinstance(name, str) and _LABEL.fullmatch(name)}
    return tuple(sorted(names)[:MAX_MODELS])
