"""Puts the contract `distributor.vy` on a chain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from coordinator.application.ports import SinkUnavailable
from coordinator.crypto.evm.addresses import address_bytes, address_of
from coordinator.settlement.evm.contract import Distributor, creation
from coordinator.settlement.evm.rpc import SETTING, EvmNode, NodeRefused
from coordinator.settlement.evm.signer import EvmSigner, Fees

LOOK_EVERY_SECONDS: Final = 1.0
MAX_CREATION_GAS: Final = 3_000_000
"""The contract takes some 780,000."""


class DeployFailed(Exception):
    """No contract was made; the text says why, and shows no secret."""


async def deploy(
    node: EvmNode,
    signer: EvmSigner,
    chain_id: int,
    token: str,
    owner: str,
    fees: Fees,
    *,
    seconds: float = 300.0,
    sent: Callable[[str], None] = lambda tx_hash: None,
) -> str:
    """The address of a new contract for this token, whose publisher is the signer.

    `sent` is told the transaction's hash before it is sent. Raises DeployFailed.
    """
    try:
        found = await node.chain_id()
        if found != chain_id:
            raise DeployFailed(f"EVM_CHAIN_ID: {chain_id}, but the node is of chain {found}")
        if not await node.code(token):
            raise DeployFailed(f"there is no contract of a token at {token}")
        data = creation(token, owner)
        gas = min(await node.estimate_gas(signer.address, None, data) * 5 // 4, MAX_CREATION_GAS)
        base = await node.base_fee()
        if base + fees.tip > fees.most:
            raise DeployFailed("EVM_MAX_FEE_GWEI: gas costs more at the moment")
        signed = signer.sign(
            chain_id=chain_id,
            nonce=await node.nonce(signer.address),
            to=None,
            data=data,
            gas=gas,
            fees=Fees(min(2 * base + fees.tip, fees.most), fees.tip),
        )
        sent(signed.hash)
        await node.send(signed.raw)
        return await _made(node, signer, signed.hash, (token, owner), time.monotonic() + seconds)
    except NodeRefused as error:
        raise DeployFailed(f"{SETTING}: {error}") from None
    except SinkUnavailable as error:
        raise DeployFailed(str(error)) from None


async def _made(node: EvmNode, signer: EvmSigner, tx_hash: str, facts: tuple[str, str], until: float) -> str:
    while (receipt := await node.receipt(tx_hash)) is None:
        if time.monotonic() > until:
            raise DeployFailed(f"transaction {tx_hash} is in no block yet; look for it in an explorer")
        await asyncio.sleep(LOOK_EVERY_SECONDS)
    made = await node.created(tx_hash)
    if not receipt.succeeded or made is None:
        raise DeployFailed(f"transaction {tx_hash} failed on the chain")
    address = address_of(address_bytes(made))
    contract = Distributor(node, address)
    told = (await contract.publisher(), await contract.token(), await contract.owner())
    if told != (signer.address, *facts):
        raise DeployFailed(f"{SETTING}: the contract at {address} is another one")
    return address
