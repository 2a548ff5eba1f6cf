"""Rows of accounts: names are unique by their keys, and the database settles races."""

import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from loguru import logger
from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.tables.accounts import User
from app.database.tables.library import LibraryImage
from app.database.transactions import read, write
from app.errors import EmailTaken, InvalidRequest, UsernameTaken
from app.services.library.service import LibraryService
from app.services.request_log.record import user_id_of_account

USERNAME_KEY_MAX_LENGTH = 64
EMAIL_KEY_MAX_LENGTH = 254


@dataclass(frozen=True, slots=True)
class Account:
    """One account, as its owner sees it."""

    id: int
    username: str
    email: str
    created_at: datetime


async def insert_account(engine: AsyncEngine, username: str, email: str, password_hash: str) -> Account:
    """Make an account.

    Raises:
        UsernameTaken, EmailTaken: another account has it.
        InvalidRequest: the name or the address is too long.
    """
    created_at = utc_now()
    values = {
        "username": username,
        "username_key": name_key(username),
        "email": email,
        "email_key": email_key(email),
        "password_hash": password_hash,
        "created_at": created_at,
        "updated_at": created_at,
    }

    async def insert_user(connection: AsyncConnection) -> int:
        # Its salt makes the hash one of a kind: this is our row, of a try whose COMMIT had no answer.
        is_ours = User.username_key == values["username_key"], User.password_hash == values["password_hash"]
        if (known := await connection.scalar(select(User.id).where(*is_ours))) is not None:
            return known
        inserted = await connection.execute(insert(User).values(**values))
        assert inserted.inserted_primary_key is not None  # noqa: S101 - an INSERT of one row
        return int(inserted.inserted_primary_key[0])

    try:
        user_id = await write(engine, insert_user)
    except IntegrityError:
        raise await _what_is_taken(engine, values) from None
    return Account(user_id, username, email, created_at)


async def update_account(
    engine: AsyncEngine,
    account_id: int,
    *,
    username: str | None = None,
    email: str | None = None,
    password_hash: str | None = None,
) -> Account | None:
    """Change what is given, and return the account, None if it is gone; a new password ends all tokens.

    Raises:
        UsernameTaken, EmailTaken: another account has it.
        InvalidRequest: the name or the address is too long.
    """
    values: dict[str, Any] = {"updated_at": utc_now()}
    if username is not None:
        values |= {"username": username, "username_key": name_key(username)}
    if email is not None:
        values |= {"email": email, "email_key": email_key(email)}
    if password_hash is not None:
        values |= {"password_hash": password_hash, "token_generation": User.token_generation + 1}

    async def update_user(connection: AsyncConnection) -> Row[int, str, str, datetime] | None:
        await connection.execute(update(User).where(User.id == account_id).values(**values))
        columns = User.id, User.username, User.email, User.created_at
        return (await connection.execute(select(*columns).where(User.id == account_id))).one_or_none()

    try:
        user = await write(engine, update_user)
    except IntegrityError:
        raise await _what_is_taken(engine, values, except_id=account_id) from None
    return None if user is None else Account(user.id, user.username, user.email, user.created_at)


async def delete_account(
    engine: AsyncEngine, library: LibraryService, account_id: int, *, forget: Callable[[str], Awaitable[object]]
) -> None:
    """Delete an account and all that belongs to it; `forget` makes rows that name it in log and ledger nameless."""

    async def delete_user(connection: AsyncConnection) -> bool:
        # An upload locks the account as well: none comes between the look and the deletion.
        await connection.execute(select(User.id).where(User.id == account_id).with_for_update())
        image = select(LibraryImage.id).where(LibraryImage.user_id == account_id).limit(1)
        if await connection.scalar(image) is not None:
            return False
        await connection.execute(delete(User).where(User.id == account_id))
        return True

    user_id = user_id_of_account(account_id)
    # Before its end: the owner can ask again if this fails. And after it, for requests that were under way.
    await forget(user_id)
    # The pictures first, by the library, which knows their files; an upload under way may add one more.
    is_gone = False
    while not is_gone:
        await library.delete_all(account_id)
        is_gone = await write(engine, delete_user)
    await forget(user_id)
    logger.info("account {} was deleted", account_id)


async def _what_is_taken(
    engine: AsyncEngine, values: Mapping[str, Any], *, except_id: int = 0
) -> UsernameTaken | EmailTaken:
    async def find(connection: AsyncConnection) -> bool:
        taken = select(User.id).where(User.username_key == values.get("username_key"), User.id != except_id)
        return (await connection.scalar(taken)) is not None

    return UsernameTaken() if await read(engine, find) else EmailTaken()


def name_key(username: str) -> str:
    """Return what two user names have in common that are the same to a reader.

    Raises:
        InvalidRequest: it is too long.
    """
    key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold())
    if len(key) > USERNAME_KEY_MAX_LENGTH:
        raise InvalidRequest("username: it is too long.")
    return key


def email_key(email: str) -> str:
    """Return what two spellings of an email address have in common.

    Raises:
        InvalidRequest: it is too long, since some letters become three.
    """
    key = email.casefold()
    if len(key) > EMAIL_KEY_MAX_LENGTH:
        raise InvalidRequest("email: it is too long.")
    return key
