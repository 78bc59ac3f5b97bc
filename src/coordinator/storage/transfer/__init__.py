"""A log in one file: written from a database, read into an empty one of either kind."""
