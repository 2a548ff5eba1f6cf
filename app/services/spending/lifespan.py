"""What a process needs to spend money: the ledger and its limits."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import ModelClient
from app.clients.errors import ModelConfigurationError
from app.config.settings import Environment, Settings
from app.runtime.background import running
from app.services.spending.notices import BudgetNotices
from app.services.spending.service import DEFAULT_PHOTOS_PER_ADDRESS, Spending
from app.services.spool.service import Spool


@asynccontextmanager
async def open_spending(
    settings: Settings,
    engine: AsyncEngine,
    *,
    spool: Spool,
    model_client: ModelClient,
    fallbacks: Mapping[str, ModelClient] | None = None,
) -> AsyncIterator[Spending]:
    """Make bills for the length of the block; at its end, write what was kept.

    Args:
        settings: prices, limits and the environment.
        engine: the database.
        spool: takes what the database does not.
        model_client: the model of the service.
        fallbacks: those that are asked where it cannot answer, by name.

    Raises:
        ModelConfigurationError: in production, a model that costs money needs a budget.
    """
    spending = settings.spending
    models = {f"LLM_PROVIDER={settings.model.provider}": model_client}
    models |= {f"FALLBACK_MODELS={name}": client for name, client in (fallbacks or {}).items()}
    paid = [said for said, client in models.items() if client.is_paid]
    is_guarded = settings.environment is Environment.PRODUCTION and bool(paid)
    if is_guarded and spending.daily_budget is None:
        raise ModelConfigurationError(
            f"ENV=production with {paid[0]} needs DAILY_BUDGET: what a day may cost in"
            f" {spending.currency}, or the word unlimited."
        )
    photos_per_address = spending.photos_per_address
    if photos_per_address is None and is_guarded:
        photos_per_address = DEFAULT_PHOTOS_PER_ADDRESS
    service = Spending(
        engine,
        spending,
        settings.statistics.timezone,
        photos_per_address=photos_per_address,
        notices=BudgetNotices(engine, spending),
        spool=spool,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(service.close)
        await stack.enter_async_context(running(service.run(), name="spending"))
        await stack.enter_async_context(running(service.forget(), name="used-limits"))
        yield service
