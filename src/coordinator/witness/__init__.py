"""`coordinator witness`: co-signs the checkpoints of other logs after checking that they only grew."""
