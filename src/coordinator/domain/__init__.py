"""The rules: pure functions over immutable messages and states. No I/O, no clock, no randomness."""
