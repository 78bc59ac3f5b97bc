"""Live connections: WebSockets of clients and miners, and server-sent events.

A new message to a client is a class of `messages`; a request of a client's is one of `client_socket`.
"""
