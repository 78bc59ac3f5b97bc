"""Closes the connections of keys that are no longer valid, through RabbitMQ's management API.

RabbitMQ checks a right when an operation begins: a consumer that was allowed once would consume for ever.
"""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import quote

import httpx
import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.keys.keyring import Keyring
from coordinator.broker.auth.rights import mark_of

SWEEP_SECONDS: Final = 5.0
"""Between two sweeps: keys expire, and RabbitMQ's cache lets a revoked one in for a while."""
TIMEOUT_SECONDS: Final = 10.0
REASON: Final = "this API key is no longer valid"

log = structlog.get_logger("broker.auth")


class BrokerConnections:
    """Ends what no key allows any more. `start` and `stop` may each be called twice."""

    def __init__(self, management_url: str, virtual_host: str, keyring: Keyring) -> None:
        """`management_url`: `http://user:password@host:15672`, of a user that may administer."""
        url = httpx.URL(management_url)
        self._client = httpx.AsyncClient(
            base_url=url.copy_with(username=None, password=None),
            auth=(url.username, url.password),
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )
        self._virtual_host = virtual_host
        self._keyring = keyring
        self._marks: dict[str, set[str]] = {}
        """The valid grants by name, at the last sweep."""
        self._changed = asyncio.Event()
        self._task = BackgroundTask("broker-connections")
        keyring.on_change(self._changed.set)

    async def start(self) -> None:
        self._task.start(self._keep)

    async def stop(self) -> None:
        await self._task.stop()
        await self._client.aclose()

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._sweep()
            except (httpx.HTTPError, ValueError, KeyError) as error:
                log.warning("connections not checked", reason=f"{type(error).__name__}: {error}"[:200])
            try:
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _sweep(self) -> None:
        marks = {name: {mark_of(g) for g in self._keyring.valid(name)} for name in self._keyring.names()}
        # A name that lost one of its keys: which of its connections used that key is unknown, so all end.
        # Those with another key are back at once.
        lessened = {name for name, before in self._marks.items() if before - marks.get(name, set())}
        internal = {user["name"] for user in await self._get("/api/users?columns=name")}
        for connection in await self._get("/api/connections?columns=name,user,vhost"):
            user = connection.get("user")
            if user is None or user in internal or connection.get("vhost") != self._virtual_host:
                continue
            if user in lessened or not marks.get(user):
                await self._close(connection["name"], user)
        self._marks = marks  # only now: a sweep that failed begins again

    async def _get(self, path: str) -> list[dict[str, str]]:
        answer = await self._client.get(path)
        answer.raise_for_status()
        found: list[dict[str, str]] = answer.json()
        return found

    async def _close(self, name: str, user: str) -> None:
        answer = await self._client.delete(
            f"/api/connections/{quote(name, safe='')}", headers={"X-Reason": REASON}
        )
        if answer.status_code != httpx.codes.NOT_FOUND:  # else it has just gone by itself
            answer.raise_for_status()
            log.info("connection closed", name=user, reason=REASON)
