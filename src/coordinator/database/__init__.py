"""Where the derived tables are: SQLite and Postgres, migrations, named statements, leadership."""
