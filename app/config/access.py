"""Who may ask: API keys, networks, hosts, and how often. All of it is optional, and off by default."""

import ipaddress
from typing import Any

from pydantic import Field, field_validator

from app.config.source import SettingsGroup

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AccessSettings(SettingsGroup):
    """Who may ask the API, and who may see the statistics."""

    require_api_key: bool = Field(False, validation_alias="REQUIRE_API_KEY")
    """The API takes no request without a key, even before the first exists."""
    public_statistics: bool = Field(False, validation_alias="PUBLIC_STATISTICS")
    """Statistics, logged requests and the dashboard need no key, in production and where there are keys, too."""
    allowed_networks: tuple[Network, ...] = Field((), validation_alias="ALLOWED_NETWORKS")
    """Comma-separated addresses and networks (CIDR) that may ask; empty: any. Health checks are exempt."""
    admin_networks: tuple[Network, ...] = Field((), validation_alias="ADMIN_NETWORKS")
    """The same for changes by hand, metrics, dashboard and statistics; empty: ALLOWED_NETWORKS."""

    @field_validator("allowed_networks", "admin_networks", mode="before")
    @classmethod
    def _split_networks(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(_network(name.strip()) for name in value.split(",") if name.strip())


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address or network such as 10.0.0.0/8 or 2001:db8::/32") from None
    # A client at such an address is judged by the IPv4 address in it (app/api/dependencies.py).
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        return ipaddress.ip_network((int(network.network_address.ipv4_mapped), network.prefixlen - 96))
    return network
