"""Matching: the needs of jobs against the capabilities of miners, and why they do not meet. Pure."""
