"""Connections to strangers' hosts: only to public addresses, and to the very address that was checked.

A name is resolved once. All its addresses must be public, and the connection goes to one of them, even if the
name resolves differently a moment later (DNS rebinding). TLS still proves the name.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpcore

from coordinator.wire.urls import UnsafeUrl, is_public

MAX_ADDRESSES: Final = 4  # tried for one name

_RESOLVERS: Final = ThreadPoolExecutor(64, thread_name_prefix="resolver")
"""A stranger's name server may answer late, and no timeout ends the thread that asks it. So these are not the
threads of the process's other work."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host name; raises OSError."""


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects only to checked addresses."""

    def __init__(self, resolve: Resolve, *, public_only: bool) -> None:
        self._plain = httpcore.AnyIOBackend()
        self._resolve = resolve
        self._public_only = public_only

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to one of the host's addresses; all must be public. Raises UnsafeUrl."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
        except OSError as error:  # a TimeoutError is one
            raise httpcore.ConnectError(f"no address ({type(error).__name__})") from None
        # A private address among public ones would lead to the private network now and then.
        if self._public_only and not all(map(is_public, addresses)):
            raise UnsafeUrl("its host has an address that is not public")
        failure: Exception = httpcore.ConnectError("no address")
        for address in addresses[:MAX_ADDRESSES]:
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise UnsafeUrl("a URL can't name a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        await self._plain.sleep(seconds)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host name, by the system's resolver. Raises OSError."""

    def ask() -> Sequence[tuple[Any, ...]]:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    found = await asyncio.get_running_loop().run_in_executor(_RESOLVERS, ask)
    # An address with a zone (fe80::1%eth0) is never public; `is_public` says so.
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
