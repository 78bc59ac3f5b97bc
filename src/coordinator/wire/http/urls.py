"""The URLs that a job may name as an input file, and those of receivers: never private networks. Pure.

A miner fetches strangers' URLs from inside its owner's network. So the text of a URL is read strictly (a URL
that two parsers could read differently is refused), and every address must be public. The coordinator calls
`check_url` before it accepts a job. The miner calls it again for the URL and each redirect, and calls
`is_public` for each address that a name resolves to.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

MAX_URL_LENGTH: Final = 2048
MAX_HOST_LENGTH: Final = 253
_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]|[A-Za-z0-9._-]+)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<target>[/?][!-~]*)?"
)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
# A last label that makes a browser read the host as an IPv4 address (WHATWG URL, "ends in a number").
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_INNER_NAMES: Final = ("localhost", "local", "internal", "intranet", "lan", "home.arpa", "onion")
"""Top-level names of private networks (RFC 6761, RFC 6762, RFC 8375, and common usage)."""
# The "bad ports" of the WHATWG's Fetch Standard from 1024 on: other protocols that would accept a request.
_BAD_PORTS: Final = frozenset(
    {
        1719,
        1720,
        1723,
        2049,
        3659,
        4045,
        4190,
        5060,
        5061,
        6000,
        6566,
        6665,
        6666,
        6667,
        6668,
        6669,
        6679,
        6697,
    }
    | {10080}
)
# IANA's special-purpose registries (RFC 6890): listed here, as Python's `is_global` differs by release.
_SPECIAL_V4: Final = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24"),
        *("192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("224.0.0.0/4", "240.0.0.0/4"),
    )
)
_GLOBAL_V6: Final = IPv6Network("2000::/3")
"""Only this is routed. NAT64, mapped, link-local, unique local and multicast addresses are outside."""
_SPECIAL_V6: Final = tuple(
    # 2001::/23 holds Teredo, and 2002::/16 is 6to4: both carry an IPv4 address of the sender's choice.
    IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3ffe::/16", "3fff::/20")
)


class UnsafeUrl(ValueError):
    """This URL may not be fetched; the text says why, without any part of the URL."""


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in its parts. `host`: in lower case, IPv6 without brackets; `target`: path and query."""

    scheme: str
    host: str
    port: int
    target: str
    allowed: bool
    """The settings allow the host: its addresses are not checked."""

    @property
    def authority(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def parse_allowed(entries: Iterable[str]) -> frozenset[str]:
    """Hosts that may be fetched from, whatever their addresses: `host`, or `host:port`. Raises ValueError."""
    allowed = set()
    for entry in entries:
        match = _URL.fullmatch(f"http://{entry}")
        if match is None or match["target"] is not None:
            raise ValueError(f"{entry[:80]!r} is not a host, or host:port")
        allowed.add(entry.lower())
    return frozenset(allowed)


def check_url(text: str, allowed: Collection[str] = ()) -> Url:
    """The URL of a file in its parts, if its text allows to fetch it. Raises UnsafeUrl.

    `allowed`: see `parse_allowed`.
    """
    scheme = _SCHEME.match(text)
    if len(text) <= MAX_URL_LENGTH and (scheme is None or scheme[0][:-1].lower() not in _PORTS):
        raise UnsafeUrl("name a file by blob: and its SHA-256, or by an http or https URL")
    url = _parts(text)
    named = f"[{url.host}]" if ":" in url.host else url.host
    if named in allowed or f"{named}:{url.port}" in allowed:
        return replace(url, allowed=True)
    _check_destination(url)
    return url


def check_receiver_url(text: str, *, allow_private: bool = False) -> Url:
    """The URL of a receiver of messages in its parts, if its text allows to send there. Raises UnsafeUrl.

    It is a public https URL. With `allow_private` any address will do, and http, too.
    """
    if not text.lower().startswith(("https://", "http://") if allow_private else "https://"):
        raise UnsafeUrl("should be an https URL")
    url = _parts(text)
    if allow_private:
        return replace(url, allowed=True)
    _check_destination(url)
    return url


def _parts(text: str) -> Url:
    """The URL in its parts: one possible reading, and no user info, which disguises the host."""
    if len(text) > MAX_URL_LENGTH:
        raise UnsafeUrl(f"a URL has at most {MAX_URL_LENGTH} characters")
    match = _URL.fullmatch(text)
    if match is None or "\\" in text:
        raise UnsafeUrl(
            "not a plain URL: leave out the user name; percent-encode spaces and non-ASCII characters"
        )
    scheme, host = match["scheme"].lower(), match["host"].lower().strip("[]")
    port = int(match["port"]) if match["port"] else _PORTS[scheme]
    if not 1 <= port <= 65535:
        raise UnsafeUrl("invalid port: use 1 to 65535")
    target = (match["target"] or "/").partition("#")[0]
    if not target.startswith("/"):
        target = f"/{target}"
    return Url(scheme, host, port, target, allowed=False)


def _check_destination(url: Url) -> None:
    if url.port not in _PORTS.values() and (url.port < 1024 or url.port in _BAD_PORTS):
        raise UnsafeUrl("use the port 80, 443, or most from 1024 on")
    _check_host(url.host)


def is_private_name(host: str) -> bool:
    """Whether a host name can only belong to a private network: it has one label, or such a last one."""
    host = host.lower().removesuffix(".")
    return "." not in host or host.endswith(tuple(f".{name}" for name in _INNER_NAMES))


def is_public(address: str) -> bool:
    """Whether an IP address (as text, without a zone) belongs to the public internet."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _SPECIAL_V4)
    return _is_public_v6(ip)


def _is_public_v6(ip: IPv6Address) -> bool:
    return ip in _GLOBAL_V6 and not any(ip in network for network in _SPECIAL_V6)


def _check_host(host: str) -> None:
    """Raise UnsafeUrl for an address that is not public, and for a name that can't be public."""
    labels = host.removesuffix(".").split(".")
    if ":" in host or _NUMBER.fullmatch(labels[-1]):
        # Some parsers read 127.1, 0x7f000001 and 2130706433 as addresses; ip_address does not.
        if not is_public(host):
            raise UnsafeUrl("the address is not public, or not written plainly")
        return
    if len(host) > MAX_HOST_LENGTH or not all(_LABEL.fullmatch(label) for label in labels):
        raise UnsafeUrl("invalid host name")
    if is_private_name(host):
        raise UnsafeUrl("the host name belongs to a private network")


def check_amqp_url(url: str) -> None:
    """Raise ValueError for an invalid broker URL; the text shows no part of it."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError("must be amqp://user:password@host:port/vhost (or amqps), percent-encoded")
