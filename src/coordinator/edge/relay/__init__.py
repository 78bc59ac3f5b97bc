"""Requests that edge processes hand to the core process, over a local socket.

An edge process speaks HTTP with the clients; the core has all state. `calling` and `answering` are the two
sides of whole exchanges (the messages of ASGI), `asking` and `telling` those of questions; both use `frames`
and `link`. `local` chooses: the application of an edge process, over its `ports`, answers commands alone.
"""
