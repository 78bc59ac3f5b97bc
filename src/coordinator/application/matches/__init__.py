"""Matches: what the tables say of the live miners, and of the jobs that wait for them."""
