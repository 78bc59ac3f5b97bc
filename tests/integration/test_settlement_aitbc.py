"""Miners' money by transfers: a whole coordinator, and the stand-in for AITBC's chain."""

from __future__ import annotations

from pathlib import Path

from coordinator.settlement.aitbc.node import AitbcNode
from coordinator.settlement.aitbc.sink import AitbcSink, AitbcTerms
from coordinator.settlement.aitbc.transfer import TransferSigner
from coordinator.settlement.scale import Scale
from tests.harness.aitbc_chain import CHAIN, AitbcStandIn
from tests.integration.settlement_bench import settling

SIGNER = TransferSigner("03" * 32)
PER_UNIT, FEE = 360_000, 36  # a quantum of 25: a test's jobs earn little
HOMES = {"rig": "0x" + "a1" * 20, "other-rig": "0x" + "b2" * 20}


async def test_miners_are_paid_in_whole_compute_seconds(tmp_path: Path) -> None:
    """Each payee gets one transfer; what the chain can't have stays in the account, and no unit is lost."""
    async with AitbcStandIn(**{SIGNER.address: 10**9}) as chain:
        terms = AitbcTerms(CHAIN, Scale(PER_UNIT), FEE, 2)
        sink = AitbcSink(AitbcNode(chain.url, CHAIN), SIGNER, terms)
        settings = {
            "settlement_sink": "aitbc",
            "aitbc_rpc_url": chain.url,
            "aitbc_chain_id": CHAIN,
            "aitbc_private_key": "03" * 32,
        }
        async with settling(tmp_path, sink, **settings) as bench:
            clients = {"rig": bench.edge.rig, "other-rig": bench.edge.other_rig}
            for name, client in clients.items():
                answer = await client.put("/v1/accounts/me/payout_address", json={"address": HOMES[name]})
                assert answer.status_code == 200, answer.text
                await bench.earn(name, 3)
            earned = {name: await bench.balance(name) for name in HOMES}
            assert 1 == await bench.close()
            sender = bench.sender()
            for _ in range(30):
                await sender.round()
                chain.mine()
                await bench.caught_up()
                if not await bench.open():
                    break
            left = {name: await bench.balance(name) for name in HOMES}
            assert {name: amount % sink.quantum for name, amount in earned.items()} == left
            for name, home in HOMES.items():
                assert (earned[name] - left[name]) * PER_UNIT == chain.balance(home) * 10**6 > 0
            spent = sum(chain.balance(home) for home in HOMES.values()) + 2 * FEE
            assert 10**9 - spent == chain.balance(SIGNER.address)
            [batch] = await bench.batches()
            assert ("SETTLED", 2) == (batch["state"], batch["part"])
            answer = await bench.edge.rig.get("/v1/accounts/me/settlement_proof")
            assert (409, "CONFLICT_STATE") == (answer.status_code, answer.json()["code"])
        await sink.close()
