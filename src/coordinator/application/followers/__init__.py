"""Followers of the log: the event feed, the runner, the publisher, the timers, and presence."""
