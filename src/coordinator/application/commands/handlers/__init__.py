"""A handler for each noun: everything that its commands need besides the rules."""
