"""What `users` does with the accounts of the configured database. Importing it takes a second."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.maintenance.database import CannotBeDone, on_current_tables, operator
from app.config.settings import Settings
from app.config.source import problems_of
from app.runtime.fair_queue import fair_queue
from app.schemas.users import NewUser, Password
from app.services.accounts.administration import AccountAdministration, AccountState, UnknownAccount
from app.services.accounts.passwords import PasswordHasher
from app.services.accounts.rows import Account
from app.services.library.service import LibraryService
from app.storage import StorageError, open_storage

__all__ = ["CannotBeDone", "create", "delete", "list_all", "reset_password", "set_disabled"]

Result = TypeVar("Result")


class _NewPassword(BaseModel):
    password: Password


def list_all(settings: Settings) -> list[AccountState]:
    """Return all accounts; raises CannotBeDone, as all below."""
    return _administer(settings, AccountAdministration.list_all)


def create(settings: Settings, username: str, email: str, password: str) -> Account:
    """Make an account, whatever SIGN_UP says.

    Raises:
        CannotBeDone: a name is not valid or taken, the password is one that is guessed, or the database cannot be used.
    """
    try:
        new = NewUser(username=username, email=email, password=password)
    except ValidationError as error:
        raise CannotBeDone("; ".join(problems_of(error))) from None

    async def run(users: AccountAdministration) -> Account:
        return await users.create(new.username, new.email, new.password)

    return _administer(settings, run)


def set_disabled(settings: Settings, username: str, *, is_disabled: bool) -> None:
    """Disable an account, which ends its tokens, or enable it again."""

    async def run(users: AccountAdministration) -> None:
        await (users.disable if is_disabled else users.enable)(username)

    _administer(settings, run)


def reset_password(settings: Settings, username: str, password: str) -> None:
    """Give an account a new password, which ends its tokens."""
    try:
        _NewPassword(password=password)
    except ValidationError as error:
        raise CannotBeDone("; ".join(problems_of(error))) from None

    async def run(users: AccountAdministration) -> None:
        await users.reset_password(username, password)

    _administer(settings, run)


def delete(settings: Settings, username: str) -> None:
    """Delete an account with its pictures and results."""

    async def run(engine: AsyncEngine, users: AccountAdministration) -> None:
        # Opened for this alone: the storage's folder would become that of the operator who runs the command.
        async with _opened_library(settings, engine) as library:
            await users.delete(username, library)

    _on_accounts(settings, run)


def _administer(settings: Settings, work: Callable[[AccountAdministration], Awaitable[Result]]) -> Result:
    async def run(_engine: AsyncEngine, users: AccountAdministration) -> Result:
        return await work(users)

    return _on_accounts(settings, run)


def _on_accounts(settings: Settings, work: Callable[[AsyncEngine, AccountAdministration], Awaitable[Result]]) -> Result:
    async def run(engine: AsyncEngine) -> Result:
        passwords = PasswordHasher()
        try:
            return await work(engine, AccountAdministration(engine, passwords, actor=operator()))
        finally:
            passwords.close()

    try:
        return on_current_tables(settings, run)
    except (UnknownAccount, StorageError) as error:
        raise CannotBeDone(str(error)) from error


@asynccontextmanager
async def _opened_library(settings: Settings, engine: AsyncEngine) -> AsyncIterator[LibraryService]:
    """The library without the sweep that the service runs."""
    storage = open_storage(settings.upload_dir, settings.library.bucket)
    try:
        with fair_queue(1, name="decode") as decoder:
            yield LibraryService(
                engine, storage, decoder=decoder, image_settings=settings.image, library_settings=settings.library
            )
    finally:
        await storage.close()
