"""What endpoints are made of: problems, bodies, reads, commands, waiting. None of them is an endpoint."""
