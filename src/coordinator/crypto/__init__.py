"""Canonical bytes, Ed25519 keys, receipts, and references to blobs. Imports only `validation` besides."""
