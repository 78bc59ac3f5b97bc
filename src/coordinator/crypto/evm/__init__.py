"""The cryptography of the Ethereum Virtual Machine: Keccak-256, addresses, trees of payouts."""
