"""HTTP clients that use a proxy of the environment where one is meant, and only there.

HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are read here, in upper or lower case. Hosts of this machine
and of private networks are always reached directly: a coordinator or an engine there is not behind anybody's
proxy. Files of the public web are fetched without a proxy, as a miner checks their addresses (`miner.fetch`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from coordinator.wire.http.urls import is_private_name, is_public

SCHEMES = ("http", "https", "socks5", "socks5h")


class BadProxy(ValueError):
    """A proxy's variable that can't be used. The text names the variable and shows no value of it."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the variable that names it."""

    url: str
    variable: str


def new_client(url: str, **options: Any) -> httpx.AsyncClient:
    """A client for this server, with the environment's proxy if one is meant for it. Raises BadProxy.

    `options` are those of `httpx.AsyncClient`. Certificates may come from SSL_CERT_FILE; passwords never come
    from a netrc file.
    """
    return httpx.AsyncClient(**_options(url, options))


def new_blocking_client(url: str, **options: Any) -> httpx.Client:
    """The same for a program that is not asynchronous."""
    return httpx.Client(**_options(url, options))


def _options(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    proxy = proxy_of(url)
    certificates = {"verify": httpx.create_ssl_context()} if url.startswith("https:") else {}
    return {"proxy": proxy.url if proxy else None, "trust_env": False, **certificates, **options}


def proxy_of(url: str, variables: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy for this server, or None. Raises BadProxy.

    `variables` as from `urllib.request.getproxies`: by scheme, and `all` and `no`; the default is the
    environment's.
    """
    variables = getproxies() if variables is None else variables
    parts = urlsplit(url)
    host = (parts.hostname or "").removesuffix(".")
    names = [name for name in (parts.scheme, "all") if variables.get(name)]
    if not names or _is_inner(host) or _is_exempt(host, parts.port, variables.get("no", "")):
        return None
    variable = f"{names[0].upper()}_PROXY"
    value = variables[names[0]]
    return Proxy(_checked(value if "://" in value else f"http://{value}", variable), variable)


def _checked(value: str, variable: str) -> str:
    scheme = value.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise BadProxy(f"{variable}: invalid proxy; use one like http://host:port or socks5://host:port")
    try:
        httpx.Proxy(value)
        valid = bool(urlsplit(value).hostname) and urlsplit(value).port != 0
    except (httpx.InvalidURL, ValueError):
        valid = False
    if not valid:
        raise BadProxy(f"{variable}: invalid address; use one like {scheme}://host:port")
    if scheme.startswith("socks") and find_spec("socksio") is None:
        raise BadProxy(f"{variable}: a SOCKS proxy needs an extra: pip install 'coordinator[socks]'")
    return value


def _is_inner(host: str) -> bool:
    address = _address(host)
    return is_private_name(host) if address is None else not is_public(str(address))


def _is_exempt(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY lists the host: as a name with its subdomains, an address, a network, or `*`."""
    address = _address(host)
    for entry in map(str.strip, no_proxy.lower().split(",")):
        if entry == "*":
            return True
        if address is not None:
            try:
                if address in ip_network(entry.strip("[]"), strict=False):
                    return True
            except ValueError:
                pass  # a name, or an address with a port
        name, _, at_port = entry.rpartition(":") if entry.rpartition(":")[2].isdigit() else (entry, "", "")
        name = name.strip("[]").removeprefix("*").strip(".")
        if at_port and at_port != str(port):
            continue
        if name and (host == name or (address is None and host.endswith(f".{name}"))):
            return True
    return False


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None
