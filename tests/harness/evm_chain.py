"""A chain of the Ethereum Virtual Machine that executes transactions (py-evm), behind JSON-RPC over HTTP.

Blocks are mined when a test says so, and it may fork back. Its answers may be replaced by hostile ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, cast

import vyper
from eth.chains.base import MiningChain
from eth.db.atomic import AtomicDB
from eth.db.backends.memory import MemoryDB
from eth.exceptions import VMError
from eth.vm.forks.cancun import CancunVM
from eth.vm.spoof import SpoofTransaction
from eth_abi.abi import decode as abi_decode
from eth_utils.exceptions import ValidationError

from coordinator.crypto.evm.addresses import address_bytes, address_of
from coordinator.crypto.evm.keccak import keccak256
from coordinator.crypto.evm.payout_tree import word
from coordinator.settlement.evm.contract import claim, creation
from coordinator.settlement.evm.signer import GWEI, EvmSigner, Fees
from tests.harness.receiver import Got, Receiver

# These libraries lift the limit of recursion for all tests of the process: deep JSON would end it.
sys.setrecursionlimit(1000)

CHAIN_ID = 1337
COINS = 10**21
GAS = 5_000_000
_ZERO = b"\0" * 20

TOKEN = """
# pragma version 0.4.3
name: public(String[8])
decimals: public(uint8)
balanceOf: public(HashMap[address, uint256])

@deploy
def __init__(decimals_: uint8, supply: uint256):
    self.name = "Coin"
    self.decimals = decimals_
    self.balanceOf[msg.sender] = supply

@external
def transfer(to: address, amount: uint256) -> bool:
    self.balanceOf[msg.sender] -= amount
    self.balanceOf[to] += amount
    return True
"""

REENTERING_TOKEN = """
# pragma version 0.4.3
interface Distributor:
    def claim(account: address, cumulative: uint256, proof: DynArray[bytes32, 64]): nonpayable

balanceOf: public(HashMap[address, uint256])
account: address
cumulative: uint256

@deploy
def __init__(supply: uint256):
    self.balanceOf[msg.sender] = supply

@external
def aim(account: address, cumulative: uint256):
    self.account = account
    self.cumulative = cumulative

@external
def transfer(to: address, amount: uint256) -> bool:
    self.balanceOf[msg.sender] -= amount
    self.balanceOf[to] += amount
    if self.account != empty(address):
        extcall Distributor(msg.sender).claim(self.account, self.cumulative, [])
    return True
"""


class Mined(NamedTuple):
    """What became of a transaction."""

    block: int
    block_hash: bytes
    succeeded: bool
    created: str | None
    reason: str
    """Why it failed, in the contract's words."""


class Failed(Exception):
    """A transaction that the chain executed, and undid; the text is the contract's reason."""


@cache
def bytecode(source: str) -> bytes:
    """The bytes of a contract in Vyper."""
    made = vyper.compile_code(source, output_formats=["bytecode"])
    return bytes.fromhex(made["bytecode"][2:])


class EvmChain:
    """A chain in memory. The accounts of these keys have coins."""

    def __init__(self, *keys: str, chain_id: int = CHAIN_ID) -> None:
        self.chain_id = chain_id
        self.signers = [EvmSigner(key) for key in keys]
        # Any: py-evm's types are of its ports, which know no mining.
        base = cast(Any, MiningChain)
        self._class = base.configure("TestChain", vm_configuration=((0, CancunVM),), chain_id=chain_id)
        self._db = MemoryDB()
        rich = {"balance": COINS, "nonce": 0, "code": b"", "storage": {}}
        genesis: dict[str, Any] = {
            "difficulty": 0,
            "gas_limit": 30_000_000,
            "timestamp": 1_780_000_000,
            "coinbase": _ZERO,
        }
        self._chain = self._class.from_genesis(
            AtomicDB(self._db),
            {**genesis, "extra_data": b"", "nonce": b"\0" * 8, "mix_hash": b"\0" * 32},
            {address_bytes(signer.address): rich for signer in self.signers},
        )
        self._before: list[dict[bytes, bytes]] = []
        """The database before each block."""
        self.mined: dict[str, Mined] = {}
        """By the transactions' hashes."""
        self.waiting: list[Any] = []

    # --- blocks --------------------------------------------------------------------------------------------
    @property
    def head(self) -> int:
        return len(self._before)

    def mine(self, blocks: int = 1) -> None:
        """Make blocks; the first one has the transactions that wait."""
        for _ in range(blocks):
            self._before.append(dict(self._db.kv_store))
            made = [self._execute(transaction) for transaction in self._next()]
            block = self._chain.mine_block()
            for tx_hash, mined in (item for item in made if item is not None):
                self.mined[tx_hash] = mined._replace(block=self.head, block_hash=block.hash)

    def fork_back(self, blocks: int, *, keep: bool = False) -> None:
        """Forget the newest blocks. Their transactions are dropped, or wait again if they are kept."""
        height = self.head - blocks
        dropped = [
            self._transaction(number, index)
            for number in range(height + 1, self.head + 1)
            for index in range(len(self._chain.get_canonical_block_by_number(number).transactions))
        ]
        self._db = MemoryDB(dict(self._before[height]))
        self._chain = self._class(AtomicDB(self._db))
        # Another time makes other hashes.
        self._chain.set_header_timestamp(self._chain.header.timestamp + 1)
        del self._before[height:]
        self.mined = {tx_hash: mined for tx_hash, mined in self.mined.items() if mined.block <= height}
        if keep:
            self.waiting += dropped

    def _transaction(self, number: int, index: int) -> Any:
        return self._chain.get_canonical_block_by_number(number).transactions[index]

    def _next(self) -> list[Any]:
        waiting, self.waiting = sorted(self.waiting, key=lambda transaction: transaction.nonce), []
        return waiting

    def _execute(self, transaction: Any) -> tuple[str, Mined] | None:
        try:
            _, _, computation = self._chain.apply_transaction(transaction)
        except ValidationError:
            if transaction.nonce > self.nonce(address_of(transaction.sender)):
                self.waiting.append(transaction)  # its turn comes later
            return None
        created = address_of(computation.msg.storage_address) if computation.msg.is_create else None
        reason = reason_of(computation.output) if computation.is_error else ""
        mined = Mined(0, b"", not computation.is_error, created, reason)
        return "0x" + transaction.hash.hex(), mined

    # --- as a person uses it -------------------------------------------------------------------------------
    def transact(self, signer: EvmSigner, to: str | None, data: bytes) -> str | None:
        """Send a transaction, and mine it. The contract that it made. Raises Failed."""
        signed = signer.sign(
            chain_id=self.chain_id,
            nonce=self.nonce(signer.address),
            to=to,
            data=data,
            gas=GAS,
            fees=Fees(10 * GWEI, GWEI),
        )
        self.send(signed.raw)
        self.mine()
        mined = self.mined[signed.hash]
        if not mined.succeeded:
            raise Failed(mined.reason)
        return mined.created

    def deploy(self, signer: EvmSigner, data: bytes) -> str:
        created = self.transact(signer, None, data)
        assert created is not None
        return created

    def new_token(self, signer: EvmSigner, decimals: int = 6, supply: int = 10**30) -> str:
        """A token of which the signer has all."""
        return self.deploy(signer, bytecode(TOKEN) + word(decimals) + word(supply))

    def new_distributor(self, signer: EvmSigner, token: str, funds: int) -> str:
        """A distributor with so many tokens."""
        distributor = self.deploy(signer, creation(token, signer.address))
        self.transact(signer, token, calldata("transfer(address,uint256)", distributor, funds))
        return distributor

    def claim(self, signer: EvmSigner, distributor: str, account: str, sum_: int, proof: list[bytes]) -> None:
        """Raises Failed."""
        self.transact(signer, distributor, claim(account, sum_, proof))

    def read(self, to: str, function: str, *arguments: str | int) -> int:
        """The number that a contract answers."""
        return int.from_bytes(self.call(to, calldata(function, *arguments)), "big")

    def nonce(self, address: str, block: int | None = None) -> int:
        return int(self._chain.get_vm(self._header(block)).state.get_nonce(address_bytes(address)))

    # --- the node ------------------------------------------------------------------------------------------
    def send(self, raw: bytes) -> str:
        transaction = self._chain.get_vm().get_transaction_builder().decode(raw)
        tx_hash: str = "0x" + transaction.hash.hex()
        sender = address_of(transaction.sender)
        if tx_hash in self.mined or any(transaction.hash == other.hash for other in self.waiting):
            raise ValueError("already known")
        if transaction.nonce < self.nonce(sender):
            raise ValueError(f"nonce too low: next nonce {self.nonce(sender)}, tx nonce {transaction.nonce}")
        for other in list(self.waiting):
            if (other.sender, other.nonce) == (transaction.sender, transaction.nonce):
                if transaction.max_fee_per_gas < other.max_fee_per_gas * 1.1:
                    raise ValueError("replacement transaction underpriced")
                self.waiting.remove(other)
        self.waiting.append(transaction)
        return tx_hash

    def call(
        self, to: str | None, data: bytes, sender: str = "0x" + "11" * 20, block: int | None = None
    ) -> bytes:
        header = self._header(block)
        computation = self._compute(to, data, sender, header)
        return bytes(computation.output)

    def gas(self, to: str | None, data: bytes, sender: str) -> int:
        computation = self._compute(to, data, sender, self._header(None))
        return int(computation.get_gas_used()) + 21_000 + 16 * len(data) + (32_000 if to is None else 0)

    def _compute(self, to: str | None, data: bytes, sender: str, header: Any) -> Any:
        vm = self._chain.get_vm(header)
        unsigned = vm.create_unsigned_transaction(
            nonce=vm.state.get_nonce(address_bytes(sender)),
            gas_price=header.base_fee_per_gas or GWEI,
            gas=20_000_000,
            to=b"" if to is None else address_bytes(to),
            value=0,
            data=data,
        )
        spoofed = SpoofTransaction(unsigned, from_=address_bytes(sender))
        with vm.in_costless_state() as state:
            computation = state.costless_execute_transaction(spoofed)
        if computation.is_error:
            raise ValueError(f"execution reverted: {reason_of(computation.output)}")
        return computation

    def _header(self, block: int | None) -> Any:
        if block is None:
            return self._chain.get_canonical_head()
        if block > self.head:
            raise ValueError("header not found")
        return self._chain.get_canonical_block_header_by_number(block)

    def answer(self, method: str, params: list[Any]) -> Any:
        """The result of a method of JSON-RPC. Raises ValueError with the error's text."""
        match method, params:
            case "eth_chainId", _:
                return hex(self.chain_id)
            case "eth_blockNumber", _:
                return hex(self.head)
            case "eth_getBlockByNumber", [block, _]:
                try:
                    header = self._header(_number(block))
                except ValueError:
                    return None
                return {"hash": "0x" + header.hash.hex(), "baseFeePerGas": hex(header.base_fee_per_gas)}
            case "eth_getTransactionCount", [address, "pending"]:
                count = self.nonce(address)
                mine = {
                    t.nonce
                    for t in self.waiting
                    if address_of(t.sender) == address_of(address_bytes(address))
                }
                while count in mine:
                    count += 1
                return hex(count)
            case "eth_getTransactionCount", [address, block]:
                return hex(self.nonce(address, _number(block)))
            case "eth_getCode", [address, _]:
                return (
                    "0x" + self._chain.get_vm(self._header(None)).state.get_code(address_bytes(address)).hex()
                )
            case "eth_call", [question, block]:
                found = self.call(question["to"], _bytes(question["data"]), block=_number(block))
                return "0x" + found.hex()
            case "eth_estimateGas", [question]:
                return hex(self.gas(question.get("to"), _bytes(question["data"]), question["from"]))
            case "eth_sendRawTransaction", [raw]:
                return self.send(_bytes(raw))
            case "eth_getTransactionByHash", [tx_hash]:
                waits = any("0x" + other.hash.hex() == tx_hash for other in self.waiting)
                return {"hash": tx_hash} if waits or tx_hash in self.mined else None
            case "eth_getTransactionReceipt", [tx_hash]:
                return self._receipt(tx_hash)
        raise ValueError(f"the method {method} does not exist")

    def _receipt(self, tx_hash: str) -> dict[str, Any] | None:
        mined = self.mined.get(tx_hash)
        if mined is None:
            return None
        return {
            "transactionHash": tx_hash,
            "blockNumber": hex(mined.block),
            "blockHash": "0x" + mined.block_hash.hex(),
            "status": hex(mined.succeeded),
            "contractAddress": mined.created,
        }


class EvmServer(Receiver):
    """JSON-RPC of a chain. `instead`: what a hostile node says for a method, in place of the chain."""

    def __init__(self, chain: EvmChain) -> None:
        super().__init__(self._answer)
        self.chain = chain
        self.instead: dict[str, Callable[[list[Any]], bytes]] = {}
        self.mines = False
        """Whether each transaction gets a block at once."""

    def _answer(self, got: Got) -> bytes:
        question = json.loads(got.body)
        method, params = question["method"], question["params"]
        if method in self.instead:
            return self.instead[method](params)
        said: dict[str, Any] = {"jsonrpc": "2.0", "id": question["id"]}
        try:
            said["result"] = self.chain.answer(method, params)
            if self.mines and method == "eth_sendRawTransaction":
                self.chain.mine()
        except (ValueError, VMError, ValidationError) as error:
            said["error"] = {"code": -32000, "message": str(error)}
        return http(json.dumps(said).encode())


def http(body: bytes, status: str = "200 OK") -> bytes:
    """An HTTP answer with this body."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def calldata(function: str, *arguments: str | int) -> bytes:
    """The data of a call whose arguments are addresses and numbers."""
    words = (word(int(item, 16) if isinstance(item, str) else item) for item in arguments)
    return keccak256(function.encode())[:4] + b"".join(words)


def reason_of(output: bytes) -> str:
    """The words of `Error(string)`."""
    if output[:4] != bytes.fromhex("08c379a0"):
        return ""
    words: str = abi_decode(["string"], output[4:])[0]
    return words


def _number(block: str) -> int | None:
    return None if block == "latest" else int(block, 16)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])
