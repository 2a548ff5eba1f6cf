"""Who shares one portion of what is scarce: one address, or all addresses that one customer of a provider has."""

import ipaddress
from functools import lru_cache

# What a household or a server is given at least (RFC 6177, 2).
IPV6_NETWORK_BITS = 64
# What a site is given at most (RFC 6177, 2): 65 536 of the networks above.
IPV6_SITE_BITS = 48


@lru_cache(maxsize=10_000)
def client_key(address: str | None, *, ipv6_bits: int = IPV6_NETWORK_BITS) -> str:
    """Return an IPv4 address as it is, and of an IPv6 address the /64: its owner has all of the 2^64 addresses in it.

    None, where a request has no address, is a client of its own. With `ipv6_bits` less than 64 it is a wider network,
    where one owner of many networks must not count as many.
    """
    if address is None:
        return ""
    if ipaddress.ip_address(address).version == 4:
        return address
    return str(ipaddress.ip_network((address, ipv6_bits), strict=False))
