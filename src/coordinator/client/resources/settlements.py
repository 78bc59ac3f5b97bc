"""Settlement batches: an admin sees and closes them, a party sees its own payouts. Amounts are in 10⁻⁶."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from coordinator.client.http import HttpPool
from coordinator.client.resources.accounts import account_path

PATH: Final = "/v1/settlements"
ADMIN_PATH: Final = "/v1/admin/settlements"
ADDRESS_PATH: Final = "/v1/accounts/me/payout_address"


class AsyncSettlements:
    """Batches of payouts (`client.settlements`)."""

    def __init__(self, http: HttpPool, items: Callable[..., AsyncGenerator[dict[str, Any], None]]) -> None:
        """`items(path, limit, **filters)` iterates over the pages of a list."""
        self._http = http
        self._items = items

    async def list(self, *, limit: int | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """The newest first; for an admin all, else those that pay the key's name, with its own amounts."""
        async for item in self._items(PATH, limit):
            yield item

    async def show(self, number: int) -> dict[str, Any]:
        """A batch with its payouts."""
        return await self._http.ask_json("GET", f"{PATH}/{number}")

    async def close(self, number: int | None = None) -> dict[str, Any]:
        """Close the next batch now; a repeat with its number has no second effect. For admins."""
        return await self._http.ask_json(
            "POST", ADMIN_PATH, json={} if number is None else {"number": number}
        )

    async def confirm(self, number: int, part: int) -> dict[str, Any]:
        """Say that a part was paid, where the sink can't tell. For admins."""
        return await self._http.ask_json("POST", f"{ADMIN_PATH}/{number}/confirm", json={"part": part})

    async def refuse(self, number: int, part: int, reason: str) -> dict[str, Any]:
        """Say that a part was not paid and never will be: its money returns. For admins."""
        asked = {"part": part, "reason": reason}
        return await self._http.ask_json("POST", f"{ADMIN_PATH}/{number}/refuse", json=asked)

    async def secret(self) -> dict[str, Any]:
        """What the receiver of the sink `webhook` verifies messages with. For admins."""
        return await self._http.ask_json("GET", f"{ADMIN_PATH}/secret")

    async def proof(self, party: str | None = None) -> dict[str, Any]:
        """What the key's name needs to claim its payouts from a contract; or a party, for admins."""
        return await self._http.ask_json("GET", f"{account_path(party)}/settlement_proof")

    async def address(self) -> dict[str, Any]:
        """Where the key's name is paid."""
        return await self._http.ask_json("GET", ADDRESS_PATH)

    async def set_address(self, address: str | None) -> dict[str, Any]:
        """Say where the key's name is to be paid; None for nowhere."""
        return await self._http.ask_json("PUT", ADDRESS_PATH, json={"address": address})
