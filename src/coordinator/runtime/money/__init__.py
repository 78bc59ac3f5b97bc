"""Money in a process: its settings, its sink, and the parts that settle."""
