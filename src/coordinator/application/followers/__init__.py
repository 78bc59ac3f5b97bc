"""What follows the log: the feed of events, the runner, the publisher, timers, and signs of life."""
