"""The event log over the eventsourcing recorders: SQLite, Postgres, and memory for unit tests."""
