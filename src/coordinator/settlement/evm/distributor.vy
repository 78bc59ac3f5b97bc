# pragma version 0.4.3
# pragma evm-version paris
"""
@title Distributor
@license Apache-2.0
@notice Pays tokens by a Merkle root of cumulative sums: an account has earned so much since the beginning, and
    claims the part that it has not got yet. A new root never takes away what an older one granted, because the
    sums only grow; the publisher sees to that, and the contract to the total. The owner names the publisher, so
    that a lost or stolen key of the publisher can be replaced.
@dev A leaf is keccak256(keccak256(abi.encode(chain id, this contract, account, cumulative))); the two hashes of
    a pair are sorted. The token must move exactly the amount that it is told to: no fee on transfers.
"""

from ethereum.ercs import IERC20

# More hashes than any proof has.
MAX_PROOF: constant(uint256) = 64

event RootSet:
    batch: indexed(uint256)
    old_root: bytes32
    new_root: bytes32
    total: uint256

event Claimed:
    account: indexed(address)
    amount: uint256
    cumulative: uint256

event OwnerSet:
    old_owner: indexed(address)
    new_owner: indexed(address)

event PublisherSet:
    old_publisher: indexed(address)
    new_publisher: indexed(address)

token: public(immutable(IERC20))
owner: public(address)
publisher: public(address)
root: public(bytes32)
batch: public(uint256)
total: public(uint256)
paid: public(uint256)
claimed: public(HashMap[address, uint256])


@deploy
def __init__(token_: IERC20, owner_: address):
    assert token_.address.is_contract, "the token is no contract"
    assert owner_ != empty(address), "no owner"
    token = token_
    self.owner = owner_
    self.publisher = msg.sender


@external
def set_root(expected_root: bytes32, new_root: bytes32, new_total: uint256, batch: uint256):
    """
    @notice Replace the root. `new_total` is the sum of all its cumulative sums, and must be here already, but
        for the part that is paid.
    @dev `expected_root` makes a repeated or late call fail, instead of bringing an older root back.
    """
    assert msg.sender == self.publisher, "not the publisher"
    assert expected_root == self.root, "another root is set"
    assert batch > self.batch, "not a later batch"
    assert new_total >= self.total, "sums never fall"
    assert staticcall token.balanceOf(self) >= new_total - self.paid, "not funded"
    self.root = new_root
    self.batch = batch
    self.total = new_total
    log RootSet(batch=batch, old_root=expected_root, new_root=new_root, total=new_total)


@external
@nonreentrant
def claim(account: address, cumulative: uint256, proof: DynArray[bytes32, MAX_PROOF]):
    """
    @notice Pay an account the part of its cumulative sum that it has not got yet. Anybody may call it; only the
        account is paid.
    """
    node: bytes32 = keccak256(keccak256(abi_encode(chain.id, self, account, cumulative)))
    for sibling: bytes32 in proof:
        if convert(node, uint256) < convert(sibling, uint256):
            node = keccak256(concat(node, sibling))
        else:
            node = keccak256(concat(sibling, node))
    assert node == self.root, "invalid proof"
    claimed: uint256 = self.claimed[account]
    assert cumulative > claimed, "nothing to claim"
    amount: uint256 = cumulative - claimed
    self.claimed[account] = cumulative
    self.paid += amount
    assert self.paid <= self.total, "more than the total"
    # Tokens that return nothing count as done; those that return False do not.
    assert extcall token.transfer(account, amount, default_return_value=True), "the token refused"
    log Claimed(account=account, amount=amount, cumulative=cumulative)


@external
@nonreentrant
def withdraw(to: address):
    """
    @notice Move the tokens that no root has promised to anybody.
    """
    assert msg.sender == self.owner, "not the owner"
    spare: uint256 = staticcall token.balanceOf(self) - (self.total - self.paid)
    assert extcall token.transfer(to, spare, default_return_value=True), "the token refused"


@external
def set_owner(new_owner: address):
    """
    @notice Hand over all rights of the owner.
    """
    assert msg.sender == self.owner, "not the owner"
    assert new_owner != empty(address), "no owner"
    log OwnerSet(old_owner=msg.sender, new_owner=new_owner)
    self.owner = new_owner


@external
def set_publisher(new_publisher: address):
    """
    @notice Say who sets roots from now on. The zero address: nobody.
    """
    assert msg.sender == self.owner, "not the owner"
    log PublisherSet(old_publisher=self.publisher, new_publisher=new_publisher)
    self.publisher = new_publisher
