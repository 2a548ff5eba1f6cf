"""Who may ask: API keys, networks, hosts, and how often. All of it is optional, and off by default."""

import ipaddress
import re
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
    requests_per_minute_per_address: int | None = Field(
        None, validation_alias="REQUESTS_PER_MINUTE_PER_ADDRESS", ge=1, le=1_000_000
    )
    """Requests without an API key from one address, of IPv6 from one /64 network; empty: no limit."""
    allowed_hosts: tuple[str, ...] = Field((), validation_alias="ALLOWED_HOSTS")
    """Comma-separated names that a request's Host may have, *.example.com too; empty: any. Probes are exempt."""

    audit_retention_days: int = Field(365, validation_alias="AUDIT_RETENTION_DAYS", ge=0, le=36_500)
    """Older events of the audit log are deleted daily; 0 keeps all."""

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        hosts = tuple(name.strip().lower() for name in value.split(",") if name.strip())
        for host in hosts:
            if not re.fullmatch(r"(\*\.)?[a-z0-9_.-]+|\[[0-9a-f:.]+\]", host):
                raise ValueError(f"{host!r} is no host such as photos.example.com or *.example.com, without a port")
        return hosts

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
