"""Fixtures of the services' tests."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config.database import DatabaseSettings
from app.services.accounts.login_throttle import LoginThrottle
from app.services.accounts.passwords import PasswordHasher
from app.services.accounts.service import AccountService, Session
from app.services.accounts.tokens import TokenIssuer
from app.services.audit.service import AuditLog
from app.services.privacy.service import PrivacyService
from app.storage import LocalStorage
from tests.support.databases import fresh_database
from tests.support.instances import Site, opened
from tests.support.leases import Process, process
from tests.support.libraries import library_on
from tests.support.people import TOKEN_KEY
from tests.support.service_settings import migrated, server_url


@pytest.fixture
async def ours(engine: AsyncEngine) -> AsyncIterator[Process]:
    """One process that claims leases."""
    async with process(engine) as ours:
        yield ours


@pytest.fixture
async def theirs(engine: AsyncEngine) -> AsyncIterator[Process]:
    """Another process."""
    async with process(engine) as theirs:
        yield theirs


@pytest.fixture
async def accounts(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[AccountService]:
    """The accounts of a service."""
    passwords = PasswordHasher()
    async with library_on(engine, LocalStorage(tmp_path)) as library:
        yield AccountService(
            engine,
            passwords=passwords,
            tokens=TokenIssuer([TOKEN_KEY], timedelta(days=1)),
            throttle=LoginThrottle(engine),
            library=library,
            audit=AuditLog(engine),
            privacy=PrivacyService(engine),
        )
    passwords.close()


@pytest.fixture
async def session(accounts: AccountService) -> Session:
    """A user who has signed up and in."""
    account = await accounts.register("testuser", "test@example.com", "testpassword123")
    return Session(account, 0, utc_now(), utc_now() + timedelta(days=1))


@pytest.fixture
async def site(
    database_kind: str, environment: dict[str, str], request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Site]:
    """Instances on a database of their own, with the fake model server as their model."""
    (tmp_path / "tmp").mkdir()
    if database_kind == "sqlite":
        database = await migrated(DatabaseSettings.model_validate({"url": f"sqlite:///{tmp_path}/data/all.db"}))
        async with opened(database, environment) as site:
            yield site
        return
    url = server_url(request.getfixturevalue("servers"), database_kind)
    async with (
        fresh_database(database_kind, url) as made,
        opened(await migrated(made.settings), environment) as site,
    ):
        yield site
