"""A stand-in for a node of AITBC's chain: the rules of its API that we know, written from their description.

Nothing of AITBC runs here: that the real node keeps to these rules was read in its code, and not tried.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from eth_keys.datatypes import Signature
from eth_utils.crypto import keccak

from tests.harness.evm_chain import http
from tests.harness.receiver import Got, Receiver

CHAIN = "ait-test"


@dataclass
class Holder:
    """An account."""

    balance: int = 0
    nonce: int = 0


class AitbcStandIn(Receiver):
    """`mine` makes a block. A transaction whose nonce has passed, or whose sender is poor, vanishes then."""

    def __init__(self, **balances: int) -> None:
        super().__init__(self._answer)
        self.accounts = {address: Holder(balance) for address, balance in balances.items()}
        self.mempool: dict[str, dict[str, Any]] = {}
        self.blocks: list[list[dict[str, Any]]] = [[]]
        self.cached: dict[str, Holder] = {}
        """Accounts as the node's cache has them, in place of what they are."""
        self.instead: Callable[[Got], bytes | None] = lambda _: None
        """What a hostile node says, in place of the stand-in."""

    def balance(self, address: str) -> int:
        return self.accounts.get(address.lower(), Holder()).balance

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            waiting, self.mempool = self.mempool, {}
            taken = []
            for tx_hash, tx in waiting.items():
                sender = self.accounts[tx["from"]]
                if tx["nonce"] != sender.nonce or sender.balance < tx["amount"] + tx["fee"]:
                    continue
                sender.balance -= tx["amount"] + tx["fee"]
                sender.nonce += 1
                self.accounts.setdefault(tx["to"], Holder()).balance += tx["amount"]
                taken.append({**tx, "tx_hash": tx_hash})
            self.blocks.append(taken)

    def _answer(self, got: Got) -> bytes:
        said = self.instead(got)
        if said is not None:
            return said
        target = urlsplit(got.target)
        *_, what, last = target.path.split("/")
        if got.method == "POST" and target.path == "/rpc/transaction":
            return self._submit(json.loads(got.body))
        if parse_qs(target.query).get("chain_id") != [CHAIN]:
            return _json({"detail": "Not found"}, "404 Not Found")
        if target.path == "/rpc/head":
            return _json({"height": len(self.blocks) - 1, "hash": "0x00", "tx_count": 0})
        if what == "account" and last in self.accounts:
            holder = self.cached.get(last, self.accounts[last])
            return _json(
                {"address": last, "balance": holder.balance, "nonce": holder.nonce, "chain_id": CHAIN}
            )
        if what == "transaction":
            for height, block in enumerate(self.blocks):
                for tx in block:
                    if tx["tx_hash"] == last:
                        return _json(_told(tx, height))
        return _json({"detail": "Not found"}, "404 Not Found")

    def _submit(self, request: dict[str, Any]) -> bytes:
        # The trap: the amount is in the payload before the signature is checked.
        request["payload"].setdefault("amount", request["amount"])
        signature = request.pop("signature")
        signed = json.dumps(request, sort_keys=True, separators=(",", ":")).encode()
        key = Signature(bytes.fromhex(signature[2:])).recover_public_key_from_msg_hash(keccak(signed))
        if key.to_address() != request["from"].lower():
            return _refused("Invalid transaction signature")
        sender = self.accounts.get(request["from"])
        if request["chain_id"] != CHAIN:
            return _refused("unsupported chain_id")
        if sender is None:
            return _refused("sender account not found on chain")
        if sender.balance < request["amount"] + request["fee"]:
            return _refused("insufficient balance for sender")
        if request["nonce"] != sender.nonce:
            return _refused(f"invalid nonce for sender: expected {sender.nonce}, got {request['nonce']}")
        kept = {**request, "value": request["amount"]}
        hashed = json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()
        tx_hash = "0x" + hashlib.sha256(hashed).hexdigest()
        self.mempool[tx_hash] = kept
        return _json(
            {"success": True, "transaction_hash": tx_hash, "message": "Transaction submitted to mempool"}
        )


def _told(tx: dict[str, Any], height: int) -> dict[str, Any]:
    return {
        "tx_hash": tx["tx_hash"],
        "chain_id": CHAIN,
        "block_height": height,
        "sender": tx["from"],
        "recipient": tx["to"],
        "payload": tx["payload"],
        "type": tx["type"],
        "status": "confirmed",
        "nonce": tx["nonce"],
        "value": tx["amount"],
        "fee": tx["fee"],
    }


def _json(content: dict[str, Any], status: str = "200 OK") -> bytes:
    return http(json.dumps(content).encode(), status)


def _refused(why: str) -> bytes:
    return _json({"detail": f"Failed to submit transaction: {why}"}, "400 Bad Request")
