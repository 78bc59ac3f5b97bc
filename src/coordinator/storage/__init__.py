"""Storage of the log and the derived tables: SQLite or Postgres, and their migrations."""
