"""Accounts: who may sign in, and whose token this is. Names are unique by their keys, and the database settles races.

No answer tells whether a name exists, except where a client asks for that very name at sign-up.
"""

import unicodedata
from collections.abc import Collection, Mapping, Sequence
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
from app.errors import EmailTaken, InvalidRequest, InvalidToken, LoginFailed, UsernameTaken
from app.services.accounts.login_throttle import LoginThrottle
from app.services.accounts.passwords import PasswordHasher
from app.services.accounts.tokens import Token, TokenIssuer
from app.services.library.service import LibraryService
from app.services.privacy.service import PrivacyService
from app.services.request_log.record import user_id_of_account

USERNAME_KEY_MAX_LENGTH = 64
EMAIL_KEY_MAX_LENGTH = 254
# SQLite takes 32 766 parameters.
IDS_PER_QUERY = 10_000
# Never the password's hash: who needs that asks for it by name.
_COLUMNS = (User.id, User.username, User.email, User.token_generation, User.created_at)


@dataclass(frozen=True, slots=True)
class Account:
    """One account, as its owner sees it."""

    id: int
    username: str
    email: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """What a token stands for: it counts until `expires_at`, and while the account has this `generation` of tokens."""

    account: Account
    generation: int
    expires_at: datetime


class AccountService:
    """Signs people up and in, and knows them by their tokens."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        passwords: PasswordHasher,
        tokens: TokenIssuer,
        throttle: LoginThrottle,
        library: LibraryService,
        privacy: PrivacyService,
    ) -> None:
        self._engine = engine
        self._passwords = passwords
        self._tokens = tokens
        self._throttle = throttle
        self._library = library
        self._privacy = privacy

    async def register(self, username: str, email: str, password: str) -> Account:
        """Make an account.

        Raises:
            UsernameTaken, EmailTaken: another account has it.
            InvalidRequest: the name or the address is too long.
            ServerBusy: too many sign up at the moment.
        """
        created_at = utc_now()
        values = {
            "username": username,
            "username_key": name_key(username),
            "email": email,
            "email_key": email_key(email),
            "password_hash": await self._passwords.hash(password),
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
            user_id = await write(self._engine, insert_user)
        except IntegrityError:
            raise await self._what_is_taken(values) from None
        return Account(user_id, username, email, created_at)

    async def log_in(self, username: str, password: str, address: str | None) -> Token:
        """Return a token for a client that knows the password; `address` is where the attempt comes from.

        Raises:
            LoginFailed: there is no such account, or it has another password; it takes the same time to say so.
            TooManyLogins: there were too many failures just now.
        """
        key = name_key(username)
        await self._throttle.begin(key, address)

        async def find(connection: AsyncConnection) -> Row[int, int, str] | None:
            query = select(User.id, User.token_generation, User.password_hash).where(User.username_key == key)
            return (await connection.execute(query)).one_or_none()

        user = await read(self._engine, find)
        if not await self._passwords.matches(password, None if user is None else user.password_hash) or user is None:
            raise LoginFailed
        await self._throttle.succeed(key, address)
        return self._tokens.issue(user.id, user.token_generation)

    async def session_of(self, token: str) -> Session:
        """Return what a token stands for, for connections that outlive a request.

        Raises:
            InvalidToken, TokenExpired: it is not, or no longer, a token of an account.
        """
        claims = self._tokens.read(token)

        async def find(connection: AsyncConnection) -> Row[int, str, str, int, datetime] | None:
            return (await connection.execute(select(*_COLUMNS).where(User.id == claims.user_id))).one_or_none()

        user = await read(self._engine, find)
        if user is None or user.token_generation != claims.generation:
            raise InvalidToken
        account = Account(user.id, user.username, user.email, user.created_at)
        return Session(account, claims.generation, claims.expires_at)

    async def generations_of(self, user_ids: Collection[int]) -> dict[int, int]:
        """Return the generation of tokens that counts for each account; those that are gone are left out."""
        ids = sorted(user_ids)
        generations: dict[int, int] = {}
        for start in range(0, len(ids), IDS_PER_QUERY):
            batch = ids[start : start + IDS_PER_QUERY]

            async def find(connection: AsyncConnection, batch: Sequence[int] = batch) -> Sequence[Row[int, int]]:
                return (
                    await connection.execute(select(User.id, User.token_generation).where(User.id.in_(batch)))
                ).all()

            generations.update((row.id, row.token_generation) for row in await read(self._engine, find))
        return generations

    async def update(
        self, account: Account, *, username: str | None = None, email: str | None = None, password: str | None = None
    ) -> Account:
        """Change what is given; a new password ends all tokens.

        Raises:
            UsernameTaken, EmailTaken: another account has it.
            InvalidToken: the account is gone.
        """
        values: dict[str, Any] = {"updated_at": utc_now()}
        if username is not None:
            values |= {"username": username, "username_key": name_key(username)}
        if email is not None:
            values |= {"email": email, "email_key": email_key(email)}
        if password is not None:
            values |= {
                "password_hash": await self._passwords.hash(password),
                "token_generation": User.token_generation + 1,
            }

        async def update_user(connection: AsyncConnection) -> Row[int, str, str, int, datetime] | None:
            await connection.execute(update(User).where(User.id == account.id).values(**values))
            return (await connection.execute(select(*_COLUMNS).where(User.id == account.id))).one_or_none()

        try:
            user = await write(self._engine, update_user)
        except IntegrityError:
            raise await self._what_is_taken(values, except_id=account.id) from None
        if user is None:
            raise InvalidToken
        return Account(user.id, user.username, user.email, user.created_at)

    async def delete(self, account: Account) -> None:
        """Delete an account and all that belongs to it; what log and ledger keep names it no longer."""

        async def delete_user(connection: AsyncConnection) -> bool:
            # An upload locks the account as well: none comes between the look and the deletion.
            await connection.execute(select(User.id).where(User.id == account.id).with_for_update())
            image = select(LibraryImage.id).where(LibraryImage.user_id == account.id).limit(1)
            if await connection.scalar(image) is not None:
                return False
            await connection.execute(delete(User).where(User.id == account.id))
            return True

        # The pictures first, by the library, which knows their files; an upload under way may add one more.
        user_id = user_id_of_account(account.id)
        # Before its end: the owner can ask again if this fails. And after it, for requests that were under way.
        await self._privacy.forget(user_id)
        is_gone = False
        while not is_gone:
            await self._library.delete_all(account.id)
            is_gone = await write(self._engine, delete_user)
        await self._privacy.forget(user_id)
        logger.info("account {} was deleted", account.id)

    async def _what_is_taken(self, values: Mapping[str, Any], *, except_id: int = 0) -> UsernameTaken | EmailTaken:
        async def find(connection: AsyncConnection) -> bool:
            taken = select(User.id).where(User.username_key == values.get("username_key"), User.id != except_id)
            return (await connection.scalar(taken)) is not None

        return UsernameTaken() if await read(self._engine, find) else EmailTaken()


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
