"""Requests handed from edge processes to the core process, over a local socket.

An edge process speaks HTTP with the clients; the core process has the application and all of its state. The
messages of ASGI cross between them in frames (`frames`), one exchange at a time on each connection (`link`).
"""
