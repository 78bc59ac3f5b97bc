"""The settings of the sinks that pay on a chain: each fault names its setting, and shows no secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coordinator.runtime.money.chains import claim_terms, evm_signer, open_aitbc, open_evm
from coordinator.runtime.settings import BadSettings, load_settings

KEY = "5ec2e7" + "01" * 29
URL = "https://node.example/5ec2e7"
EVM: dict[str, Any] = {
    "settlement": "on",
    "settlement_sink": "evm",
    "evm_rpc_url": URL,
    "evm_chain_id": 1,
    "evm_distributor": "0x" + "42" * 20,
    "evm_private_key": KEY,
}
AITBC: dict[str, Any] = {
    "settlement": "on",
    "settlement_sink": "aitbc",
    "aitbc_rpc_url": URL,
    "aitbc_chain_id": "ait-mainnet",
    "aitbc_private_key": KEY,
}


@pytest.mark.parametrize(
    ("given", "change", "fault"),
    [
        (EVM, {"evm_rpc_url": None}, "EVM_RPC_URL: set it, too"),
        (EVM, {"evm_chain_id": None}, "EVM_CHAIN_ID: set it, too"),
        (EVM, {"evm_distributor": None}, "EVM_DISTRIBUTOR: set it, too"),
        (EVM, {"evm_private_key": None}, "EVM_PRIVATE_KEY: set either"),
        (EVM, {"evm_private_key_file": Path("key")}, "EVM_PRIVATE_KEY: set either"),
        (EVM, {"evm_private_key": "5ec2e7"}, "EVM_PRIVATE_KEY: must be a private key of 64 hex digits"),
        (EVM, {"evm_rpc_url": "ftp://5ec2e7"}, "EVM_RPC_URL: must be a URL that begins with"),
        (EVM, {"evm_rpc_url": "http://5ec2e7 x"}, "EVM_RPC_URL: must be a URL that begins with"),
        (EVM, {"evm_distributor": "0x42"}, "EVM_DISTRIBUTOR: "),
        (EVM, {"evm_confirmations": 0}, "EVM_CONFIRMATIONS: "),
        (EVM, {"evm_max_fee_gwei": 0.5}, "EVM_MAX_FEE_GWEI: must be at least EVM_TIP_GWEI"),
        (EVM, {"settlement": "off"}, "SETTLEMENT_SINK: needs accounts"),
        (AITBC, {"aitbc_chain_id": None}, "AITBC_CHAIN_ID: set it, too"),
        (AITBC, {"aitbc_private_key": None}, "AITBC_PRIVATE_KEY: set either"),
        (AITBC, {"aitbc_per_unit": 0}, "AITBC_PER_UNIT: "),
    ],
)
def test_a_fault_names_its_setting(given: dict[str, Any], change: dict[str, Any], fault: str) -> None:
    """A coordinator does not start with settings that do not fit together."""
    with pytest.raises(BadSettings) as raised:
        load_settings(**{**given, **change})
    assert str(raised.value).startswith(fault)
    assert "5ec2e7" not in str(raised.value)


def test_faults_that_need_the_libraries_come_when_the_sink_is_made(tmp_path: Path) -> None:
    """Keys that are none, a wrong checksum, and files that can't be read."""
    wrong = "0xdE709f2102306220921060314715629080e2fb77"
    for change, fault in (
        ({"evm_private_key": "0" * 64}, "EVM_PRIVATE_KEY: is no key"),
        ({"evm_distributor": wrong}, "EVM_DISTRIBUTOR: invalid address"),
        ({"evm_private_key": None, "evm_private_key_file": tmp_path / "none"}, "EVM_PRIVATE_KEY_FILE: can't"),
    ):
        with pytest.raises(BadSettings, match=fault):
            open_evm(load_settings(**{**EVM, **change}))
    with pytest.raises(BadSettings, match="AITBC_PRIVATE_KEY: is no key"):
        open_aitbc(load_settings(**{**AITBC, "aitbc_private_key": "f" * 64}))


def test_a_key_may_be_in_a_file(tmp_path: Path) -> None:
    """The file of a secret store, with a line feed at its end."""
    file = tmp_path / "key"
    file.write_text(f"0x{KEY}\n")
    settings = load_settings(**{**EVM, "evm_private_key": None, "evm_private_key_file": file})
    assert evm_signer(load_settings(**EVM)).address == evm_signer(settings).address
    sink = open_evm(settings)
    assert 1 == sink.quantum
    assert "5ec2e7" not in repr(vars(sink)) + repr(settings)


def test_the_libraries_leave_the_limit_of_recursion() -> None:
    """With the limit that one of them sets, deep JSON from anybody would end the process."""
    program = (
        "import sys; from coordinator.settlement.evm.signer import EvmSigner as E;"
        "from coordinator.settlement.aitbc.transfer import TransferSigner as T;"
        "before = sys.getrecursionlimit(); E('01' * 32); T('01' * 32);"
        "sys.exit(sys.getrecursionlimit() != before or 'eth_account' not in sys.modules)"
    )
    assert 0 == subprocess.run([sys.executable, "-c", program]).returncode


def test_a_sink_pays_what_its_chain_has_exactly() -> None:
    """3,600 compute-seconds to a unit: 9 of them are 2,500 millionths."""
    assert 2500 == open_aitbc(load_settings(**AITBC)).quantum
    assert 10_000 == open_evm(load_settings(**EVM, evm_token_decimals=2)).quantum


def test_other_sinks_have_no_claims() -> None:
    """Proofs are for the contract of the sink `evm` only."""
    assert claim_terms(load_settings(**AITBC)) is None
    terms = claim_terms(load_settings(**EVM))
    assert terms is not None
    assert "0x4242424242424242424242424242424242424242" == terms.distributor
