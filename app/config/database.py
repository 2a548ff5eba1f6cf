"""Settings of the database, and of a read replica of it."""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from sqlalchemy.engine import URL

from app.config.source import SettingsGroup


class DatabaseSettings(SettingsGroup):
    """Where rows are kept. DATABASE_URL wins, then MYSQL_HOST and its companions, else SQLite under DATA_DIR."""

    url: SecretStr | None = Field(None, validation_alias="DATABASE_URL")
    """SQLAlchemy URL, such as mysql+aiomysql://user:password@host:3306/image_classifier."""
    host: str | None = Field(None, validation_alias="MYSQL_HOST")
    port: int = Field(3306, validation_alias="MYSQL_PORT", ge=1, le=65535)
    user: str = Field("root", validation_alias="MYSQL_USER")
    password: SecretStr = Field(SecretStr(""), validation_alias="MYSQL_PASSWORD")
    database: str = Field("image_classifier", validation_alias="MYSQL_DATABASE")
    pool_size: int = Field(10, validation_alias="MYSQL_POOL_SIZE", ge=1)
    """Connections each worker keeps open, as far as its share of the total allows."""
    max_overflow: int = Field(5, validation_alias="MYSQL_MAX_OVERFLOW", ge=0)
    """Further connections each worker opens under load, within the same share."""
    max_connections_total: int = Field(140, validation_alias="MYSQL_MAX_CONNECTIONS_TOTAL", ge=3)
    """Connections of all workers together. MySQL's own limit is 151; some are for people and migrations."""
    pool_recycle_seconds: int = Field(3600, validation_alias="MYSQL_POOL_RECYCLE", ge=1)
    """Age at which a connection is replaced; stays below MySQL's wait_timeout (28800)."""
    ssl: bool = Field(False, validation_alias="MYSQL_SSL")
    """Speak TLS to MySQL and check the server's certificate."""
    ssl_ca: Path | None = Field(None, validation_alias="MYSQL_SSL_CA")
    """PEM file of the authority that signed the server's certificate; empty: the system's authorities."""
    ssl_check_hostname: bool = Field(True, validation_alias="MYSQL_SSL_CHECK_HOSTNAME")
    """Off for the certificates that MySQL makes for itself: they name no host, only MYSQL_SSL_CA vouches for them."""
    migrate_on_start: bool = Field(True, validation_alias="MIGRATE_ON_START")
    """Create and upgrade the schema when the service starts (one process at a time)."""
    read_host: str | None = Field(None, validation_alias="MYSQL_READ_HOST")
    """host or host:port of a read replica, for statistics; user, password and database are the main server's."""

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
