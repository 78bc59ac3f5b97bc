"""Questions to a node of AITBC's chain. Each answer's type is checked."""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from coordinator.application.ports import SinkUnavailable
from coordinator.settlement.exchange import TIMEOUT_SECONDS, NodeExchange, Reply

SETTING: Final = "AITBC_RPC_URL"
MAX_NUMBER: Final = 2**53
_PHRASES: Final = (
    *("invalid nonce", "insufficient balance", "invalid transaction signature", "unsupported chain_id"),
    *("sender account not found", "below minimum"),
)
"""A node's words that an operator needs to know; others' may hold anything."""


class AitbcAccount(NamedTuple):
    """An account, as the node has it now, or had it half a minute ago: it answers from a cache."""

    balance: int
    nonce: int


class AitbcTransaction(NamedTuple):
    """A transaction in a block."""

    sender: str
    recipient: str
    value: int
    nonce: int
    block: int


class AitbcNode:
    """Raises SinkUnavailable where there is no answer, or one of another kind than was asked for."""

    def __init__(self, url: str, chain_id: str, timeout: float = TIMEOUT_SECONDS) -> None:
        self._exchange = NodeExchange(url, SETTING, timeout)
        self._chain = urlencode({"chain_id": chain_id})

    async def close(self) -> None:
        await self._exchange.close()

    async def account(self, address: str) -> AitbcAccount | None:
        """None for an account that the chain has not."""
        found = await self._found(f"/rpc/account/{quote(address)}")
        if found is None:
            return None
        return AitbcAccount(_number(found, "balance"), _number(found, "nonce"))

    async def transaction(self, tx_hash: str) -> AitbcTransaction | None:
        """None for a transaction that is in no block: a node tells of no other one."""
        found = await self._found(f"/rpc/transaction/{quote(tx_hash)}")
        if found is None or found.get("block_height") is None:
            return None
        if found.get("tx_hash") != tx_hash:
            raise SinkUnavailable(f"{SETTING}: the node's answer is another transaction")
        if found.get("status") in ("failed", "rejected", "reverted"):
            raise SinkUnavailable(f"{SETTING}: the chain has the transaction, and says that it failed")
        return AitbcTransaction(
            _text(found, "sender"),
            _text(found, "recipient"),
            _number(found, "value"),
            _number(found, "nonce"),
            _number(found, "block_height"),
        )

    async def head(self) -> int:
        """The newest block's number."""
        found = await self._found("/rpc/head")
        if found is None:
            raise SinkUnavailable(f"{SETTING}: the chain has no block yet")
        return _number(found, "height")

    async def send(self, body: bytes) -> str:
        """The transaction's hash, as the node says. Raises SinkUnavailable where it takes none."""
        reply = await self._exchange.post("/rpc/transaction", body)
        if reply.status == 200 and isinstance(reply.content, dict):
            return _text(reply.content, "transaction_hash")
        raise SinkUnavailable(f"{SETTING}: the node did not take the transfer: {_said(reply)}")

    async def _found(self, path: str) -> dict[str, Any] | None:
        reply = await self._exchange.get(f"{path}?{self._chain}")
        if isinstance(reply.content, dict):
            if reply.status == 404 and "detail" in reply.content:
                return None
            if reply.status == 200:
                return reply.content
        raise SinkUnavailable(f"{SETTING}: HTTP {reply.status}, not an answer of the chain's API")


def _said(reply: Reply) -> str:
    detail = reply.content.get("detail") if isinstance(reply.content, dict) else None
    words = detail.lower() if isinstance(detail, str) else ""
    return next((phrase for phrase in _PHRASES if phrase in words), f"HTTP {reply.status}")


def _number(found: dict[str, Any], name: str) -> int:
    number = found.get(name)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < MAX_NUMBER:
        raise SinkUnavailable(f"{SETTING}: the node's {name} is no number")
    return number


def _text(found: dict[str, Any], name: str) -> str:
    text = found.get(name)
    if not isinstance(text, str):
        raise SinkUnavailable(f"{SETTING}: the node's {name} is no text")
    return text
