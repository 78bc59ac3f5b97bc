"""Reads of the tables, in typed rows: a new read is a method of `read_models`, its row a class of `rows`."""
