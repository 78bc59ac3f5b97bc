"""Live connections: WebSockets of clients and miners, and server-sent events.

A new message to clients is a class of `messages`; a new request of clients is a class of `client_socket`.
"""
