"""Signs statements; statements of the same round of the event loop share one signature."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.crypto.canonical import CanonicalError
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.statement import MAX_SHARED, sign_statement, sign_statements

_Waiting = tuple[Mapping[str, Any], asyncio.Future[dict[str, Any]]]


class StatementSigner:
    """Signs with a miner's key on the event loop. A single statement does not wait."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self._waiting: list[_Waiting] = []

    async def sign(self, statement: Mapping[str, Any]) -> dict[str, Any]:
        """The statement with its signature. Raises CanonicalError if it can't be signed."""
        loop = asyncio.get_running_loop()
        signed: asyncio.Future[dict[str, Any]] = loop.create_future()
        if not self._waiting:
            # Runs after everything else in this round, so that it gathers the round's statements.
            loop.call_soon(self._sign_waiting)
        self._waiting.append((statement, signed))
        return await signed

    def _sign_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), MAX_SHARED):
            together = waiting[start : start + MAX_SHARED]
            try:
                signed = sign_statements(self._key, [statement for statement, _ in together])
            except CanonicalError:
                self._sign_each(together)  # one that can't be signed fails alone
                continue
            for (_, future), one in zip(together, signed, strict=True):
                if not future.done():  # its attempt was cancelled meanwhile
                    future.set_result(one)

    def _sign_each(self, waiting: Sequence[_Waiting]) -> None:
        for statement, future in waiting:
            if future.done():
                continue
            try:
                future.set_result(sign_statement(self._key, statement))
            except CanonicalError as error:
                future.set_exception(error)
