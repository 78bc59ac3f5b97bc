"""Reads: single entries, lists in pages, matches, waits, and stored payloads."""
