"""Accounts: who may sign in, and whose token this is. Names are unique by their keys, and the database settles races.

No answer tells whether a name exists, except where a client asks for that very name at sign-up.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.tables.accounts import User
from app.database.transactions import read, write
from app.errors import (
    InvalidToken,
    LoginFailed,
    ReauthenticationRequired,
    SignUpClosed,
    TooManySignUps,
)
from app.runtime.client_key import client_key
from app.services.accounts.login_throttle import LoginThrottle
from app.services.accounts.passwords import PasswordHasher
from app.services.accounts.rows import Account, delete_account, insert_account, name_key, update_account
from app.services.accounts.tokens import Token, TokenIssuer
from app.services.accounts.weak_passwords import check_password
from app.services.audit.service import Action, AuditLog
from app.services.library.service import LibraryService
from app.services.privacy.service import PrivacyService
from app.services.request_log.record import user_id_of_account
from app.services.throttle import Subject, Throttle

# SQLite takes 32 766 parameters.
IDS_PER_QUERY = 10_000
# How long after a log-in its token alone allows a change of the account: a token that is stolen is usually older.
FRESH_FOR = timedelta(minutes=10)
# Never the password's hash: who needs that asks for it by name.
_COLUMNS = (User.id, User.username, User.email, User.token_generation, User.created_at)


@dataclass(frozen=True, slots=True)
class Session:
    """What a token stands for: it counts until `expires_at`, and while the account has this `generation` of tokens."""

    account: Account
    generation: int
    issued_at: datetime
    expires_at: datetime


class AccountService:
    """Signs people up and in, and knows them by their tokens.

    Args:
        engine: the database.
        passwords: hashes and compares them.
        tokens: makes and reads them.
        throttle: slows down guessing.
        library: its pictures are deleted with an account.
        privacy: forgets an account that is deleted.
        audit: is told of log-ins, and of what owners change.
        is_sign_up_open: whether a client may make an account.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        passwords: PasswordHasher,
        tokens: TokenIssuer,
        throttle: LoginThrottle,
        library: LibraryService,
        privacy: PrivacyService,
        audit: AuditLog,
        is_sign_up_open: bool = True,
    ) -> None:
        self._engine = engine
        self._passwords = passwords
        self._tokens = tokens
        self._throttle = throttle
        self._library = library
        self._audit = audit
        self._privacy = privacy
        self._is_sign_up_open = is_sign_up_open
        self._sign_ups = Throttle(engine, TooManySignUps)

    async def sign_up(self, username: str, email: str, password: str, address: str | None) -> Account:
        """Make an account for a client; `address` is where it comes from.

        Raises:
            SignUpClosed: only an operator makes accounts here.
            TooManySignUps: there were too many from this address just now.
            InvalidRequest, UsernameTaken, EmailTaken, ServerBusy: as for `register`.
        """
        if not self._is_sign_up_open:
            raise SignUpClosed
        if address is not None:
            await self._sign_ups.begin({Subject.SIGN_UP: client_key(address)})
        account = await self.register(username, email, password)
        await self._record(Action.USER_CREATED, account, address)
        return account

    async def register(self, username: str, email: str, password: str) -> Account:
        """Make an account.

        Raises:
            UsernameTaken, EmailTaken: another account has it.
            InvalidRequest: the name or the address is too long, or the password is one that is guessed.
            ServerBusy: too many sign up at the moment.
        """
        await check_password(password, username=username, email=email)
        return await insert_account(self._engine, username, email, await self._passwords.hash(password))

    async def log_in(self, username: str, password: str, address: str | None) -> Token:
        """Return a token for a client that knows the password; `address` is where the attempt comes from.

        Raises:
            LoginFailed: there is no such account, it has another password, or it is disabled; it takes the same time
                to say so.
            TooManyLogins: there were too many failures just now.
        """
        user_id, generation = await self._owner_of(username, password, address)
        return self._tokens.issue(user_id, generation)

    async def confirm(self, session: Session, current_password: str | None, address: str | None) -> None:
        """Do nothing if the owner of the account has just logged in, or knows its password.

        Raises:
            ReauthenticationRequired: the token is old and no password was given, or the password is wrong.
            TooManyLogins: there were too many failures just now.
        """
        if current_password is None:
            if utc_now() - session.issued_at > FRESH_FOR:
                raise ReauthenticationRequired
            return
        try:
            user_id, _ = await self._owner_of(session.account.username, current_password, address)
        except LoginFailed:
            raise ReauthenticationRequired("current_password is wrong.") from None
        if user_id != session.account.id:
            # It was renamed meanwhile, and another account has its old name and this password.
            raise ReauthenticationRequired

    async def end_tokens(self, account: Account, address: str | None) -> None:
        """End all tokens of an account, that of the request too; `address` is where the request comes from."""

        async def raise_generation(connection: AsyncConnection) -> None:
            values = {"token_generation": User.token_generation + 1, "updated_at": utc_now()}
            await connection.execute(update(User).where(User.id == account.id).values(**values))

        await write(self._engine, raise_generation)
        await self._record(Action.USER_TOKENS_ENDED, account, address)

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
        return Session(account, claims.generation, claims.issued_at, claims.expires_at)

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
        self,
        account: Account,
        address: str | None,
        *,
        username: str | None = None,
        email: str | None = None,
        password: str | None = None,
    ) -> Account:
        """Change what is given; a new password ends all tokens. `address` is where the request comes from.

        Raises:
            UsernameTaken, EmailTaken: another account has it.
            WeakPassword: the password is one that is guessed.
            InvalidToken: the account is gone.
        """
        password_hash = None
        if password is not None:
            await check_password(password, username=username or account.username, email=email or account.email)
            password_hash = await self._passwords.hash(password)
        changed = await update_account(
            self._engine, account.id, username=username, email=email, password_hash=password_hash
        )
        if changed is None:
            raise InvalidToken
        given = {"username": username, "email": email, "password": password}
        # The names of what was changed, not what it is now.
        fields = [name for name, value in given.items() if value is not None]
        await self._record(Action.USER_CHANGED, account, address, {"fields": fields})
        return changed

    async def delete(self, account: Account, address: str | None) -> None:
        """Delete an account and all that belongs to it; what log and ledger keep names it no longer."""
        await delete_account(self._engine, self._library, account.id, forget=self._privacy.forget)
        await self._record(Action.USER_DELETED, account, address)

    async def _record(
        self, action: Action, account: Account, address: str | None, details: Mapping[str, Any] | None = None
    ) -> None:
        """Record what the owner of an account has done with it."""
        name = user_id_of_account(account.id)
        await self._audit.record(action, name, name, address, details)

    async def _owner_of(self, username: str, password: str, address: str | None) -> tuple[int, int]:
        """Return id and generation of the account with this name and password. Raises as `log_in`."""
        key = name_key(username)
        await self._throttle.begin(key, address)

        async def find(connection: AsyncConnection) -> Row[int, int, str, datetime | None] | None:
            columns = User.id, User.token_generation, User.password_hash, User.disabled_at
            return (await connection.execute(select(*columns).where(User.username_key == key))).one_or_none()

        user = await read(self._engine, find)
        is_right = await self._passwords.matches(password, None if user is None else user.password_hash)
        if user is None or not is_right or user.disabled_at is not None:
            # Without the name: a person may have typed the password there.
            subject = None if user is None else user_id_of_account(user.id)
            await self._audit.record(Action.LOG_IN_FAILED, "anonymous", subject, address)
            raise LoginFailed
        await self._throttle.succeed(key, address)
        name = user_id_of_account(user.id)
        await self._audit.record(Action.LOG_IN, name, name, address)
        return user.id, user.token_generation
