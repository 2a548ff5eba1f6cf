"""What `reclassify` does with the configured database. Importing it takes a second."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.cli.maintenance.database import CannotBeDone, on_current_tables, operator
from app.config.settings import Settings
from app.evaluation.candidates import NoCandidate, find_candidate
from app.language.accept import Language
from app.services.audit.service import Action, AuditLog
from app.services.cache import reclassification
from app.services.cache.reclassification import Selection
from app.services.spending.prices import MICROS

__all__ = ["CannotBeDone", "Plan", "make_plan", "mark", "take_back"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which entries would be asked again, by their model and category, and what that costs, about, in `currency`."""

    selection: Selection
    counts: Counter[tuple[str, str]]
    cost: float
    currency: str

    @property
    def entries(self) -> int:
        return self.counts.total()


def make_plan(
    settings: Settings,
    *,
    model: str | None,
    category: Category | None,
    below: float | None,
    made_by: str | None,
    language: str | None,
) -> Plan:
    """Count the entries that the model of the settings would be asked about again; nothing is changed.

    Args:
        settings: of the service.
        model: what the operator takes for that model; None: whichever it is.
        category: as the others, narrows the choice down; see `Selection`.
        below: a confidence.
        made_by: the name of a model.
        language: that of the descriptions from now on.

    Raises:
        ValueError: the service asks another model or in another language, or there is no such language.
        CannotBeDone: the database cannot be reached, or the tables are not those of this version.
    """
    try:
        candidate = find_candidate(None, None, settings)
    except NoCandidate as error:
        raise ValueError(str(error)) from None
    asked = candidate.client.model
    if model not in {None, asked}:
        raise ValueError(f"The service asks {asked}, so {model} would not answer. Set LLM_MODEL first.")
    spoken = settings.model.fixed_language
    if language is not None and language not in set(Language):
        raise ValueError(f"There is no language {language!r}; there are {', '.join(Language)}.")
    if language is not None and spoken is None:
        raise ValueError("With DESCRIPTION_LANGUAGE=auto an upload has the model asked for the language that it lacks.")
    if language not in {None, spoken}:
        raise ValueError(f"The service asks for descriptions in {spoken}. Set DESCRIPTION_LANGUAGE first.")
    selection = Selection(asked, category, below, made_by, None if language is None else spoken)

    async def run(engine: AsyncEngine) -> Plan:
        counts = await reclassification.count(engine, selection)
        each = 0.0
        if candidate.price is not None:
            known = await reclassification.average_cost_micros(engine, asked)
            each = candidate.expected_cost_micros() if known is None else known
        return Plan(selection, counts, counts.total() * each / MICROS, settings.spending.currency)

    return on_current_tables(settings, run)


def mark(settings: Settings, plan: Plan, on_marked: Callable[[int], object]) -> int:
    """Mark the entries of a plan, and return how many; raises CannotBeDone as `make_plan`."""

    async def run(engine: AsyncEngine) -> int:
        # Before it: a part may be marked when it is stopped.
        await AuditLog(engine).record(Action.ENTRIES_MARKED, operator(), f"{plan.entries} for {plan.selection.model}")
        return await reclassification.mark(engine, plan.selection, on_marked)

    return on_current_tables(settings, run)


def take_back(settings: Settings, on_unmarked: Callable[[int], object]) -> int:
    """Take back all marks, and return how many; raises CannotBeDone as `make_plan`."""

    async def run(engine: AsyncEngine) -> int:
        await AuditLog(engine).record(Action.ENTRIES_UNMARKED, operator())
        return await reclassification.unmark(engine, on_unmarked)

    return on_current_tables(settings, run)
