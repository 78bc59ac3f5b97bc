"""The sinks that pay on a chain, as the settings say."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from coordinator.crypto.evm.addresses import BadAddress, read_address
from coordinator.runtime.settings import BadSettings, Settings
from coordinator.settlement.aitbc.node import AitbcNode
from coordinator.settlement.aitbc.sink import AitbcSink, AitbcTerms
from coordinator.settlement.aitbc.transfer import TransferSigner
from coordinator.settlement.evm.claims import ClaimTerms
from coordinator.settlement.evm.deploy import DeployFailed, deploy
from coordinator.settlement.evm.rpc import EvmNode
from coordinator.settlement.evm.signer import GWEI, EvmSigner, Fees
from coordinator.settlement.evm.sink import EvmSink, EvmTerms
from coordinator.settlement.scale import Scale

MAX_KEY_BYTES = 1024
"""Of a file with a key."""


def open_evm(settings: Settings) -> EvmSink:
    """The sink `evm`. Raises BadSettings."""
    claims = claim_terms(settings)
    assert claims is not None
    fees = evm_fees(settings)
    terms = EvmTerms(
        chain_id=claims.chain_id,
        distributor=claims.distributor,
        scale=claims.scale,
        confirmations=settings.evm_confirmations,
        bump_seconds=settings.evm_bump_seconds,
        tip=fees.tip,
        most=fees.most,
    )
    return EvmSink(evm_node(settings), evm_signer(settings), terms)


def claim_terms(settings: Settings) -> ClaimTerms | None:
    """The contract from which payees claim; None if the sink has none. Raises BadSettings."""
    if settings.settlement_sink != "evm":
        return None
    assert settings.evm_chain_id is not None
    assert settings.evm_distributor is not None
    try:
        distributor = read_address(settings.evm_distributor)
    except BadAddress as error:
        raise BadSettings(f"EVM_DISTRIBUTOR: {error}") from None
    return ClaimTerms(settings.evm_chain_id, distributor, Scale(10**settings.evm_token_decimals))


def evm_node(settings: Settings) -> EvmNode:
    """The node of the setting, which must be there."""
    assert settings.evm_rpc_url is not None
    return EvmNode(settings.evm_rpc_url.get_secret_value())


def evm_signer(settings: Settings) -> EvmSigner:
    """The publisher's key. Raises BadSettings."""
    if find_spec("eth_account") is None:
        raise BadSettings("EVM_PRIVATE_KEY: needs a package: install coordinator[evm]")
    try:
        return EvmSigner(_key("EVM_PRIVATE_KEY", settings.evm_private_key, settings.evm_private_key_file))
    except ValueError as error:
        raise BadSettings(f"EVM_PRIVATE_KEY: {error}") from None


def evm_fees(settings: Settings) -> Fees:
    """The tip, and the most for each gas."""
    return Fees(round(settings.evm_max_fee_gwei * GWEI), round(settings.evm_tip_gwei * GWEI))


async def deploy_distributor(
    settings: Settings, token: str, owner: str | None, sent: Callable[[str], None]
) -> str:
    """The address of a new contract for this token. `owner`: None for the key's own address.

    Raises BadSettings, DeployFailed.
    """
    for name in ("evm_rpc_url", "evm_chain_id"):
        if getattr(settings, name) is None:
            raise BadSettings(f"{name.upper()}: set it to deploy a contract")
    assert settings.evm_chain_id is not None
    node, signer = evm_node(settings), evm_signer(settings)
    try:
        addresses = read_address(token), read_address(owner or signer.address)
        return await deploy(node, signer, settings.evm_chain_id, *addresses, evm_fees(settings), sent=sent)
    except BadAddress as error:
        raise DeployFailed(str(error)) from None
    finally:
        await node.close()


def open_aitbc(settings: Settings) -> AitbcSink:
    """The sink `aitbc`. Raises BadSettings."""
    assert settings.aitbc_rpc_url is not None
    assert settings.aitbc_chain_id is not None
    key = _key("AITBC_PRIVATE_KEY", settings.aitbc_private_key, settings.aitbc_private_key_file)
    try:
        signer = TransferSigner(key)
    except ValueError as error:
        raise BadSettings(f"AITBC_PRIVATE_KEY: {error}") from None
    terms = AitbcTerms(
        settings.aitbc_chain_id,
        Scale(settings.aitbc_per_unit),
        settings.aitbc_fee,
        settings.aitbc_confirmations,
    )
    node = AitbcNode(settings.aitbc_rpc_url.get_secret_value(), settings.aitbc_chain_id)
    return AitbcSink(node, signer, terms)


def _key(name: str, key: SecretStr | None, path: Path | None) -> str:
    """The text of a key. Raises BadSettings, whose text shows nothing of it."""
    if key is not None:
        return key.get_secret_value()
    if path is None:
        raise BadSettings(f"{name}: set it, or {name}_FILE")
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES).decode().strip()
    except OSError as error:
        raise BadSettings(f"{name}_FILE: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadSettings(f"{name}_FILE: no text with a private key of 64 hex digits") from None
