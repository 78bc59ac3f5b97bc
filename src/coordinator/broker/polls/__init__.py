"""Miners that poll over HTTP: offers reach them in memory, or from work queues through consumers of ours."""
