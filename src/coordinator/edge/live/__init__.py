"""Live connections: WebSockets of clients and miners, and server-sent events."""
