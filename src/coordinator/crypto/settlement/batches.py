"""The digests of settlement batches: each names the one before, and the root over the payments it covers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from coordinator.crypto.merkle import leaf_hash, root_of

NO_BATCH: Final = "0" * 64
"""The digest before the first batch."""
_FACTS: Final = ("number", "sink", "after", "until", "receipts", "receipts_root", "total", "previous")


def payment_leaf(payment: Mapping[str, Any]) -> bytes:
    """The leaf hash of a paid job: a payment of a `payments.settled` event, as JSON has it.

    RFC 6962's leaf hash of the canonical JSON of job and attempt (which give the receipt's id), the parties,
    the amount and the fee.
    """
    facts = {
        "job_id": str(payment["job_id"]),
        "attempt": payment["attempt"],
        "client": payment["client"],
        "miner": payment["miner"],
        "amount": payment["amount"],
        "fee": payment["fee"],
    }
    return leaf_hash(_canonical(facts))


def payments_root(leaves: Sequence[bytes]) -> str:
    """The root over these leaf hashes, hex."""
    return root_of(leaves).hex()


def batch_digest(batch: Mapping[str, Any]) -> str:
    """The digest of a batch: hex SHA-256 of the canonical JSON of its facts, payouts included."""
    facts: dict[str, Any] = {name: batch[name] for name in _FACTS}
    facts["payouts"] = [
        {"party": payout["party"], "address": payout["address"], "amount": payout["amount"]}
        for payout in batch["payouts"]
    ]
    return hashlib.sha256(_canonical(facts)).hexdigest()


def _canonical(facts: Mapping[str, Any]) -> bytes:
    # `crypto.canonical` reads files, too, and the domain must not. These facts are ASCII text and integers up
    # to 2^53 - 1, of which this is the same form.
    return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
