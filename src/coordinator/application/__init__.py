"""What the coordinator does with the rules: the command bus, the followers, and the ports they need."""
