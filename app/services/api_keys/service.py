"""Knows every API key in memory, so that a request costs no look into the database.

The table is read once a second. While the database is away, what was read last counts: no key becomes valid by an
outage, and none stops to be.
"""

import asyncio
import hmac
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import ApiKeyRequired, InvalidApiKey, TooManyWrongKeys
from app.runtime.background import OutageLog, every
from app.runtime.client_key import client_key
from app.services.api_keys.key import ADMIN_KEY_ID, KEY_MAX_CHARACTERS, ApiKey, Scope, hash_of
from app.services.api_keys.rows import select_keys
from app.services.audit.service import Action, AuditLog
from app.services.throttle import Subject, Throttle

LOOK_INTERVAL_SECONDS = 1.0
LOOK_TIMEOUT_SECONDS = 3.0
# Addresses that have lately sent ADMIN_API_KEY.
MAX_TRUSTED = 1000
UNKNOWN_ADDRESS = "unknown"
# What finds a key among others; the rest of its hash is compared in constant time.
_INDEX_DIGITS = 16


class ApiKeyService:
    """Tells whose key a request has.

    Args:
        engine: the database.
        admin_key: ADMIN_API_KEY, a key of all scopes; empty: there is none.
        audit: is told of wrong keys.
    """

    def __init__(self, engine: AsyncEngine, *, admin_key: str, audit: AuditLog) -> None:
        self._engine = engine
        self._audit = audit
        self._throttle = Throttle(engine, TooManyWrongKeys)
        self._by_index: dict[str, ApiKey] = {}
        self._by_id: dict[int, ApiKey] = {}
        self._admin = (
            ApiKey(ADMIN_KEY_ID, "ADMIN_API_KEY", hash_of(admin_key), frozenset(Scope), datetime.now(UTC))
            if admin_key
            else None
        )
        self._trusted: dict[str, None] = {}
        self._outage = OutageLog("API keys cannot be read", recovered="API keys are read again")

    @property
    def exist(self) -> bool:
        """Whether there is a key in the database, if only one that was revoked: the API does not open by itself."""
        return bool(self._by_id)

    async def run(self) -> None:
        """Read the keys every second until the task is cancelled."""
        await every(LOOK_INTERVAL_SECONDS, self._look_in_time, outage=self._outage)

    async def look(self) -> None:
        """Read the keys once.

        Raises:
            DatabaseUnavailable, ServerBusy: they cannot be read.
        """
        self._learn(await select_keys(self._engine))

    async def find_by_id(self, key_id: int) -> ApiKey | None:
        """Return the key with this id, also one that has expired or was revoked; None where there is none."""
        return self._by_id.get(key_id)

    def still_counts(self, key: ApiKey) -> bool:
        """Return whether a key that was looked up before has neither expired nor been revoked since."""
        if key.id == ADMIN_KEY_ID:
            return True
        known = self._by_id.get(key.id)
        return known is not None and known.counts(datetime.now(UTC))

    def known(self, text: str) -> ApiKey | None:
        """Return the key of the database with this text, None where there is none that counts.

        Raises:
            InvalidApiKey: it has expired.
        """
        key_hash = hash_of(text)
        key = self._by_index.get(key_hash[:_INDEX_DIGITS])
        if key is None or not hmac.compare_digest(key.key_hash, key_hash):
            return None
        if key.counts(datetime.now(UTC)):
            return key
        raise InvalidApiKey("This API key was revoked." if key.revoked_at else "This API key has expired.")

    async def identify(self, text: str, address: str | None) -> ApiKey:
        """Return whose key this is.

        A key of the database is random and is never slowed. Any other text may be a guess at ADMIN_API_KEY, which
        a person has chosen: it counts as a failed attempt of its address before it is looked at.

        Raises:
            ApiKeyRequired: the text is empty.
            InvalidApiKey: it is none, or does not count any more.
            TooManyWrongKeys: the address has sent too many wrong ones just now; this one was not looked at.
            DatabaseUnavailable, ServerBusy: it cannot be counted.
        """
        if not text:
            raise ApiKeyRequired
        if len(text) <= KEY_MAX_CHARACTERS and (key := self.known(text)) is not None:
            return key
        household = _household(address)
        if household in self._trusted and self._is_admin(text):
            return self._admin_key()
        self._trusted.pop(household, None)
        attempt = {Subject.KEY_ADDRESS: household}
        await self._throttle.begin(attempt)
        if not self._is_admin(text):
            await self._record_wrong("key", address)
            raise InvalidApiKey
        await self._throttle.succeed(attempt)
        if len(self._trusted) >= MAX_TRUSTED:
            self._trusted.clear()
        self._trusted[household] = None
        return self._admin_key()

    async def count_wrong(self, credential: str, address: str | None) -> None:
        """Count what was to stand for a key, and was wrong, like a wrong key of its address.

        Args:
            credential: what it was, such as "signature"; for the audit log.
            address: where the request comes from.

        Raises:
            TooManyWrongKeys: the address has sent too many wrong ones just now.
            DatabaseUnavailable, ServerBusy: it cannot be counted.
        """
        await self._throttle.begin({Subject.KEY_ADDRESS: _household(address)})
        await self._record_wrong(credential, address)

    async def _record_wrong(self, credential: str, address: str | None) -> None:
        # Once for each attempt that was counted, so no more often than the throttle lets through.
        await self._audit.record(
            Action.KEY_REFUSED, "anonymous", ip_address=address, details={"credential": credential}
        )

    def _is_admin(self, text: str) -> bool:
        return self._admin is not None and hmac.compare_digest(self._admin.key_hash, hash_of(text))

    def _admin_key(self) -> ApiKey:
        assert self._admin is not None  # noqa: S101 - the text was compared with it
        return self._admin

    async def _look_in_time(self) -> None:
        async with asyncio.timeout(LOOK_TIMEOUT_SECONDS):
            self._learn(await select_keys(self._engine, max_attempts=1))

    def _learn(self, keys: list[ApiKey]) -> None:
        self._by_index = {key.key_hash[:_INDEX_DIGITS]: key for key in keys}
        self._by_id = {key.id: key for key in keys}


def _household(address: str | None) -> str:
    """What wrong keys are counted for."""
    return UNKNOWN_ADDRESS if address is None else client_key(address)
