"""Listening sockets."""

from __future__ import annotations

import socket

STUCK_SECONDS = 120  # a connection whose peer accepts no data for so long is closed by the kernel
UNSENT_BYTES = 128 * 1024  # in the kernel; so we see soon whether a peer takes data, also on fast networks


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; port 0 picks a free one. Raises OSError.

    `shared`: other sockets of ours may listen there, too; the kernel spreads the connections over them.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted connections inherit it
        # A live peer that reads nothing would otherwise keep its unread data in our memory for ever.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_SECONDS * 1000)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
