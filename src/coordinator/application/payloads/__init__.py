"""Payloads and results: their schemas, their stored bodies, and the blobs that they refer to."""
