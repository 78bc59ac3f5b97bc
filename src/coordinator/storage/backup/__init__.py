"""A backup in a folder: parts of the log, its blobs, and a manifest that says what is whole."""
