"""The settings of the sinks that pay on a chain."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from coordinator.settlement.evm.signer import key_fault
from coordinator.settlement.scale import MAX_DECIMALS

Confirmations = Annotated[int, Field(ge=1, le=100_000)]
"""Blocks, the payment's own included, that make it final."""
Gwei = Annotated[float, Field(gt=0, le=1_000_000)]


_VISIBLE: Final = re.compile(r"[!-~]+")


class ChainSettings(BaseSettings):
    """`.env.example` lists them with their meaning."""

    evm_rpc_url: SecretStr | None = None
    """The node that the sink `evm` asks, by JSON-RPC; it may hold a key of the node's provider."""
    evm_chain_id: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    evm_distributor: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")] | None = None
    """The contract from which payees claim."""
    evm_private_key: SecretStr | None = None
    """Of the contract's publisher, in hex."""
    evm_private_key_file: Path | None = None
    """A file with this key, in place of the setting."""
    evm_token_decimals: Annotated[int, Field(ge=0, le=MAX_DECIMALS)] = 6
    """One unit is one token; it must never change."""
    evm_confirmations: Confirmations = 12
    evm_bump_seconds: Annotated[float, Field(ge=1, le=86_400)] = 180
    """A transaction that waits for so long is sent with a higher fee."""
    evm_tip_gwei: Gwei = 1.0
    """For the block's proposer, for each gas."""
    evm_max_fee_gwei: Gwei = 100.0
    """The most for each gas, tip included."""

    aitbc_rpc_url: SecretStr | None = None
    """The node that the sink `aitbc` asks; the paths `/rpc/…` are below it."""
    aitbc_chain_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    aitbc_private_key: SecretStr | None = None
    """Of the account that pays, in hex."""
    aitbc_private_key_file: Path | None = None
    """A file with this key, in place of the setting."""
    aitbc_per_unit: Annotated[int, Field(ge=1, le=10**12)] = 3600
    """Compute-seconds of one unit; it must never change."""
    aitbc_fee: Annotated[int, Field(ge=0, le=10**9)] = 36
    """Of a transfer, in compute-seconds."""
    aitbc_confirmations: Confirmations = 12

    @field_validator("evm_rpc_url", "aitbc_rpc_url")
    @classmethod
    def _node(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not _is_url(url.get_secret_value()):
            raise ValueError("must be a URL that begins with http:// or https://")
        return url

    @field_validator("evm_private_key", "aitbc_private_key")
    @classmethod
    def _key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and (fault := key_fault(key.get_secret_value())) is not None:
            raise ValueError(fault)
        return key

    def chain_fault(self, sink: str) -> str | None:
        """Why the settings of this sink do not fit together, with the name of the one to change."""
        library, needed = {
            "evm": ("eth_account", ("rpc_url", "chain_id", "distributor")),
            "aitbc": ("eth_keys", ("rpc_url", "chain_id")),
        }.get(sink, ("", ()))
        for name in needed:
            if getattr(self, f"{sink}_{name}") is None:
                return f"{sink.upper()}_{name.upper()}: set it, too: the sink {sink} needs it"
        if not needed:
            return None
        given = [getattr(self, f"{sink}_private_key{end}") for end in ("", "_file")]
        if sum(value is not None for value in given) != 1:
            name = f"{sink.upper()}_PRIVATE_KEY"
            return f"{name}: set either {name} or {name}_FILE: the sink {sink} needs one"
        if find_spec(library) is None:
            return f"SETTLEMENT_SINK: needs a package: install coordinator[{sink}]"
        if sink == "evm" and self.evm_max_fee_gwei < self.evm_tip_gwei:
            return "EVM_MAX_FEE_GWEI: must be at least EVM_TIP_GWEI"
        return None


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return valid and _VISIBLE.fullmatch(text) is not None
