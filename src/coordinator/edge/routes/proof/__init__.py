"""Endpoints of the proof: checkpoints, tiles and proofs of the log, passports of jobs, the public keys."""
