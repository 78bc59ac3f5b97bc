"""Sends a client's commands: one HTTP request each here, in arrays over AMQP in `amqp_commands`.

Both repeat a command until it is answered, which is safe: a submit carries an idempotency key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

from coordinator.client.http import HttpPool, header_text


class Commands(Protocol):
    """Sends `job.submit` (with an `idempotency_key`), `job.submit_again`, `job.cancel`
    and `content.erase` (of one job)."""

    at_a_time: int
    """The best number of concurrent calls."""

    async def call(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The accepted answer. Raises RequestRefused, Unreachable."""

    async def close(self) -> None:
        """Release its connections. May be called twice."""


class HttpCommands:
    """One request per command, over a pool that the caller closes."""

    at_a_time = 16

    def __init__(self, http: HttpPool) -> None:
        self._http = http

    async def call(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Send one command."""
        body = dict(fields)
        if kind == "job.submit":
            key = header_text("the idempotency key", body.pop("idempotency_key"))
            return await self._http.ask_json("POST", "/v1/jobs", json=body, headers={b"Idempotency-Key": key})
        if kind == "content.erase":
            [job_id] = body.pop("job_ids")
            return await self._http.ask_json("POST", f"/v1/jobs/{path_part(job_id)}/erase", json=body)
        if kind == "job.submit_again":
            key = header_text("the idempotency key", body.pop("idempotency_key"))
            path = f"/v1/jobs/{path_part(body.pop('job_id'))}/retry"
            return await self._http.ask_json("POST", path, json=body, headers={b"Idempotency-Key": key})
        assert kind == "job.cancel", kind
        path = f"/v1/jobs/{path_part(body.pop('job_id'))}/cancel"
        return await self._http.ask_json("POST", path, json=body)

    async def close(self) -> None:
        """Nothing of its own to close."""


def path_part(name: str) -> str:
    """A name as one part of a path, whatever characters it has."""
    return quote(name, safe="@")
