"""Endpoints of the registry: its entries, and their changes."""
