"""Live data: events and progress for open connections, and the revocation of those connections."""
