"""Settlement batches, as the auditor follows them.

`batches` has the chain of batches and their parts, `payments` the payments that no batch covers yet,
`publications` the roots that a contract was sent.
"""

from coordinator.audit.settlement.batches import TRANSIT, Batches

__all__ = ["TRANSIT", "Batches"]
