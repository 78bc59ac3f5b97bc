"""Digests of settlement batches."""

from coordinator.crypto.settlement.batches import NO_BATCH as NO_BATCH
from coordinator.crypto.settlement.batches import batch_digest as batch_digest
from coordinator.crypto.settlement.batches import payment_leaf as payment_leaf
from coordinator.crypto.settlement.batches import payments_root as payments_root
