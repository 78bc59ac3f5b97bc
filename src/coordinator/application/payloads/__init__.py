"""Payloads and results as documents: their schemas, their stored form, and the blobs that they refer to."""
