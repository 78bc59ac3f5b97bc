"""Where the log and the derived tables are kept: SQLite or Postgres, and their migrations."""
