"""Tells an address of the operator's when 80 and 100 % of a budget are spent, once a day each.

A row of `budget_use` says that it was told; the process that inserts it tells it.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import httpx2
from loguru import logger
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.config.spending import SpendingSettings
from app.database.statements import Statement, execute, insert_ignore, timestamp_text
from app.database.tables.spending import BudgetUse
from app.database.transactions import read, write
from app.runtime.background import OutageLog, shared, spawn
from app.services.spending.limits import Budget, Limit
from app.services.spending.prices import MICROS

PERCENTS = (80, 100)
TIMEOUT_SECONDS = 10.0
ATTEMPTS = 3
PAUSE_SECONDS = 2.0


class BudgetNotices:
    """Looks at budgets after money was spent; without BUDGET_WEBHOOK_URL it does nothing."""

    def __init__(self, engine: AsyncEngine, settings: SpendingSettings) -> None:
        self._engine = engine
        self._url = settings.webhook_url.get_secret_value()
        self._currency = settings.currency
        self._due: dict[str, tuple[Budget, bool]] = {}
        self._told: set[tuple[str, datetime, int]] = set()
        self._telling: asyncio.Task[None] | None = None
        self._outage = OutageLog("budgets cannot be watched", recovered="budgets are watched again")

    def look(self, limits: Sequence[Limit], *, is_exhausted: bool = False) -> None:
        """Tell what has become due, without waiting for it.

        Args:
            limits: those under which money was spent.
            is_exhausted: a new photo was refused, since the rest of the budget is too small for it.
        """
        if not self._url:
            return
        for limit in limits:
            if isinstance(limit, Budget) and (limit.scope, limit.window_start, PERCENTS[-1]) not in self._told:
                _, was_exhausted = self._due.get(limit.scope, (limit, False))
                self._due[limit.scope] = limit, is_exhausted or was_exhausted
        if self._due and self._telling is None:
            self._telling = spawn(self._tell_due(), name="budget-notices")

    async def close(self) -> None:
        """Wait for the notices under way."""
        if self._telling is not None:
            await shared(self._telling)

    async def _tell_due(self) -> None:
        try:
            while self._due:
                _, (budget, is_exhausted) = self._due.popitem()
                with self._outage.guard():
                    await self._tell(budget, is_exhausted=is_exhausted)
        finally:
            self._telling = None

    async def _tell(self, budget: Budget, *, is_exhausted: bool) -> None:
        query = select(BudgetUse.used).where(
            BudgetUse.scope == budget.scope, BudgetUse.window_start == budget.window_start
        )
        used = await read(self._engine, lambda connection: connection.scalar(query)) or 0
        for percent in PERCENTS:
            key = budget.scope, budget.window_start, percent
            is_reached = used * 100 >= budget.most * percent or (is_exhausted and percent == PERCENTS[-1])
            if not is_reached or key in self._told:
                continue
            is_first = await self._claim(budget, percent)
            self._told.add(key)
            if is_first:
                logger.warning("{} % of the budget {} are spent", percent, budget.scope)
                await self._send(budget, percent, used)

    async def _claim(self, budget: Budget, percent: int) -> bool:
        """Whether this process is the first to tell it."""
        statement = Statement(
            f"{insert_ignore(self._engine.dialect.name)} budget_use (scope, window_start, used, attempts)"
            " VALUES (%s, %s, 0, 0)",
            (f"told:{percent}:{budget.scope}", timestamp_text(budget.window_start)),
        )

        async def insert(connection: AsyncConnection) -> bool:
            return (await execute(connection, statement)).rowcount == 1

        return await write(self._engine, insert)

    async def _send(self, budget: Budget, percent: int, used: int) -> None:
        notice = {
            "event": "budget",
            "percent": percent,
            "scope": budget.scope,
            "budget": str(Decimal(budget.most) / MICROS),
            "spent": str(Decimal(used) / MICROS),
            "currency": self._currency,
            "window_start": budget.window_start.isoformat().replace("+00:00", "Z"),
            "sent_at": utc_now().isoformat().replace("+00:00", "Z"),
        }
        async with httpx2.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False) as client:
            for attempt in range(ATTEMPTS):
                try:
                    response = await client.post(self._url, json=notice)
                    if response.is_success:
                        return
                    failure = f"HTTP {response.status_code}"
                except httpx2.HTTPError as error:
                    # Its text holds the address, and that may hold a token.
                    failure = type(error).__name__
                logger.warning("BUDGET_WEBHOOK_URL did not take the notice ({})", failure)
                await asyncio.sleep(PAUSE_SECONDS * (attempt + 1))
