"""Backups: made while the coordinator runs, and restored into an empty database."""
