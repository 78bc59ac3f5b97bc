"""Connections to SQLite and Postgres, which the log and the tables share."""
