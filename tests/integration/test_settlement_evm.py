"""Miners' money on a chain, from the job to the claim: a whole coordinator, and a chain that executes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator.crypto.evm.addresses import address_of
from coordinator.crypto.evm.payout_tree import payout_leaf, root_of_proof
from coordinator.settlement.evm.rpc import EvmNode
from coordinator.settlement.evm.signer import GWEI
from coordinator.settlement.evm.sink import EvmSink, EvmTerms
from coordinator.settlement.scale import Scale
from tests.harness.evm_chain import CHAIN_ID, EvmChain, EvmServer, Failed
from tests.integration.settlement_bench import Killed, SettlementBench, settling

OWNER, STRANGER = "01" * 32, "02" * 32
FUNDS = 10**24
DECIMALS = 18
RIG, OTHER, MOVED = (address_of(bytes([0xCE, n]) * 10) for n in (1, 2, 3))


class Stage:
    """A coordinator with a chain below it."""

    def __init__(self, bench: SettlementBench, chain: EvmChain, token: str, distributor: str) -> None:
        self.bench, self.edge, self.chain = bench, bench.edge, chain
        self.token, self.distributor = token, distributor
        self.earned = {"rig": 0, "other-rig": 0}

    async def live_at(self, name: str, address: str) -> None:
        client = {"rig": self.edge.rig, "other-rig": self.edge.other_rig}[name]
        answer = await client.put("/v1/accounts/me/payout_address", json={"address": address})
        assert answer.status_code == 200, answer.text

    async def settle(self) -> None:
        """Close a batch, and send it while blocks are made."""
        await self.bench.close()
        for name in self.earned:
            self.earned[name] += await self.bench_amount(name)
        sender = self.bench.sender()
        for _ in range(30):
            await sender.round()
            self.chain.mine()
            await self.bench.caught_up()
            if not await self.bench.open():
                return
        raise AssertionError(f"not settled: {self.bench.part.problem}")

    async def bench_amount(self, name: str) -> int:
        [batch, *_] = await self.bench.batches()
        lines = (await self.edge.admin.get(f"/v1/settlements/{batch['number']}")).json()["lines"]
        return sum(line["amount"] for line in lines if line["party"] == name)

    async def proof(self, name: str) -> dict[str, Any]:
        client = {"rig": self.edge.rig, "other-rig": self.edge.other_rig}[name]
        answer = await client.get("/v1/accounts/me/settlement_proof")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def claim(self, proof: dict[str, Any]) -> None:
        """Send exactly what the coordinator gave to the miner. Raises Failed."""
        for claim in proof["claims"]:
            self.chain.transact(self.chain.signers[1], proof["contract"], bytes.fromhex(claim["data"][2:]))

    def has(self, account: str) -> int:
        return self.chain.read(self.token, "balanceOf(address)", account)


@asynccontextmanager
async def staged(directory: Path) -> AsyncIterator[Stage]:
    chain = EvmChain(OWNER, STRANGER)
    owner = chain.signers[0]
    token = chain.new_token(owner, DECIMALS)
    distributor = chain.new_distributor(owner, token, FUNDS)
    async with EvmServer(chain) as server:
        terms = EvmTerms(CHAIN_ID, distributor, Scale(10**DECIMALS), 2, 60, GWEI, 100 * GWEI)
        settings: dict[str, Any] = {
            "settlement_sink": "evm",
            "evm_rpc_url": server.url,
            "evm_chain_id": CHAIN_ID,
            "evm_distributor": distributor.lower(),
            "evm_private_key": OWNER,
            "evm_token_decimals": DECIMALS,
        }
        sink = EvmSink(EvmNode(server.url), owner, terms)
        async with settling(directory, sink, **settings) as bench:
            yield Stage(bench, chain, token, distributor)
        await sink.close()


async def test_a_miner_claims_all_that_it_earned(tmp_path: Path) -> None:
    """The contract pays what the ledger says, to the last unit, over batches and changes of address."""
    async with staged(tmp_path) as stage:
        assert {"batch": None, "root": None, "claims": []}.items() <= (await stage.proof("rig")).items()
        answer = await stage.edge.rig.put("/v1/accounts/me/payout_address", json={"address": RIG[:-1] + "0x"})
        assert answer.json()["code"] == "INVALID_PAYLOAD"
        await stage.live_at("rig", RIG)
        await stage.live_at("other-rig", OTHER.lower())
        await stage.bench.earn("rig", 2)
        await stage.bench.earn("other-rig")
        await stage.settle()
        first = await stage.proof("rig")
        assert (CHAIN_ID, stage.distributor, 1) == (first["chain_id"], first["contract"], first["batch"])
        stage.claim(first)
        assert stage.earned["rig"] * 10**12 == stage.has(RIG) > 0
        with pytest.raises(Failed, match="nothing to claim"):
            stage.claim(first)
        # A later batch, to another address: the old sums stay with the old one, the unclaimed with theirs.
        await stage.live_at("rig", MOVED)
        await stage.bench.earn("rig")
        await stage.bench.earn("other-rig")
        await stage.settle()
        for name in ("rig", "other-rig"):
            proof = await stage.proof(name)
            for claim in proof["claims"]:
                leaf = payout_leaf(CHAIN_ID, stage.distributor, claim["account"], int(claim["cumulative"]))
                path = [bytes.fromhex(node[2:]) for node in claim["proof"]]
                assert proof["root"] == "0x" + root_of_proof(leaf, path).hex()
            for claim in proof["claims"]:
                if stage.has(claim["account"]) < int(claim["cumulative"]):
                    stage.claim({**proof, "claims": [claim]})
        with pytest.raises(Failed, match="invalid proof"):
            stage.claim(first)
        assert stage.earned["rig"] * 10**12 == stage.has(RIG) + stage.has(MOVED)
        assert stage.earned["other-rig"] * 10**12 == stage.has(OTHER)
        [latest, _] = await stage.bench.batches()
        assert "0x" + latest["payout_root"] == (await stage.proof("rig"))["root"]
        assert 2 == stage.chain.read(stage.distributor, "batch()")
        # All that left the ledger is with the miners.
        outside = (await stage.bench.account("@outside"))["balance"]
        assert outside == -(10**9) + sum(stage.earned.values())


async def test_only_a_party_and_admins_see_its_proof(tmp_path: Path) -> None:
    """A client without payouts has no claims; an admin sees those of any party, and nobody else does."""
    async with staged(tmp_path) as stage:
        await stage.live_at("rig", RIG)
        await stage.bench.earn("rig")
        await stage.settle()
        own = await stage.edge.rig.get("/v1/accounts/me/settlement_proof")
        of_rig = await stage.edge.admin.get("/v1/admin/accounts/rig/settlement_proof")
        assert own.json() == of_rig.json()
        assert [RIG] == [claim["account"] for claim in own.json()["claims"]]
        for client in (stage.edge.alice, stage.edge.rig):
            assert 403 == (await client.get("/v1/admin/accounts/rig/settlement_proof")).status_code
        none = (await stage.edge.alice.get("/v1/accounts/me/settlement_proof")).json()
        assert ([], None) == (none["claims"], none["root"])


async def test_crashes_and_a_fork_publish_one_root(tmp_path: Path) -> None:
    """A process dies at each step once, and the chain drops a block: the batch is published and paid once."""
    async with staged(tmp_path) as stage:
        await stage.live_at("rig", RIG)
        await stage.bench.earn("rig")
        await stage.bench.close()
        owed = await stage.bench_amount("rig")
        seen: set[str] = set()

        def die_once(what: str) -> None:
            if what not in seen:
                seen.add(what)
                raise Killed

        forked = False
        for _ in range(60):
            with contextlib.suppress(Killed):
                await stage.bench.sender(step=die_once).round()
            await stage.bench.caught_up()
            [batch] = await stage.bench.batches()
            if batch["state"] == "SETTLED":
                break
            if batch["state"] == "SUBMITTED" and not forked:
                stage.chain.mine()
                stage.chain.fork_back(1)
                forked = True
            elif forked:
                stage.chain.mine()
        assert "SETTLED" == batch["state"]
        assert {"after prepare", "before submit", "after submit", "after settlement.confirm"} <= seen
        assert 1 == stage.chain.read(stage.distributor, "batch()")
        proof = await stage.proof("rig")
        stage.claim(proof)
        assert owed * 10**12 == stage.has(RIG) == FUNDS - stage.has(stage.distributor)
