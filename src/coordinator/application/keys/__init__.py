"""API keys: the keyring of a process, and the follower that keeps it up to date."""
