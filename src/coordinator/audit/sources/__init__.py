"""Where a log is read from: a database, an exported file, or a coordinator over HTTP."""
