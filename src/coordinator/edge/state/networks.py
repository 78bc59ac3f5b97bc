"""The customer behind an address, by which strangers are counted."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Final

IPV6_NETWORK: Final = 64  # bits: one customer has at least such a network


def network_of(address: str) -> str:
    """The address itself, or the network of an IPv6 address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(int(parsed) >> (128 - IPV6_NETWORK))
    return address
