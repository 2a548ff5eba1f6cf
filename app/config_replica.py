"""The setting MYSQL_READ_HOST: a second server, which is only read from."""

from urllib.parse import urlsplit

from pydantic import Field, field_validator
from sqlalchemy.engine import URL

from app.config_source import SettingsGroup


class ReplicaSettings(SettingsGroup):
    """Where statistics are read, if not where everything else is. All but host and port is the main server's."""

    read_host: str | None = Field(None, validation_alias="MYSQL_READ_HOST")
    """host or host:port of a read replica; without a port, the main server's is taken."""

    @field_validator("read_host")
    @classmethod
    def _is_host_and_port(cls, value: str | None) -> str | None:
        if value:
            _host_and_port(value)
        return value

    def read_url(self, main: URL) -> URL | None:
        """Return the replica's address, given the main server's; None where there is none."""
        if not self.read_host:
            return None
        host, port = _host_and_port(self.read_host)
        return main.set(host=host, port=port or main.port)


def _host_and_port(text: str) -> tuple[str, int | None]:
    wrong = ValueError("not host or host:port")
    try:
        parts = urlsplit(f"//{text}")
        # Reading the port checks it.
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if not host or parts.netloc != text or "@" in text or port == 0:
        raise wrong
    return host, port
