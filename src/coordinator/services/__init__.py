"""The services that a fresh registry knows."""
