"""What belongs to the name of a key: its limits and its money."""
