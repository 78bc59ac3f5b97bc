"""A client's commands through RabbitMQ, many of them in one message."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from coordinator.client.errors import CoordinatorError, Unreachable, refused_answer
from coordinator.client.http import HttpPool
from coordinator.crypto.keys import EncodingError
from coordinator.telemetry.propagation import current_traceparent
from coordinator.wire.amqp.rpc import AmqpRpc, SenderClosed
from coordinator.wire.signed_messages import VARIABLE, read_keys


class AmqpCommands:
    """`Commands` over one connection, which reconnects by itself. The first call connects."""

    at_a_time = 2_000

    def __init__(
        self, url: str, api_key: str | None, public_key: str | None = None, *, timeout: float, http: HttpPool
    ) -> None:
        """`timeout`: seconds to wait for an answer. `http` learns the positions, for fresh reads."""
        if not api_key or ":" not in api_key:
            raise CoordinatorError("INVALID_ARGUMENT", "commands over AMQP need an API key, name:secret")
        self._timeout = timeout
        self._http = http
        keys = os.environ.get(VARIABLE) if public_key is None else public_key
        try:
            self._rpc = AmqpRpc(url, api_key, coordinator_keys=read_keys(keys))
        except EncodingError as error:
            raise CoordinatorError("INVALID_ARGUMENT", f"invalid coordinator_public_key: {error}") from None
        except ValueError as error:
            raise CoordinatorError("INVALID_ARGUMENT", f"invalid AMQP URL: {error}") from None

    async def call(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The accepted answer. Raises RequestRefused, and Unreachable if none came in time."""
        await self._rpc.start()
        if (trace := current_traceparent()) is not None:
            fields = {"traceparent": trace, **fields}
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._rpc.call(kind, fields)
        except TimeoutError:
            raise Unreachable(f"no answer over AMQP within {self._timeout:g} s") from None
        except SenderClosed:
            raise Unreachable("this client was closed before the answer came") from None
        except (TypeError, ValueError) as error:
            raise CoordinatorError("INVALID_ARGUMENT", f"{kind} is not JSON: {error}") from None
        if answer["status"] == "refused":
            raise refused_answer(answer)
        position = answer.get("position")
        if isinstance(position, int):
            self._http.notice(position)
        return answer

    async def submit_and_wait(self, fields: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Submit; a command over AMQP is answered at once."""
        return await self.call("job.submit", fields)

    async def close(self) -> None:
        """Disconnect. May be called twice."""
        await self._rpc.close()
