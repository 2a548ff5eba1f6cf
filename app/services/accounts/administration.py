"""What an operator does with other people's accounts; each change is in the audit log.

An account that is disabled keeps its pictures and results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.tables.accounts import User
from app.database.transactions import read, write
from app.services.accounts.passwords import PasswordHasher
from app.services.accounts.rows import Account, delete_account, insert_account, name_key, update_account
from app.services.accounts.weak_passwords import check_password
from app.services.audit.service import Action, AuditLog
from app.services.library.service import LibraryService
from app.services.privacy.service import PrivacyService
from app.services.request_log.record import user_id_of_account


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account, and since when it is disabled, if it is."""

    account: Account
    disabled_at: datetime | None


class UnknownAccount(Exception):
    """There is no account of this name; the text says so."""


class AccountAdministration:
    """Lists, makes, disables and deletes accounts.

    Args:
        engine: the database.
        passwords: hashes them.
        actor: who administers, for the audit log.
    """

    def __init__(self, engine: AsyncEngine, passwords: PasswordHasher, *, actor: str) -> None:
        self._engine = engine
        self._passwords = passwords
        self._actor = actor

    async def list_all(self) -> list[AccountState]:
        """Return all accounts in the order in which they were made."""
        return await self._find()

    async def create(self, username: str, email: str, password: str) -> Account:
        """Make an account, whatever SIGN_UP says.

        Raises:
            UsernameTaken, EmailTaken: another account has it.
            InvalidRequest: the name or the address is too long, or the password is one that is guessed.
        """
        await check_password(password, username=username, email=email)
        account = await insert_account(self._engine, username, email, await self._passwords.hash(password))
        await self._record(Action.USER_CREATED, account)
        return account

    async def disable(self, username: str) -> None:
        """End all tokens of an account, and refuse its log-ins.

        Raises:
            UnknownAccount: there is none of this name.
        """
        # The tokens do not count again when it is enabled: they may be why it was disabled.
        values = {"disabled_at": utc_now(), "token_generation": User.token_generation + 1}
        await self._record(Action.USER_DISABLED, await self._change(username, values))

    async def enable(self, username: str) -> None:
        """Let its owner log in again.

        Raises:
            UnknownAccount: there is none of this name.
        """
        await self._record(Action.USER_ENABLED, await self._change(username, {"disabled_at": None}))

    async def reset_password(self, username: str, password: str) -> None:
        """Give an account a new password, which ends all its tokens.

        Raises:
            UnknownAccount: there is none of this name.
            WeakPassword: the password is one that is guessed.
        """
        account = (await self._get(username)).account
        await check_password(password, username=account.username, email=account.email)
        await update_account(self._engine, account.id, password_hash=await self._passwords.hash(password))
        await self._record(Action.USER_PASSWORD_RESET, account)

    async def delete(self, username: str, library: LibraryService) -> None:
        """Delete an account with its pictures, which `library` has, and its results.

        Raises:
            UnknownAccount: there is none of this name.
            StorageUnavailable: the storage of the pictures cannot be reached.
        """
        account = (await self._get(username)).account
        await delete_account(self._engine, library, account.id, forget=PrivacyService(self._engine).forget)
        await self._record(Action.USER_DELETED, account)

    async def _change(self, username: str, values: dict[str, Any]) -> Account:
        account = (await self._get(username)).account

        async def change(connection: AsyncConnection) -> None:
            changed = update(User).where(User.id == account.id).values(**values, updated_at=utc_now())
            await connection.execute(changed)

        await write(self._engine, change)
        return account

    async def _record(self, action: Action, account: Account) -> None:
        await AuditLog(self._engine).record(action, self._actor, user_id_of_account(account.id))

    async def _get(self, username: str) -> AccountState:
        found = await self._find(User.username_key == name_key(username))
        if not found:
            raise UnknownAccount(f"There is no account {username}.")
        return found[0]

    async def _find(self, *conditions: ColumnElement[bool]) -> list[AccountState]:
        async def find(
            connection: AsyncConnection,
        ) -> Sequence[Row[int, str, str, datetime, datetime | None]]:
            columns = User.id, User.username, User.email, User.created_at, User.disabled_at
            return (await connection.execute(select(*columns).where(*conditions).order_by(User.id))).all()

        return [
            AccountState(Account(row.id, row.username, row.email, row.created_at), row.disabled_at)
            for row in await read(self._engine, find)
        ]
