"""What is passed on while it happens: events, progress, and who may still listen."""
