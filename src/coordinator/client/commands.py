"""How a client's commands travel: one HTTP request each here, in arrays over AMQP in `amqp_commands`.

Either repeats a command until it is answered, which is safe: a submit carries an idempotency key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

from coordinator.client.http import HttpPool, header_text


class Commands(Protocol):
    """Sends commands; made for `job.submit` (with an `idempotency_key`) and `job.cancel`."""

    at_a_time: int
    """How many calls side by side this takes well."""

    async def call(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The accepted answer. Raises RequestRefused, Unreachable."""

    async def close(self) -> None:
        """Give back what it holds. May be called twice."""


class HttpCommands:
    """A request for each command, over a pool that somebody else closes."""

    at_a_time = 16

    def __init__(self, http: HttpPool) -> None:
        self._http = http

    async def call(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Send one command."""
        body = dict(fields)
        if kind == "job.submit":
            key = header_text("the idempotency key", body.pop("idempotency_key"))
            return await self._http.ask_json("POST", "/v1/jobs", json=body, headers={b"Idempotency-Key": key})
        assert kind == "job.cancel", kind
        path = f"/v1/jobs/{path_part(body.pop('job_id'))}/cancel"
        return await self._http.ask_json("POST", path, json=body)

    async def close(self) -> None:
        """Nothing of its own to close."""


def path_part(name: str) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(name, safe="@")
