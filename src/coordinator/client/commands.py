"""Sends a client's commands: one HTTP request each here, in arrays over AMQP in `amqp_commands`.

Both repeat a command until it is answered, which is safe: a submit carries an idempotency key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from pydantic_core import to_json

from coordinator.client.errors import CoordinatorError, Unreachable, refused_answer
from coordinator.client.http import HttpPool, header_text
from coordinator.wire.gathering import BODY_BYTES, Gathering

TRY_AGAIN = frozenset({"UNAVAILABLE", "INTERNAL", "RATE_LIMITED"})
"""Refusals of an element that is sent again, alone: that request waits and repeats as it is told to."""


class Commands(Protocol):
    """Sends `job.submit` (with an `idempotency_key`), `job.submit_again`, `job.cancel`
    and `content.erase` (of one job)."""

    at_a_time: int
    """The best number of concurrent calls."""

    async def call(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The accepted answer. Raises RequestRefused, Unreachable."""

    async def submit_and_wait(self, fields: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The accepted answer to a `job.submit`; with the job's `result`, if it came while we waited.

        It may wait up to `seconds`, or not at all. Raises RequestRefused, Unreachable.
        """

    async def close(self) -> None:
        """Release its connections. May be called twice."""


class HttpCommands:
    """A request per command, over a pool that the caller closes; submits gather while one is under way."""

    at_a_time = 200

    def __init__(self, http: HttpPool) -> None:
        self._http = http
        self._submits = Gathering[Mapping[str, Any], dict[str, Any]](self._submit_all)

    async def call(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Send one command."""
        if kind == "job.submit":
            header_text("the idempotency key", fields["idempotency_key"])
            return await self._submits.call(fields, _size_of(fields))
        body = dict(fields)
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

    async def submit_and_wait(self, fields: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Submit in a request of its own, which the coordinator answers at the job's end."""
        whole = int(max(0.0, seconds))  # 0.0 for no number, too
        if not whole:
            return await self.call("job.submit", fields)
        return await self._submit_alone(fields, {b"Prefer": b"wait=%d" % whole}, whole)

    async def close(self) -> None:
        """Give up the submits that wait."""
        await self._submits.close()

    async def _submit_all(self, submits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Exception]:
        """Submit the jobs that gathered; each is accepted or refused alone."""
        if len(submits) == 1:
            return [await self._submit(submits[0])]
        try:
            said = await self._http.ask_json(
                "POST", "/v1/jobs/batch", json={"jobs": list(map(dict, submits))}
            )
        except Unreachable:
            raise
        except CoordinatorError:  # of the whole array: one job is at fault, or an old coordinator
            return list(await asyncio.gather(*map(self._submit, submits)))
        answers: list[dict[str, Any] | Exception] = []
        for submit, answer in zip(submits, said["answers"], strict=True):
            if answer.get("code") in TRY_AGAIN:
                answers.append(await self._submit(submit))
            else:
                answers.append(answer if answer["status"] == "accepted" else refused_answer(answer))
        return answers

    async def _submit(self, submit: Mapping[str, Any]) -> dict[str, Any] | Exception:
        try:
            return await self._submit_alone(submit)
        except CoordinatorError as error:
            return error

    async def _submit_alone(
        self,
        submit: Mapping[str, Any],
        headers: Mapping[bytes, bytes] | None = None,
        wait_seconds: float = 0.0,
    ) -> dict[str, Any]:
        body = dict(submit)
        key = header_text("the idempotency key", body.pop("idempotency_key"))
        sent = {b"Idempotency-Key": key, **(headers or {})}
        return await self._http.ask_json(
            "POST", "/v1/jobs", json=body, headers=sent, wait_seconds=wait_seconds
        )


def _size_of(fields: Mapping[str, Any]) -> int:
    """The bytes of these fields as JSON. What is no JSON is sent alone, and refused there."""
    try:
        return len(to_json(fields))
    except ValueError:
        return BODY_BYTES


def path_part(name: str) -> str:
    """A name as one part of a path, whatever characters it has."""
    return quote(name, safe="@")
