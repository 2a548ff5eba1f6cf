"""Settings: read once from the environment and `.env`, in groups; unsafe production settings refuse to start.

Every field says what it is for; units stand in the names. `.env.example` lists the same variables for operators.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from sqlalchemy.engine import URL

from app.config.access import AccessSettings
from app.config.accounts import AccountSettings
from app.config.addresses import Bucket, bucket_of, is_redis_address, with_asyncio_driver
from app.config.database import DatabaseSettings
from app.config.feedback import FeedbackSettings
from app.config.logs import LogLevel, LogSettings
from app.config.model import ModelSettings
from app.config.source import SettingsGroup, problems_of
from app.config.spending import SpendingSettings
from app.photo import PhotoFormat

PROJECT_ROOT = Path(__file__).resolve().parents[2]


class Environment(StrEnum):
    DEVELOPMENT = "development"
    PRODUCTION = "production"


class LogDurability(StrEnum):
    COMMIT = "commit"
    ASYNC = "async"


class ImageSettings(SettingsGroup):
    """What an upload may be."""

    max_size_megabytes: float = Field(10, validation_alias="MAX_IMAGE_SIZE_MB", gt=0, le=100)
    """Largest image file, in MiB."""
    max_pixels: int = Field(50_000_000, validation_alias="MAX_IMAGE_PIXELS", gt=0, le=50_000_000)
    """Largest width x height. The upper bound is what decoding was measured for (docs/performance.md)."""
    allowed_formats: frozenset[PhotoFormat] = Field(frozenset(PhotoFormat), validation_alias="ALLOWED_IMAGE_FORMATS")
    """Comma-separated names; jpeg is jpg, heif is heic."""
    min_upload_bytes_per_second: int = Field(1000, validation_alias="MIN_UPLOAD_BYTES_PER_SECOND", ge=0)
    """A body that arrives more slowly, 10 s after its beginning, is given up; 0: any pace will do."""

    @field_validator("allowed_formats", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return frozenset(PhotoFormat.from_name(name) for name in value.split(",") if name.strip())

    @property
    def max_size_bytes(self) -> int:
        return int(self.max_size_megabytes * 1024 * 1024)


class CacheSettings(SettingsGroup):
    """Copies of cache entries outside the database, and changing entries by hand."""

    memory_entries: int = Field(100_000, validation_alias="CACHE_MEMORY_ENTRIES", ge=0, le=10_000_000)
    """Entries that each worker keeps in memory, about 0.42 KB each (docs/performance.md); 0: none."""
    stale_seconds: float = Field(5.0, validation_alias="CACHE_STALE_SECONDS", ge=1, le=60)
    """A copy counts as fresh for this long after the last successful look at the change feed, in seconds."""
    stale_max_seconds: float = Field(600.0, validation_alias="CACHE_STALE_MAX_SECONDS", ge=0, le=86_400)
    """While the database is away, memory answers for this long after that look, marked as stale, in seconds; 0: not."""
    near_duplicates: bool = Field(True, validation_alias="NEAR_DUPLICATES")
    """on: a new photo that is nearly the same as a known one gets its answer without a model call (docs/quality.md)."""
    redis_url: SecretStr = Field(SecretStr(""), validation_alias="REDIS_URL")
    """redis:// or rediss:// (TLS), with password and database number if need be; empty: no Redis."""
    admin_api_key: SecretStr = Field(SecretStr(""), validation_alias="ADMIN_API_KEY")
    """An API key of all scopes outside the database; it closes the statistics to others. Empty: there is none."""

    @field_validator("redis_url")
    @classmethod
    def _redis_address(cls, value: SecretStr) -> SecretStr:
        address = value.get_secret_value()
        if address and not is_redis_address(address):
            # Without the address: it may hold a password.
            raise ValueError("not redis://[user:password@]host[:port][/database number], or the same with rediss://")
        return value

    @field_validator("admin_api_key")
    @classmethod
    def _hard_to_guess(cls, value: SecretStr) -> SecretStr:
        if value and not re.fullmatch(r"[!-~]{16,}", value.get_secret_value()):
            raise ValueError("at least 16 characters are needed, from ASCII and without spaces")
        return value


class StatisticsSettings(SettingsGroup):
    """What is logged of a request, and how the figures are computed."""

    log_enabled: bool = Field(True, validation_alias="ENABLE_REQUEST_LOG")
    """Write request_log; hits are counted either way."""
    log_durability: LogDurability = Field(LogDurability.COMMIT, validation_alias="LOG_DURABILITY")
    """commit: a request is answered when its log row is on disk; async: at once, a crash loses the last moments."""
    log_retention_days: int = Field(90, validation_alias="LOG_RETENTION_DAYS", ge=0, le=36_500)
    """Older rows of request_log are deleted daily; 0 keeps all."""
    timezone: ZoneInfo = Field(ZoneInfo("Asia/Shanghai"), validation_alias="STATS_TIMEZONE")
    """IANA name of the zone whose midnight begins "today"."""

    @field_validator("timezone", mode="before")
    @classmethod
    def _known_zone(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("not an IANA time zone name such as Asia/Shanghai") from error


class LibrarySettings(SettingsGroup):
    """Pictures that people keep."""

    upload_dir: Path | None = Field(None, validation_alias="UPLOAD_DIR")
    """Folder of the pictures; empty: uploads under DATA_DIR."""
    storage_url: str | None = Field(None, validation_alias="STORAGE_URL")
    """s3://bucket/prefix, with ?endpoint=https://host where it is not Amazon's; empty: UPLOAD_DIR."""
    max_upload_bytes: int = Field(10 * 1024 * 1024, validation_alias="MAX_UPLOAD_SIZE", gt=0, le=100 * 1024 * 1024)
    """Largest picture, in bytes."""
    quota_megabytes: float = Field(1024, validation_alias="USER_QUOTA_MB", ge=0)
    """What one account may keep, in MiB; 0: no limit."""

    shares_results: bool = Field(False, validation_alias="LIBRARY_SHARES_RESULTS")
    """What models say of a library's pictures fills the shared cache, and is used again for other accounts."""

    @field_validator("storage_url")
    @classmethod
    def _bucket_address(cls, value: str | None) -> str | None:
        if value:
            bucket_of(value)
        return value

    @property
    def bucket(self) -> Bucket | None:
        """Where in S3 the pictures are kept, if they are."""
        return bucket_of(self.storage_url) if self.storage_url else None

    @property
    def quota_bytes(self) -> int:
        return int(self.quota_megabytes * 1024 * 1024)


class TaskSettings(SettingsGroup):
    """Inference that is asked for now and done later."""

    workers: Literal["inside", "outside"] = Field("inside", validation_alias="TASK_WORKERS")
    """inside: the service runs tasks itself; outside: only processes of `python -m app.worker` do."""
    max_attempts: int = Field(4, validation_alias="TASK_MAX_ATTEMPTS", ge=1, le=20)
    """How often a task is tried before it counts as failed."""
    keep_days: int = Field(30, validation_alias="TASK_KEEP_DAYS", ge=1, le=3650)
    """Finished tasks are deleted after this time; their results stay."""
    batch_deadline_hours: float = Field(24, validation_alias="BATCH_DEADLINE_HOURS", ge=0, le=48)
    """How long a task of low priority waits for a batch before the model is asked directly; 0: there are no batches."""
    batch_wait_seconds: int = Field(60, validation_alias="BATCH_WAIT_SECONDS", ge=0, le=3600)
    """How long a photo waits for others to fill its batch; as long after that, it is looked whether the batch is done,
    and from then on less and less often."""


class Settings(SettingsGroup):
    """All settings of the service, in the groups above."""

    environment: Environment = Field(Environment.DEVELOPMENT, validation_alias="ENV")
    """production refuses unsafe settings."""
    host: str = Field("0.0.0.0", validation_alias="APP_HOST")  # noqa: S104 - the specification's default
    port: int = Field(8000, validation_alias="APP_PORT", ge=1, le=65535)
    debug: bool = Field(False, validation_alias="APP_DEBUG")
    """Log at DEBUG level, unless LOG_LEVEL says another; not in production."""
    data_dir: Path = Field(Path("data"), validation_alias="DATA_DIR")
    """Files of ours, such as the SQLite database and the spool."""
    spool_max_megabytes: float = Field(256, validation_alias="SPOOL_MAX_MB", ge=0, le=1_000_000)
    """Largest spool of an instance, in MiB: a row takes about 0.25 KB; 0: there is none."""
    cors_allowed_origins: tuple[str, ...] = Field(("*",), validation_alias="CORS_ALLOWED_ORIGINS")
    """Comma-separated origins of web pages that may call the API from a browser; * is any."""
    workers: int | None = Field(None, validation_alias="WEB_CONCURRENCY", ge=1)
    """Processes that serve; empty: see app/runtime/capacity.py."""
    forwarded_allow_ips: str = Field("127.0.0.1,::1", validation_alias="FORWARDED_ALLOW_IPS")
    """Comma-separated addresses of proxies whose X-Forwarded-For is believed."""

    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    model: ModelSettings = Field(default_factory=ModelSettings, validate_default=True)
    image: ImageSettings = Field(default_factory=ImageSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    statistics: StatisticsSettings = Field(default_factory=StatisticsSettings)
    spending: SpendingSettings = Field(default_factory=SpendingSettings)
    access: AccessSettings = Field(default_factory=AccessSettings)
    feedback: FeedbackSettings = Field(default_factory=FeedbackSettings)
    account: AccountSettings = Field(default_factory=AccountSettings)
    library: LibrarySettings = Field(default_factory=LibrarySettings)
    task: TaskSettings = Field(default_factory=TaskSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @field_validator("model")
    @classmethod
    def _measured_under_data_dir(cls, value: ModelSettings, info: ValidationInfo) -> ModelSettings:
        if "data_dir" not in info.data:
            return value
        folder = info.data["data_dir"]
        files = {
            "calibration_file": value.calibration_file or folder / "calibration.json",
            "cascade_file": value.cascade_file or folder / "cascade.json",
        }
        return value.model_copy(update=files)

    @field_validator("cors_allowed_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(origin.strip().rstrip("/") for origin in value.split(",") if origin.strip())

    @model_validator(mode="after")
    def _refuse_what_is_unsafe(self) -> Self:
        url = self.database_url
        if self.environment is not Environment.PRODUCTION:
            return self
        if self.debug:
            raise ValueError("APP_DEBUG must be false when ENV=production")
        if self.log.level is LogLevel.DEBUG:
            raise ValueError("LOG_LEVEL must not be DEBUG when ENV=production")
        if url.get_backend_name() != "sqlite" and not url.password:
            raise ValueError("the database needs a password (MYSQL_PASSWORD or DATABASE_URL) when ENV=production")
        if not self.account.secret_key:
            raise ValueError("SECRET_KEY is needed when ENV=production, such as from openssl rand -hex 32")
        return self

    @property
    def closes_statistics(self) -> bool:
        """Whether statistics need a key even while no key is in the database."""
        return (
            self.environment is Environment.PRODUCTION or self.access.require_api_key or bool(self.cache.admin_api_key)
        )

    @property
    def is_sign_up_open(self) -> bool:
        """Whether a client may make an account."""
        return self.account.is_sign_up_open(in_production=self.environment is Environment.PRODUCTION)

    @property
    def spool_max_bytes(self) -> int:
        return int(self.spool_max_megabytes * 1024 * 1024)

    @property
    def upload_dir(self) -> Path:
        """The folder of the pictures that people keep."""
        return self.library.upload_dir or self.data_dir / "uploads"

    @property
    def database_url(self) -> URL:
        """The SQLAlchemy URL with an asyncio driver.

        Raises:
            ValueError: DATABASE_URL is not a MySQL, MariaDB or SQLite address.
        """
        database = self.database
        if database.url is not None:
            return with_asyncio_driver(database.url.get_secret_value())
        if database.host:
            return URL.create(
                "mysql+aiomysql",
                username=database.user,
                password=database.password.get_secret_value() or None,
                host=database.host,
                port=database.port,
                database=database.database,
            )
        return URL.create("sqlite+aiosqlite", database=str(self.data_dir / "image-classifier.db"))


def load_settings() -> Settings:
    """Return the settings of the environment and `.env`.

    Raises:
        SystemExit: a setting is wrong; its text says which in a line each, without the values.
    """
    problems: list[str] = []
    groups: dict[str, Any] = {}
    for name, group in _groups():
        try:
            groups[name] = group()
        except ValidationError as error:
            problems += problems_of(error)
    try:
        settings = Settings(**groups)
    except ValidationError as error:
        problems += [line for line in problems_of(error) if line not in problems]
    if problems:
        raise SystemExit("Wrong settings:\n  " + "\n  ".join(problems))
    return settings


@cache
def known_variables() -> frozenset[str]:
    """Return the names of all variables that the service reads."""
    groups: list[type[SettingsGroup]] = [Settings, *(group for _, group in _groups())]
    fields = [field for group in groups for field in group.model_fields.values()]
    return frozenset(field.validation_alias for field in fields if isinstance(field.validation_alias, str))


def _groups() -> Iterator[tuple[str, type[SettingsGroup]]]:
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, SettingsGroup):
            yield name, field.annotation
