"""Who shares one portion of what is scarce: one address, or all addresses that one customer of a provider has."""

import ipaddress
from functools import lru_cache

# What a household or a server is given at least (RFC 6177, 2).
IPV6_NETWORK_BITS = 64


@lru_cache(maxsize=10_000)
def client_key(address: str | None) -> str:
    """Return an IPv4 address as it is, and of an IPv6 address the /64: its owner has all of the 2^64 addresses in it.

    None, where a request has no address, is a client of its own.
    """
    if address is None:
        return ""
    if ipaddress.ip_address(address).version == 4:
        return address
    return str(ipaddress.ip_network((address, IPV6_NETWORK_BITS), strict=False))
