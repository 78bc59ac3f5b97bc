"""The event log over the eventsourcing recorders: SQLite and Postgres."""
