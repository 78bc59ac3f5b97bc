"""Benchmarks: what the coordinator does per second, what it costs, and where the time goes."""
