"""The derived tables: SQLite and Postgres behind one port, named statements, leadership."""
