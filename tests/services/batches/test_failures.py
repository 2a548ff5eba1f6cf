"""Batches that the provider, the budget, a user or the operator gets in the way of: none holds its photos for ever."""

from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config.settings import Settings
from app.database.tables.batches import ModelBatch
from app.database.tables.inference import InferenceTask
from app.database.tables.library import LibraryImage
from app.database.tables.spending import BudgetUse, ModelCallRow
from tests.fakes.model_server import FakeModelServer
from tests.support.batches import CALL_MICROS, HALF, album, batch_settings, ledger, until
from tests.support.spending import spending_settings

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


async def change(engine: AsyncEngine, **values: object) -> None:
    """Change all batches."""
    async with engine.begin() as connection:
        await connection.execute(update(ModelBatch).values(**values))


async def is_in(engine: AsyncEngine, status: str, *, steps: int = 0) -> bool:
    """Say whether the one batch is in this status after so many steps, and no process's."""
    row = ModelBatch
    async with engine.connect() as connection:
        found = (await connection.execute(select(row.status, row.owner, row.steps))).one_or_none()
    return found is not None and (found.status, found.owner) == (status, None) and found.steps >= steps


@pytest.mark.parametrize(("provider", "status"), [("openai", 401), ("claude", 405)])
async def test_a_batch_that_the_provider_says_nothing_of_ends_after_its_deadline(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer, provider: str, status: int
) -> None:
    batches = model_server.batches
    chosen = batch_settings(settings, model_server, provider)
    chosen = chosen.model_copy(update={"spending": spending_settings(daily_budget=1)})
    async with album(chosen, photos=1) as ours:
        tasks = await ours.ask_all()
        await until(lambda: is_in(engine, "running"), "the batch to run")
        batches.fails_with = status
        await change(engine, deadline_at=utc_now() - timedelta(hours=1), due_at=ModelBatch.created_at)
        await ours.results(*tasks)
    async with engine.connect() as connection:
        row = (await connection.execute(select(ModelBatch.status, ModelBatch.reserved_micros))).one()
    assert tuple(row) == ("failed", 0)
    assert await ledger(engine) == [("answered", CALL_MICROS)]


async def test_a_submission_that_is_repeated_counts_no_photo_twice_and_is_made_ever_less_often(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    batches = model_server.batches
    batches.fails_with, batches.end_by_themselves = 429, True
    chosen = batch_settings(settings, model_server, "openai")
    chosen = chosen.model_copy(update={"spending": spending_settings(photos_per_user=2)})
    async with album(chosen, photos=2) as ours:
        tasks = await ours.ask_all()
        steps = 0
        for _ in range(3):
            await until(lambda: is_in(engine, "collecting", steps=steps + 1), "the batch to be put off")  # noqa: B023 - awaited here
            async with engine.connect() as connection:
                steps = (await connection.scalars(select(ModelBatch.steps))).one()
                used = (await connection.scalars(select(func.max(BudgetUse.used)))).one()
            assert used == 2
            await change(engine, due_at=ModelBatch.created_at)
        batches.fails_with = None
        await change(engine, due_at=ModelBatch.created_at)
        await until(lambda: bool(batches.made), "the batch")
        await change(engine, due_at=ModelBatch.created_at)
        await ours.results(*tasks)
    assert await ledger(engine) == [("answered", HALF)] * 2


async def test_when_one_picture_of_a_photo_is_deleted_the_others_get_its_answer(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    batches = model_server.batches
    async with album(batch_settings(settings, model_server, "openai"), photos=1, copies=1) as ours:
        tasks = await ours.ask_all()
        await until(lambda: is_in(engine, "running"), "the batch to run")
        async with engine.begin() as connection:
            deleted = (
                await connection.scalars(select(InferenceTask.image_id).order_by(InferenceTask.image_id))
            ).first()
            await connection.execute(delete(InferenceTask).where(InferenceTask.image_id == deleted))
            await connection.execute(delete(LibraryImage).where(LibraryImage.id == deleted))
            (kept,) = (await connection.scalars(select(InferenceTask.id))).all()
        assert kept in tasks
        batches.finish()
        await change(engine, due_at=ModelBatch.created_at)
        (result,) = await ours.results(kept)
    assert result.cost_micros == HALF
    assert model_server.call_count == 0
    async with engine.connect() as connection:
        assert (await connection.scalars(select(ModelCallRow.account_id))).all() == [ours.account_id]


async def test_a_batch_that_is_not_listed_yet_is_not_submitted_again(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    """The provider is asked for it until five minutes have passed; then it is submitted again."""
    batches = model_server.batches
    async with album(batch_settings(settings, model_server, "openai"), photos=1) as ours:
        tasks = await ours.ask_all()
        await until(lambda: is_in(engine, "running"), "the batch to run")
        lost = batches.made.pop()
        cut_off = {"status": "submitting", "provider_batch_id": None, "due_at": ModelBatch.created_at}
        await change(engine, **cut_off, submitting_at=utc_now())
        await until(lambda: is_in(engine, "submitting", steps=1), "the batch to be looked for")
        assert batches.made == []
        await change(engine, **cut_off, submitting_at=utc_now() - timedelta(minutes=6))
        await until(lambda: bool(batches.made), "the batch to be submitted again")
        assert batches.made[0].requests.keys() == lost.requests.keys()
        batches.finish()
        await change(engine, due_at=ModelBatch.created_at)
        await ours.results(*tasks)
    assert await ledger(engine) == [("answered", HALF)]


async def test_after_a_change_of_the_model_the_ledger_names_the_one_that_was_asked(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    async with album(batch_settings(settings, model_server, "openai"), photos=1) as ours:
        tasks = await ours.ask_all()
        await until(lambda: is_in(engine, "running"), "the batch to run")
        await change(engine, model="gpt-5-old")
        model_server.batches.finish()
        await change(engine, due_at=ModelBatch.created_at)
        await ours.results(*tasks)
    async with engine.connect() as connection:
        models = (await connection.scalars(select(ModelCallRow.model).order_by(ModelCallRow.id))).all()
    assert models == ["gpt-5-old", "gpt-6-luna"]
