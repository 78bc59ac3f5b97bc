"""The Merkle tree over the log: signed checkpoints, their witnesses, and proofs for readers."""
