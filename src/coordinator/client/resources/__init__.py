"""What a client manages besides its jobs: the registry, API keys, quotas and webhooks."""
