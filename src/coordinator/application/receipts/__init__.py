"""Receipts: made from the events of a job when somebody asks, and promised as soon as it is completed."""
