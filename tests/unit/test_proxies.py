"""Proxies of the environment: for public hosts only, and errors that name the variable."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from coordinator.client import AsyncCoordinator, Unreachable
from coordinator.client.errors import CoordinatorError
from coordinator.wire.http.proxies import BadProxy, Proxy, new_client, proxy_of
from tests.harness.cases import every

PROXY = {"http": "http://proxy.example:3128", "https": "http://proxy.example:3129"}


@every(
    "url",
    [
        "http://127.0.0.1:8011",
        "http://127.9.9.9",
        "http://[::1]:8011",
        "http://localhost:8000/v1",
        "http://engine.localhost",
        "http://LOCALHOST.",
        "http://10.1.2.3:8000",
        "http://192.168.0.7",
        "https://172.16.0.1",
        "http://169.254.1.1",
        "http://[fd00::1]:80",
        "http://[fe80::1%25eth0]:80",
        "http://coordinator:8011",
        "http://nas.local",
        "http://gpu.lan",
        "http://node.internal",
    ],
)
def test_inner_hosts_are_reached_directly(url: str) -> None:
    """No proxy stands before this machine, private networks, and names without a dot."""
    assert proxy_of(url, {**PROXY, "all": "http://other.example"}) is None


@every(
    "variables, url, expected",
    [
        (PROXY, "http://example.com", Proxy("http://proxy.example:3128", "HTTP_PROXY")),
        (PROXY, "https://example.com:8443", Proxy("http://proxy.example:3129", "HTTPS_PROXY")),
        (PROXY, "https://8.8.8.8", Proxy("http://proxy.example:3129", "HTTPS_PROXY")),
        ({"all": "proxy.example:1"}, "https://example.com", Proxy("http://proxy.example:1", "ALL_PROXY")),
        ({"http": "http://p.example"}, "https://example.com", None),
        ({}, "https://example.com", None),
    ],
)
def test_public_hosts_have_the_proxy_of_their_scheme(
    variables: Mapping[str, str], url: str, expected: Proxy | None
) -> None:
    """The variable of the scheme counts, then ALL_PROXY; an address without a scheme is one of HTTP."""
    assert expected == proxy_of(url, variables)


@every(
    "no_proxy, url, exempt",
    [
        ("*", "http://example.com", True),
        ("example.com", "http://example.com", True),
        ("example.com", "http://a.example.com", True),
        (".example.com", "http://a.example.com", True),
        ("*.example.com", "http://a.example.com", True),
        ("EXAMPLE.com", "http://example.COM.", True),
        ("example.com", "http://notexample.com", False),
        ("example.com:8080", "http://example.com:8080", True),
        ("example.com:8080", "http://example.com", False),
        ("8.8.8.0/24", "http://8.8.8.8", True),
        ("8.8.8.0/24", "http://8.8.9.8", False),
        ("8.8.8.8", "http://8.8.8.8", True),
        ("2606:4700::/32", "http://[2606:4700::1]", True),
        ("[2606:4700::1]", "http://[2606:4700::1]", True),
        ("10.0.0.0/8, fd00::/8 ,,nonsense/99", "http://example.com", False),
        ("8.8", "http://8.8.8.8", False),
    ],
)
def test_no_proxy_lists_names_addresses_and_networks(no_proxy: str, url: str, exempt: bool) -> None:
    """Entries are names with their subdomains, with or without a port, addresses and networks; others are
    passed over."""
    assert exempt == (proxy_of(url, {**PROXY, "no": no_proxy}) is None)


@every(
    "value",
    [
        "ftp://u:secret@p.example",
        "://secret",
        "http://:secret@",
        "http://u:secret@p:99999",
        "socks4://secret",
    ],
)
def test_an_invalid_proxy_is_named_without_its_value(value: str) -> None:
    """The error names the variable; the value may hold a password."""
    with pytest.raises(BadProxy, match=r"^ALL_PROXY: invalid") as raised:
        proxy_of("https://example.com", {"all": value})
    assert "secret" not in str(raised.value)


def test_a_socks_proxy_works_or_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra a client is made; without it the error says which one is missing."""
    variables = {"all": "socks5://user:secret@p.example:1080"}
    proxy = proxy_of("https://example.com", variables)
    assert proxy == Proxy("socks5://user:secret@p.example:1080", "ALL_PROXY")
    monkeypatch.setattr("coordinator.wire.http.proxies.find_spec", lambda name: None)
    with pytest.raises(BadProxy, match=r"pip install 'coordinator\[socks\]'") as raised:
        proxy_of("https://example.com", variables)
    assert "secret" not in str(raised.value)


async def test_a_request_goes_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A public host's request arrives at the proxy; one for this machine does not, whatever NO_PROXY says."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(head.splitlines()[0])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
        for url in ("http://files.example.com/a", f"http://127.0.0.1:{port}/b"):
            async with new_client(url) as client:
                assert "hi" == (await client.get(url)).text
    assert ["GET http://files.example.com/a HTTP/1.1", "GET /b HTTP/1.1"] == asked


async def test_errors_of_a_client_name_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable proxy is not blamed on the coordinator; an invalid one is refused before any request."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # nothing listens there
    coordinator = AsyncCoordinator("http://a.example.com", "alice:0123456789abcdef", tries=1)
    with pytest.raises(Unreachable, match="through the proxy of HTTP_PROXY"):
        await coordinator.health()
    await coordinator.close()
    monkeypatch.setenv("HTTP_PROXY", "gopher://p.example")
    with pytest.raises(CoordinatorError, match="HTTP_PROXY: invalid proxy"):
        AsyncCoordinator("http://coordinator.example.com", "alice:0123456789abcdef")
