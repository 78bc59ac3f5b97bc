"""What the coordinator tells of its work as it does it: spans of commands and offers, and times of jobs."""
