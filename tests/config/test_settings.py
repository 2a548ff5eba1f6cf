"""Settings come from the environment, refuse what is unsafe, and never show a secret."""

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, ValidationError

from app.categories import Category
from app.config.database import DatabaseSettings
from app.config.model import ModelSettings
from app.config.settings import CacheSettings, ImageSettings, Settings, StatisticsSettings, load_settings
from app.photo import PhotoFormat

SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def _no_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_nothing_set_is_sqlite_and_the_local_model() -> None:
    settings = Settings()
    assert settings.database_url.render_as_string() == "sqlite+aiosqlite:///data/image-classifier.db"
    assert settings.model.provider == "local"
    assert settings.statistics.timezone == ZoneInfo("Asia/Shanghai")
    assert settings.image.max_size_bytes == 10 * 1024 * 1024
    assert settings.image.allowed_formats == frozenset(PhotoFormat)


def test_the_specifications_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MYSQL_HOST": "db.example",
        "MYSQL_PORT": "3307",
        "MYSQL_USER": "classifier",
        "MYSQL_PASSWORD": "p@ss:w/rd",
        "MYSQL_DATABASE": "photos",
        "MYSQL_POOL_SIZE": "3",
        "LLM_API_KEY": SECRET,
        "ALLOWED_IMAGE_FORMATS": "jpg, jpeg,PNG,webp,gif",
        "MAX_IMAGE_SIZE_MB": "2",
        "COST_PER_API_CALL": "0.003",
        "LLM_TIMEOUT": "12.5",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    url = settings.database_url
    assert (url.drivername, url.host, url.port, url.username, url.password, url.database) == (
        "mysql+aiomysql",
        "db.example",
        3307,
        "classifier",
        "p@ss:w/rd",
        "photos",
    )
    assert settings.database.pool_size == 3
    assert settings.image.allowed_formats == {PhotoFormat.JPEG, PhotoFormat.PNG, PhotoFormat.WEBP, PhotoFormat.GIF}
    assert settings.model.timeout_seconds == 12.5
    assert str(settings.spending.cost_per_call) == "0.003"


def test_database_url_wins_and_gets_an_asyncio_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYSQL_HOST", "db.example")
    for given, expected in {
        "mysql://u:p@h/d": "mysql+aiomysql",
        "mysql+pymysql://u:p@h/d": "mysql+aiomysql",
        "mariadb://u:p@h/d": "mariadb+aiomysql",
        "sqlite:///x.db": "sqlite+aiosqlite",
    }.items():
        monkeypatch.setenv("DATABASE_URL", given)
        assert Settings().database_url.drivername == expected


def test_variables_of_other_programs_mean_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells and build servers set HOST, USER, IMAGE and the like: the names of our fields."""
    expected = Settings()
    groups: list[type[BaseModel]] = [
        Settings,
        DatabaseSettings,
        ModelSettings,
        ImageSettings,
        CacheSettings,
        StatisticsSettings,
    ]
    fields = [(name, field) for group in groups for name, field in group.model_fields.items()]
    ours = {field.validation_alias for _, field in fields}
    for name, _ in fields:
        monkeypatch.setenv(name, "junk")
        if name.upper() not in ours:
            monkeypatch.setenv(name.upper(), "junk")
    assert load_settings() == expected


def test_all_wrong_settings_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STATS_TIMEZONE", "Mars/X"), ("MAX_IMAGE_SIZE_MB", "abc"), ("LLM_TIMEOUT", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        load_settings()
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["LLM_TIMEOUT", "MAX_IMAGE_SIZE_MB", "STATS_TIMEZONE"]


@pytest.mark.parametrize(
    "address", ["mysql://root@127.0.0.1", "sqlite://", "sqlite:///:memory:", "mysql://u:p@h/d?ssl-mode=REQUIRED"]
)
def test_addresses_that_cannot_work_are_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DATABASE_URL", address)
    with pytest.raises(SystemExit, match="DATABASE_URL"):
        load_settings()


def test_the_env_file_is_read_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["APP_PORT=9000", "LLM_MODEL=from-file  # a comment", "LLM_API_KEY=", "MYSQL_PASSWORD=a#b$c${HOME}d"]
    (tmp_path / ".env").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("APP_PORT", "9001")
    settings = Settings()
    assert (settings.port, settings.model.model, settings.model.api_key) == (9001, "from-file", None)
    assert settings.database.password.get_secret_value() == "a#b$c${HOME}d"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STATS_TIMEZONE", "Mars/Olympus"),
        ("STATS_TIMEZONE", "../../etc/passwd"),
        ("ALLOWED_IMAGE_FORMATS", "jpg,exe"),
        ("MAX_IMAGE_SIZE_MB", "0"),
        ("LLM_TIMEOUT", "-1"),
        ("COST_PER_API_CALL", "-0.01"),
        ("MYSQL_PORT", "70000"),
        ("DESCRIPTION_LANGUAGE", "fr"),
        ("CACHE_MEMORY_ENTRIES", "-1"),
        ("ADMIN_API_KEY", "fifteen-letters"),
        ("ADMIN_API_KEY", "with spaces in between"),
        ("ADMIN_API_KEY", "密钥密钥密钥密钥密钥密钥密钥密钥密钥"),
        ("REDIS_URL", "127.0.0.1:6379"),
        ("REDIS_URL", "http://127.0.0.1"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://h:port"),
        ("REDIS_URL", "redis://h/name"),
        ("REDIS_URL", "redis://h/0?socket_timeout=60"),
    ],
)
def test_wrong_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


def test_unsafe_production_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV", "production")
    with pytest.raises(ValidationError, match="SECRET_KEY"):
        Settings()
    monkeypatch.setenv("SECRET_KEY", "k" * 31)
    with pytest.raises(ValidationError, match="32 bytes"):
        Settings()
    monkeypatch.setenv("SECRET_KEY", "k" * 32)
    Settings()
    monkeypatch.setenv("APP_DEBUG", "true")
    with pytest.raises(ValidationError, match="APP_DEBUG"):
        Settings()
    monkeypatch.setenv("APP_DEBUG", "false")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    with pytest.raises(ValidationError, match="LOG_LEVEL"):
        Settings()
    monkeypatch.setenv("LOG_LEVEL", "info")
    monkeypatch.setenv("MYSQL_HOST", "db")
    with pytest.raises(ValidationError, match="needs a password"):
        Settings()


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_API_KEY", SECRET)
    monkeypatch.setenv("MYSQL_PASSWORD", SECRET)
    monkeypatch.setenv("MYSQL_HOST", "db")
    settings = Settings()
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json() + repr(settings.database_url)
    for address in (f"mysql://u:{SECRET}@h:port/d", f"postgresql://u:{SECRET}@h/d", SECRET):
        monkeypatch.setenv("DATABASE_URL", address)
        with pytest.raises(SystemExit, match="DATABASE_URL") as caught:
            load_settings()
        assert SECRET not in str(caught.value)
    monkeypatch.delenv("DATABASE_URL")
    for name, value in (
        ("REDIS_URL", f"redis://:{SECRET}@h:port"),
        ("REDIS_URL", f"redis://:{SECRET}@h/0?{SECRET}"),
        ("ADMIN_API_KEY", f"{SECRET} {SECRET}"),
        ("SECRET_KEY", SECRET),
    ):
        monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit, match=name) as caught:
            load_settings()
        assert SECRET not in str(caught.value)
    monkeypatch.setenv("REDIS_URL", f"rediss://user:{SECRET}@h:6380/1")
    monkeypatch.setenv("ADMIN_API_KEY", SECRET * 2)
    monkeypatch.setenv("SECRET_KEY", SECRET * 4)
    assert SECRET not in repr(load_settings()) + load_settings().model_dump_json()
    monkeypatch.setenv("ENV", "production")
    monkeypatch.setenv("APP_DEBUG", "true")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"LLM_PROVIDER": "cascade"}, "needs CASCADE_MODEL"),
        ({"LLM_PROVIDER": "cascade", "CASCADE_MODEL": "local"}, "CASCADE_MODEL=local: the local model is asked first"),
        ({"LLM_PROVIDER": "cascade", "CASCADE_MODEL": "cascade"}, "CASCADE_MODEL=cascade"),
        ({"LOCAL_ONLY_CATEGORIES": "idcard,passport"}, "there is no category passport; there are"),
        ({"CASCADE_TARGET_PRECISION": "1"}, "less than 1"),
    ],
)
def test_a_cascade_that_cannot_be(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSettings.model_validate(values)


def test_a_cascade_asks_its_own_model_and_both_need_memory() -> None:
    cascade = ModelSettings.model_validate({"LLM_PROVIDER": "cascade", "CASCADE_MODEL": "openai"})
    assert (cascade.is_cascade, cascade.asked_provider, cascade.looks_locally) == (True, "openai", True)
    kept = ModelSettings.model_validate({"LLM_PROVIDER": "openai", "LOCAL_ONLY_CATEGORIES": "idcard, screenshot"})
    assert kept.local_only_categories == {Category.IDCARD, Category.SCREENSHOT}
    assert (kept.is_cascade, kept.asked_provider, kept.looks_locally) == (False, "openai", True)
    assert not ModelSettings.model_validate({"LLM_PROVIDER": "openai"}).looks_locally
