"""Webhooks: what receivers are told, when, and what became of it."""
