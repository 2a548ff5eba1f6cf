"""Batches that the provider, the budget, a user or the operator gets in the way of: none holds its photos for ever."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult, PreparedPhoto
from app.clients.batches.base import BatchClient
from app.clients.errors import ModelBusy, ModelError, ModelPreparing
from app.clients.local.client import LocalClient
from app.clients.thresholds import write_thresholds
from app.clock import utc_now
from app.config.settings import Settings
from app.database.engine import SQLITE_BEGIN_IMMEDIATE
from app.database.tables.batches import ModelBatch
from app.database.tables.inference import InferenceTask
from app.database.tables.library import LibraryImage
from app.database.tables.spending import BudgetUse, ModelCallRow
from app.services.batches.collecting import count_waiting
from app.services.batches.rows import abandon
from tests.fakes.model_replies import classification, refusal
from tests.fakes.model_server import API_KEY, FakeModelServer
from tests.support.batches import CALL_MICROS, HALF, album, batch_settings, ledger, until
from tests.support.second_model import ADDRESS_VARIABLE, KEY_VARIABLE, SecondClient
from tests.support.spending import spending_settings
from tests.support.thresholds import LOCAL_MODEL, NONE_STAYS, thresholds

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
            # It writes first: a transaction of SQLite that has read may not write any more when another has.
            deleted = min(ours.images)
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
        cut_off = {"status": "submitting", "provider_batch_id": None, "owner": None, "due_at": ModelBatch.created_at}
        # A step that is under way changes nothing any more.
        await change(engine, **cut_off | {"owner": "another", "due_at": utc_now() + timedelta(hours=1)})
        lost = batches.made.pop()
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


@pytest.mark.parametrize("falls_back", [True, False])
async def test_a_refusal_in_a_batch_is_followed_by_the_fallback_where_refusals_are(
    settings: Settings,
    engine: AsyncEngine,
    model_server: FakeModelServer,
    monkeypatch: pytest.MonkeyPatch,
    falls_back: bool,
) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, model_server.openai_url)
    monkeypatch.setenv(KEY_VARIABLE, API_KEY)
    model_server.script(refusal(), refusal(), classification("pets"))
    model_server.batches.end_by_themselves = True
    second = {
        "further_models": {"second": f"{SecondClient.__module__}:{SecondClient.__name__}"},
        "fallback_models": ("second",),
        "falls_back_on_refusal": falls_back,
    }
    chosen = batch_settings(settings, model_server, "openai")
    chosen = chosen.model_copy(update={"model": chosen.model.model_copy(update=second)})
    async with album(chosen, photos=1) as ours:
        (task,) = await ours.completed(*await ours.ask_all())
    assert task.error_code == (None if falls_back else "model_refused")
    called = [("refused", CALL_MICROS), ("answered", CALL_MICROS)] if falls_back else []
    assert await ledger(engine) == [("refused", HALF), *called]


async def test_tasks_that_name_another_model_are_in_no_batch(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    """As after a change of LLM_PROVIDER: the next start makes them due, and each says what is the matter."""
    async with album(batch_settings(settings, model_server, "openai", batch_wait_seconds=3600), photos=1) as ours:
        names = ours.resources.inference.batched_model_names
        tasks = await ours.ask_all()
        # SQLite lets no transaction write that has read first while another one has written.
        async with engine.execution_options(**{SQLITE_BEGIN_IMMEDIATE: True}).begin() as connection:
            assert (await count_waiting(connection, names, 9))[0] == 1
            await connection.execute(update(InferenceTask).values(model_name="claude"))
            assert await count_waiting(connection, names, 9) == (0, None)
            assert await abandon(connection, "openai", names) == 0
        (task,) = await ours.completed(*tasks)
    assert task.error_code == "unknown_model"
    assert model_server.batches.made == []


async def test_a_batch_waits_for_a_local_model_that_cannot_look_at_the_moment(
    settings: Settings,
    engine: AsyncEngine,
    model_server: FakeModelServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors: list[ModelError] = [ModelPreparing(), ModelBusy()]
    classify = LocalClient.classify

    async def busy(client: LocalClient, photo: PreparedPhoto) -> ModelResult:
        if errors:
            raise errors.pop()
        return await classify(client, photo)

    monkeypatch.setattr(LocalClient, "classify", busy)
    file = tmp_path / "cascade.json"
    write_thresholds(file, LOCAL_MODEL, thresholds(kept_from=NONE_STAYS))
    kept = {"local_only_categories": frozenset({Category.IDCARD}), "cascade_file": file}
    chosen = batch_settings(settings, model_server, "openai")
    chosen = chosen.model_copy(update={"model": chosen.model.model_copy(update=kept)})
    async with album(chosen, photos=1) as ours:
        tasks = await ours.ask_all()
        await until(lambda: bool(model_server.batches.made), "a batch")
        assert errors == []
        model_server.batches.finish()
        await ours.results(*tasks)
    assert await ledger(engine) == [("answered", HALF)]


async def test_what_a_process_has_submitted_after_it_lost_the_batch_is_cancelled(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = BatchClient.submit

    async def slow(client: BatchClient, batch_id: str, photos: Mapping[str, PreparedPhoto]) -> str:
        provider_id = await submit(client, batch_id, photos)
        await change(engine, status="failed", owner=None)
        return provider_id

    monkeypatch.setattr(BatchClient, "submit", slow)
    batches = model_server.batches
    async with album(batch_settings(settings, model_server, "openai"), photos=1) as ours:
        await ours.ask_all()
        await until(lambda: bool(batches.made) and batches.made[0].status == "cancelling", "the batch to be cancelled")
