"""Accounts: everybody's own money, an admin's view of all, and quotes. Amounts are in 10⁻⁶ of the unit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

from coordinator.client.commands import path_part
from coordinator.client.http import HttpPool

PATH: Final = "/v1/admin/accounts"
OWN_PATH: Final = "/v1/accounts/me"


class AsyncAccounts:
    """Money (`client.accounts`). `party` is for admins; without it, an answer is about the key's own name."""

    def __init__(self, http: HttpPool, items: Callable[..., AsyncGenerator[dict[str, Any], None]]) -> None:
        """`items(path, limit, **filters)` iterates over the pages of a list."""
        self._http = http
        self._items = items

    async def list(self, *, limit: int | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """All accounts by party; for admins."""
        async for item in self._items(PATH, limit):
            yield item

    async def show(self, party: str | None = None) -> dict[str, Any]:
        """What is available, held, pending and disputed."""
        return await self._http.ask_json("GET", account_path(party))

    async def entries(
        self, party: str | None = None, *, limit: int | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The entries of an account, the newest first."""
        async for item in self._items(f"{account_path(party)}/entries", limit):
            yield item

    async def statement(
        self, party: str | None = None, *, since: str | None = None, until: str | None = None
    ) -> dict[str, Any]:
        """The signed statement of a period; both ends are RFC 3339 moments."""
        period = {"from": since, "to": until}
        return await self._http.ask_json("GET", f"{account_path(party)}/statements", params=period)

    async def deposit(self, party: str, amount: int, business_id: str, reason: str = "") -> dict[str, Any]:
        """Credit money from the outside; a repeat with the same id has no second effect."""
        return await self._transfer("deposits", party, amount, business_id, reason)

    async def withdraw(self, party: str, amount: int, business_id: str, reason: str = "") -> dict[str, Any]:
        """Debit money that leaves; a repeat with the same id has no second effect."""
        return await self._transfer("withdrawals", party, amount, business_id, reason)

    async def dispute(self, job_id: str, reason: str = "") -> dict[str, Any]:
        """Freeze the miner's credit for a job of the key's own."""
        return await self._http.ask_json(
            "POST", f"/v1/jobs/{path_part(job_id)}/dispute", json={"reason": reason}
        )

    async def refund(self, job_id: str, reason: str = "") -> dict[str, Any]:
        """Give a job's client its money back; for admins."""
        path = f"/v1/admin/jobs/{path_part(job_id)}/refund"
        return await self._http.ask_json("POST", path, json={"reason": reason})

    async def dismiss(self, job_id: str, reason: str = "") -> dict[str, Any]:
        """End a dispute: the miner keeps its credit; for admins."""
        path = f"/v1/admin/jobs/{path_part(job_id)}/dismiss"
        return await self._http.ask_json("POST", path, json={"reason": reason})

    async def quote(
        self,
        service: str,
        payload: Mapping[str, Any],
        *,
        constraints: Mapping[str, Any] | None = None,
        budget: int | None = None,
    ) -> dict[str, Any]:
        """What a job would cost at most, and at which prices; nothing is submitted."""
        asked: dict[str, Any] = {"service": service, "payload": dict(payload)}
        if constraints is not None:
            asked["constraints"] = dict(constraints)
        if budget is not None:
            asked["budget"] = budget
        return await self._http.ask_json("POST", "/v1/quote", json=asked)

    async def _transfer(
        self, kind: str, party: str, amount: int, business_id: str, reason: str
    ) -> dict[str, Any]:
        asked = {"amount": amount, "business_id": business_id, "reason": reason}
        return await self._http.ask_json("POST", f"{PATH}/{path_part(party)}/{kind}", json=asked)


def account_path(party: str | None) -> str:
    """Of the key's own account, or of a party's."""
    return OWN_PATH if party is None else f"{PATH}/{path_part(party)}"
