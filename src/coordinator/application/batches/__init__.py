"""Batches: one command for each of the jobs that match a query, carried out at a bounded rate."""
