"""Benchmarks: throughput, latency and cost of the coordinator."""
