"""Endpoints of miners that work over HTTP: polls, claims and results."""
