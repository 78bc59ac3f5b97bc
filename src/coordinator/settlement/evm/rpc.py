"""Questions to a node of the Ethereum Virtual Machine, by JSON-RPC. Each answer's type and size is checked.

Source: https://ethereum.github.io/execution-apis.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, Literal, NamedTuple

from coordinator.application.ports import SinkUnavailable
from coordinator.settlement.exchange import TIMEOUT_SECONDS, NodeExchange

SETTING: Final = "EVM_RPC_URL"
_QUANTITY: Final = re.compile(r"0x[0-9a-fA-F]{1,64}")
_DATA: Final = re.compile(r"0x([0-9a-fA-F]{2}){0,65536}")
_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}")

Block = int | Literal["latest", "pending"]
"""A block's number, the newest one, or the one that is being made."""


_PHRASES: Final = (
    *(
        "not the owner",
        "not the publisher",
        "another root is set",
        "not a later batch",
        "sums never fall",
        "not funded",
    ),
    *("invalid proof", "nothing to claim", "more than the total", "the token refused"),
    *("already known", "known transaction", "already imported", "nonce too low", "nonce too high"),
    *("underpriced", "insufficient funds", "fee cap", "gas", "reverted"),
)
"""What a node may say, of the contract's own words and others', that an operator needs to know."""


class NodeRefused(Exception):
    """The node answered with an error. The text has only words that are known: others' may hold a secret."""

    def __init__(self, said: object) -> None:
        self._said = said.lower() if isinstance(said, str) else ""
        known = next((phrase for phrase in _PHRASES if phrase in self._said), None)
        super().__init__(f"the node refused: {known}" if known else "the node refused, for another reason")

    def says(self, *phrases: str) -> bool:
        """Whether the node's own words hold one of these."""
        return any(phrase in self._said for phrase in phrases)


class EvmReceipt(NamedTuple):
    """The trace of a transaction in a block."""

    block: int
    block_hash: str
    succeeded: bool


class EvmNode:
    """Raises SinkUnavailable where there is no answer, or one of another kind than was asked for."""

    def __init__(self, url: str, timeout: float = TIMEOUT_SECONDS) -> None:
        self._exchange = NodeExchange(url, SETTING, timeout)
        self._id = 0

    async def close(self) -> None:
        await self._exchange.close()

    # --- the chain -----------------------------------------------------------------------------------------
    async def chain_id(self) -> int:
        return _quantity(await self._ask("eth_chainId"))

    async def head(self) -> int:
        """The newest block's number."""
        return _quantity(await self._ask("eth_blockNumber"))

    async def block_hash(self, block: int) -> str | None:
        """None for a block that the node has not."""
        found = await self._ask("eth_getBlockByNumber", hex(block), False)
        return None if found is None else _hash(_member(found, "hash"))

    async def base_fee(self) -> int:
        """The part of the gas price that the newest block burned, in wei."""
        found = await self._ask("eth_getBlockByNumber", "latest", False)
        return _quantity(_member(found, "baseFeePerGas"))

    # --- accounts and contracts ----------------------------------------------------------------------------
    async def nonce(self, address: str, block: Block = "latest") -> int:
        """The nonce that the account's next transaction has."""
        return _quantity(await self._ask("eth_getTransactionCount", address, _block(block)))

    async def code(self, address: str) -> bytes:
        return _data(await self._ask("eth_getCode", address, "latest"))

    async def call(self, to: str, data: bytes, block: Block = "latest") -> bytes:
        """The answer of a contract. Raises NodeRefused if it reverts."""
        question = {"to": to, "data": "0x" + data.hex()}
        return _data(await self._ask("eth_call", question, _block(block)))

    async def estimate_gas(self, sender: str, to: str | None, data: bytes) -> int:
        """The gas that a transaction would use. Raises NodeRefused if it would revert."""
        question = {"from": sender, "data": "0x" + data.hex()}
        return _quantity(
            await self._ask("eth_estimateGas", question if to is None else {**question, "to": to})
        )

    # --- transactions --------------------------------------------------------------------------------------
    async def send(self, raw: bytes) -> str:
        """The hash of the transaction, as the node says. Raises NodeRefused."""
        return _hash(await self._ask("eth_sendRawTransaction", "0x" + raw.hex()))

    async def receipt(self, tx_hash: str) -> EvmReceipt | None:
        """None for a transaction that is in no block of the chain."""
        found = await self._ask("eth_getTransactionReceipt", tx_hash)
        if found is None or _member(found, "blockNumber") is None:
            return None
        if _hash(_member(found, "transactionHash")) != tx_hash:
            raise SinkUnavailable(f"{SETTING}: the receipt is of another transaction")
        return EvmReceipt(
            _quantity(_member(found, "blockNumber")),
            _hash(_member(found, "blockHash")),
            _quantity(_member(found, "status")) == 1,
        )

    async def created(self, tx_hash: str) -> str | None:
        """The contract that a transaction made; None if it made none."""
        found = await self._ask("eth_getTransactionReceipt", tx_hash)
        address = _member(found, "contractAddress")
        return None if address is None else "0x" + _data(address).hex()

    async def knows(self, tx_hash: str) -> bool:
        """Whether the transaction is in a block, or waits for one."""
        return isinstance(await self._ask("eth_getTransactionByHash", tx_hash), dict)

    async def _ask(self, method: str, *params: Any) -> Any:
        self._id += 1
        question = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}
        reply = await self._exchange.post("", json.dumps(question).encode())
        content = reply.content
        if not isinstance(content, dict):
            raise SinkUnavailable(f"{SETTING}: {method}: HTTP {reply.status}, not an answer of JSON-RPC")
        if content.get("error") is not None:
            error = content["error"]
            raise NodeRefused(error.get("message") if isinstance(error, dict) else error)
        if content.get("id") != self._id or "result" not in content:
            raise SinkUnavailable(f"{SETTING}: {method}: HTTP {reply.status}, not an answer of JSON-RPC")
        return content["result"]


def _block(block: Block) -> str:
    return hex(block) if isinstance(block, int) else block


def _member(found: object, name: str) -> Any:
    if not isinstance(found, dict):
        raise _unexpected("an object")
    return found.get(name)


def _quantity(found: object) -> int:
    if not isinstance(found, str) or not _QUANTITY.fullmatch(found):
        raise _unexpected("a number")
    return int(found, 16)


def _hash(found: object) -> str:
    if not isinstance(found, str) or not _HASH.fullmatch(found):
        raise _unexpected("a hash")
    return found.lower()


def _data(found: object) -> bytes:
    if not isinstance(found, str) or not _DATA.fullmatch(found):
        raise _unexpected("bytes")
    return bytes.fromhex(found[2:])


def _unexpected(kind: str) -> SinkUnavailable:
    return SinkUnavailable(f"{SETTING}: the node's answer is not {kind}, which was asked for")
