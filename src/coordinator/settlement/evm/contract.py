"""The contract `distributor.vy`: its bytes, and its calls as the ABI has them."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, Final

from coordinator.application.ports import SinkUnavailable
from coordinator.crypto.evm.addresses import address_bytes, address_of
from coordinator.crypto.evm.keccak import keccak256
from coordinator.crypto.evm.payout_tree import WORD_BYTES, word
from coordinator.settlement.evm.rpc import SETTING, Block, EvmNode, NodeRefused
from coordinator.settlement.scale import MAX_DECIMALS

DECIMALS: Final = "decimals()"
BALANCE_OF: Final = "balanceOf(address)"


@cache
def compiled() -> dict[str, Any]:
    """The contract's interface (`abi`) and its bytes (`bytecode`), as the compiler made them."""
    text = files("coordinator.settlement.evm").joinpath("distributor.json").read_text()
    made: dict[str, Any] = json.loads(text)
    return made


def creation(token: str, owner: str) -> bytes:
    """The data of the transaction that creates the contract for a token. Its sender publishes roots."""
    return bytes.fromhex(compiled()["bytecode"][2:]) + _address(token) + _address(owner)


def set_root(expected_root: bytes, new_root: bytes, new_total: int, batch: int) -> bytes:
    """The data of the call that publishes a root."""
    selector = _selector("set_root(bytes32,bytes32,uint256,uint256)")
    return selector + expected_root + new_root + word(new_total) + word(batch)


def claim(account: str, cumulative: int, proof: list[bytes]) -> bytes:
    """The data of the call that pays an account."""
    selector = _selector("claim(address,uint256,bytes32[])")
    head = _address(account) + word(cumulative) + word(3 * WORD_BYTES)
    return selector + head + word(len(proof)) + b"".join(proof)


class Distributor:
    """Reads a deployed contract. Raises SinkUnavailable, for a contract that answers otherwise, too."""

    def __init__(self, node: EvmNode, address: str) -> None:
        self.address = address
        self._node = node

    async def root(self, block: Block = "latest") -> bytes:
        return await self._read(self.address, "root()", block=block)

    async def owner(self) -> str:
        return _read_address(await self._read(self.address, "owner()"))

    async def publisher(self) -> str:
        return _read_address(await self._read(self.address, "publisher()"))

    async def total(self) -> int:
        return int.from_bytes(await self._read(self.address, "total()"), "big")

    async def paid(self) -> int:
        return int.from_bytes(await self._read(self.address, "paid()"), "big")

    async def claimed(self, account: str) -> int:
        found = await self._read(self.address, "claimed(address)", _address(account))
        return int.from_bytes(found, "big")

    async def token(self) -> str:
        return _read_address(await self._read(self.address, "token()"))

    async def decimals(self) -> int:
        """How many decimals the token has."""
        found = int.from_bytes(await self._read(await self.token(), DECIMALS), "big")
        if found > MAX_DECIMALS:
            raise SinkUnavailable(f"{SETTING}: the token has {found} decimals, which no token has")
        return found

    async def funds(self) -> int:
        """The contract's tokens."""
        found = await self._read(await self.token(), BALANCE_OF, _address(self.address))
        return int.from_bytes(found, "big")

    async def _read(self, to: str, function: str, argument: bytes = b"", block: Block = "latest") -> bytes:
        try:
            found = await self._node.call(to, _selector(function) + argument, block)
        except NodeRefused as error:
            raise SinkUnavailable(f"{SETTING}: {to} does not answer {function}: {error}") from None
        if len(found) != WORD_BYTES:
            raise SinkUnavailable(f"{SETTING}: {to} does not answer {function}; is it the right contract?")
        return found


def _selector(function: str) -> bytes:
    return keccak256(function.encode())[:4]


def _address(address: str) -> bytes:
    return address_bytes(address).rjust(WORD_BYTES, b"\0")


def _read_address(found: bytes) -> str:
    return address_of(found[-20:])
