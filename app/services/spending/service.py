"""Who may ask the model for a new photo, and what that costs.

What cannot be written down, since the database is away, goes into the spool; only what that does not take either is
kept in memory, and written later.
"""

import random
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from loguru import logger
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import ModelClient
from app.clock import day_in_utc, utc_now
from app.config.spending import SpendingSettings
from app.database.pipeline import DuplicateRowError, run
from app.database.statements import Statement, timestamp_text
from app.errors import AddressLimit, AppError, BudgetExhausted, UserLimit
from app.observability import metrics
from app.runtime.background import OutageLog, every
from app.runtime.client_key import client_key
from app.services.request_log.forgotten import forgotten_among
from app.services.request_log.record import Caller
from app.services.spending.bill import Bill
from app.services.spending.ledger import Ledger
from app.services.spending.limits import Budget, Limit, PhotoLimit, opening
from app.services.spending.notices import BudgetNotices
from app.services.spending.prices import MICROS, price_of
from app.services.spending.settlement import Settlement
from app.services.spool.service import Kind, Spool

WRITE_LATER_SECONDS = 2.0
FORGET_SECONDS = 3600.0
# The longest window is a day, of 25 hours where clocks change.
KEPT = timedelta(days=2)
# A bill is about a kilobyte: a day of an outage at one photo a second.
MAX_KEPT = 100_000
ALL = "all"
DEFAULT_PHOTOS_PER_ADDRESS = 100

_SPOOLED = TypeAdapter(Settlement)


class Spending:
    """Makes bills, and knows the limits of this process' settings.

    Args:
        engine: the database.
        settings: prices and limits.
        zone: of STATS_TIMEZONE, whose midnight begins a budget's day.
        photos_per_address: what an address may send in an hour; None: as many as it likes.
        notices: tells that a budget is used up.
        spool: takes what the database does not.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: SpendingSettings,
        zone: ZoneInfo,
        *,
        photos_per_address: int | None,
        notices: BudgetNotices,
        spool: Spool,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._zone = zone
        self._photos_per_address = photos_per_address
        self._notices = notices
        self._ledger = Ledger(engine.dialect.name)
        self._money_spent = metrics.MONEY_SPENT.labels(settings.currency)
        # Scope -> the window whose row this process has made sure of.
        self._opened: dict[str, datetime] = {}
        self._kept: list[Bill] = []
        self._spool = spool
        spool.on_replay(Kind.BILL, self._replay)
        self._outage = OutageLog("calls of models cannot be written down", recovered="calls are written down again")

    def bill(
        self,
        client: ModelClient,
        caller: Caller,
        name: str | None = None,
        *,
        prepaid_micros: int | None = None,
        model: str | None = None,
    ) -> Bill:
        """Return the bill of a new photo, nothing spent yet.

        Args:
            client: the model that will be asked.
            caller: who asks.
            name: what the model is called in MODELS; None: it is the service's own.
            prepaid_micros: what its answer has cost as part of a batch, under the limits of that time; None: it was in
                none.
            model: whose calls the ledger is told of; None: those of the model of `client`.
        """
        price = price_of(client, self._settings, name)
        return Bill(
            caller,
            provider=client.provider,
            model=model or client.model,
            price=price,
            limits=self._limits(caller, is_paid=price is not None) if prepaid_micros is None else [],
            ledger=self._ledger,
            prepaid_micros=prepaid_micros or 0,
        )

    def is_free(self, client: ModelClient, name: str | None) -> bool:
        """Whether the calls of a model cost nothing; arguments as with `bill`."""
        return price_of(client, self._settings, name) is None

    def openings(self, limits: Sequence[Limit]) -> list[Statement]:
        """Return what must precede a claim under `limits` in its transaction; `opened` follows the commit."""
        return [
            opening(self._engine.dialect.name, limit, is_first=self._opened.get(limit.scope) != limit.window_start)
            for limit in sorted(limits, key=lambda limit: limit.scope)
        ]

    def opened(self, limits: Sequence[Limit]) -> None:
        """Remember that the rows of `limits` are there."""
        self._opened.update({limit.scope: limit.window_start for limit in limits if isinstance(limit, Budget)})

    def refusal(self, bill: Bill, scopes: Collection[str]) -> AppError:
        """Return the error of a bill's limits of which `scopes` have no room, and see to it that it is told of."""
        self._notices.look([limit for limit in bill.limits if limit.scope in scopes], is_exhausted=True)
        return bill.refusal(scopes)

    async def settle(self, bill: Bill, *others: Statement) -> None:
        """Write down what a bill's calls have cost, in one transaction with `others`.

        Raises:
            DatabaseUnavailable, ServerBusy: as `pipeline.run`; the bill is written down later.
        """
        try:
            await run(self._engine, [*bill.settlement(), *others], writes=True)
        except DuplicateRowError:
            # A connection was lost during COMMIT; this had been committed.
            logger.debug("a bill was settled before")
        except AppError:
            await self._settle_from_spool(bill)
            raise
        except BaseException:
            self._settle_later(bill)
            raise
        self.settled(bill)

    def settled(self, bill: Bill) -> None:
        """Take note that what a bill's `settlement` returned is committed, or that its `amount` is in the spool."""
        if not bill.is_due:
            return
        bill.is_settled = True
        metrics.count(self._money_spent, bill.cost_micros / MICROS)
        self._notices.look(bill.limits)

    async def run(self) -> None:
        """Write what was kept until the task is cancelled."""
        await every(WRITE_LATER_SECONDS, self._write_kept, outage=self._outage)

    async def forget(self) -> None:
        """Delete what limits of past windows have used, each hour until the task is cancelled."""
        await every(
            FORGET_SECONDS,
            self._delete_past_windows,
            outage=OutageLog("used limits cannot be deleted", recovered="used limits are deleted again"),
            first_after_seconds=random.uniform(0, FORGET_SECONDS),
        )

    async def close(self) -> None:
        """Write what is left."""
        with self._outage.guard():
            await self._write_kept()
        if self._kept:
            logger.error("{} bills are lost: the database could not be reached", len(self._kept))
        await self._notices.close()

    def statements_of(self, settlement: Settlement) -> list[Statement]:
        """Return what writes calls down; if that was done before, the first statement is a duplicate row."""
        return settlement.statements(self._ledger)

    async def write_down(self, settlement: Settlement) -> None:
        """Write calls down, unless that was done before.

        Raises:
            DatabaseUnavailable, ServerBusy: as `pipeline.run`.
        """
        try:
            await run(self._engine, self.statements_of(settlement), writes=True, quietly=True)
        except DuplicateRowError:
            # A connection was lost during COMMIT, or they were written from the spool.
            logger.debug("calls were written down before")

    async def unnamed(self, settlement: Settlement) -> Settlement:
        """Return calls that have waited in the spool without users who were forgotten meanwhile.

        Raises:
            DatabaseUnavailable, ServerBusy: as `read`.
        """
        return settlement.without(await forgotten_among(self._engine, settlement.user_ids))

    async def _replay(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            await self.write_down(await self.unnamed(_SPOOLED.validate_json(payload)))

    async def _settle_from_spool(self, bill: Bill) -> None:
        """Have a bill written down from the spool, or if that takes nothing, by this process later."""
        if not bill.is_due or bill in self._kept:
            return
        try:
            await self._spool.append(Kind.BILL, _SPOOLED.dump_json(bill.amount()))
        except BaseException as error:
            self._settle_later(bill)
            if not isinstance(error, AppError):
                raise
        else:
            self.settled(bill)

    def _settle_later(self, bill: Bill) -> None:
        if not bill.is_due or bill in self._kept:
            return
        if len(self._kept) >= MAX_KEPT:
            logger.error("a call of a model is not written down: too many wait already")
            return
        self._kept.append(bill)

    async def _write_kept(self) -> None:
        while self._kept:
            await self.settle(self._kept[0])
            self._kept.pop(0)

    async def _delete_past_windows(self) -> None:
        oldest = timestamp_text(utc_now() - KEPT)
        # By keys: a deletion by time would lock rows that claims are waiting for.
        (rows,) = await run(
            self._engine,
            [Statement("SELECT scope, window_start FROM budget_use WHERE window_start < %s LIMIT 1000", (oldest,))],
            writes=False,
        )
        deletion = "DELETE FROM budget_use WHERE scope = %s AND window_start = %s"
        if rows:
            await run(self._engine, [Statement(deletion, row) for row in rows], writes=True)

    def _limits(self, caller: Caller, *, is_paid: bool) -> list[Limit]:
        """What a caller stands under, in the order in which it is told of them."""
        now = utc_now()
        hour = now.replace(minute=0, second=0)
        day = day_in_utc(now.astimezone(self._zone).date(), self._zone)
        limits: list[Limit] = []
        if self._photos_per_address and caller.ip_address is not None and caller.api_key_id is None:
            scope = f"ip:{client_key(caller.ip_address)}"
            limits.append(PhotoLimit(scope, hour, hour + timedelta(hours=1), self._photos_per_address, AddressLimit))
        if self._settings.photos_per_user and caller.user_id is not None:
            limits.append(PhotoLimit(f"user:{caller.user_id}", *day, self._settings.photos_per_user, UserLimit))
        if caller.new_photos_per_day is not None:
            # Apart from those who only say that they are this user.
            scope = f"device:{caller.user_id}"
            limits.append(PhotoLimit(scope, *day, caller.new_photos_per_day, UserLimit))
        if not is_paid:
            return limits
        if caller.api_key_id is not None and caller.key_budget_micros is not None:
            scope = f"key:{caller.api_key_id}"
            limits.append(Budget(scope, *day, caller.key_budget_micros, BudgetExhausted, caller.api_key_id))
        if (budget := self._settings.daily_budget_micros) is not None:
            limits.append(Budget(ALL, *day, budget, BudgetExhausted))
        return limits
