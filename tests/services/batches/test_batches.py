"""Photos that can wait: into a batch, at half the price, once; and to the model itself where a batch brings nothing."""

import hashlib
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.thresholds import write_thresholds
from app.config.model import DescriptionLanguage
from app.config.settings import Settings
from app.database.tables.batches import ModelBatch
from app.database.tables.inference import InferenceTask
from app.language.accept import Language
from app.services.batches.rows import CANCELLING
from app.services.photos import UploadedPhoto
from app.services.request_log.record import Caller
from app.services.tasks.record import Priority
from tests.fakes.images import jpeg_photo
from tests.fakes.model_replies import answer, classification, failure, refusal
from tests.fakes.model_server import FakeModelServer
from tests.support.batches import CALL_MICROS, HALF, album, batch_settings, ledger, until
from tests.support.spending import spending_settings
from tests.support.thresholds import ALL_STAY, LOCAL_MODEL, NONE_STAYS, thresholds

ON_ONE_KIND = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


async def statuses(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return list((await connection.scalars(select(ModelBatch.status).order_by(ModelBatch.created_at))).all())


@pytest.mark.parametrize("provider", ["openai", "claude"])
async def test_photos_that_can_wait_go_through_a_batch_at_half_the_price(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer, provider: str
) -> None:
    model_server.script(classification("foods"), classification("foods"))
    batches = model_server.batches
    async with album(batch_settings(settings, model_server, provider), photos=2, copies=1) as ours:
        tasks = await ours.ask_all()
        await until(lambda: bool(batches.made), "a batch")
        assert {(await ours.task(each)).status.value for each in tasks} == {"pending"}
        batches.finish()
        results = await ours.results(*tasks)
        await until(lambda: bool(batches.deleted), "the provider's files to be deleted")
    assert {result.category.value for result in results} == {"foods"}
    assert sorted(result.from_cache for result in results) == [False, False, True]
    assert [result.cost_micros for result in results] == [HALF] * 3
    assert [len(batch.requests) for batch in batches.made] == [2]
    assert model_server.call_count == 0
    assert await ledger(engine) == [("answered", HALF)] * 2
    assert await statuses(engine) == ["ended"]
    assert model_server.violations + batches.violations == []
    if provider == "openai":
        assert batches.files == {}


@pytest.mark.parametrize("provider", ["openai", "claude"])
async def test_each_photo_is_described_in_the_language_that_its_task_was_asked_for_in(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer, provider: str
) -> None:
    model_server.script(classification(description="一只猫"), classification(description="一只猫"))
    batches = model_server.batches
    chosen = batch_settings(settings, model_server, provider)
    chosen = chosen.model_copy(
        update={"model": chosen.model.model_copy(update={"description_language": DescriptionLanguage.AUTO})}
    )
    async with album(chosen, photos=1) as ours:
        (image,) = ours.images
        for language in Language:
            job = await ours.resources.jobs.create(ours.account_id, [], "default", Priority.LOW)
            await ours.resources.jobs.add(ours.account_id, job.id, [image], language=language)
        await until(lambda: sum(len(each.requests) for each in batches.made) == 2, "two photos in batches")
        # One that cannot wait is asked about directly.
        direct = await ours.resources.tasks.submit(ours.account_id, image, "default", language=Language.ENGLISH)
        await ours.completed(direct.id)
    prompts = [str(request) for each in batches.made for request in each.requests.values()]
    assert sorted("in Simplified Chinese" in prompt for prompt in prompts) == [False, True]
    assert ["in Simplified Chinese" in str(call.body) for call in model_server.calls] == [False]


@ON_ONE_KIND
@pytest.mark.parametrize("provider", ["openai", "claude"])
async def test_each_photo_of_a_batch_has_an_end_of_its_own(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer, provider: str
) -> None:
    # Answered, refused, an answer that is none, an error of the server, and one that the batch had no time for.
    model_server.script(classification("pets"), refusal(), answer("Hm."), failure(500))
    batches = model_server.batches
    async with album(batch_settings(settings, model_server, provider), photos=5) as ours:
        tasks = await ours.ask_all()
        await until(lambda: bool(batches.made), "a batch")
        batches.finish(answered=4, status="expired")
        ended = await ours.completed(*tasks)
    assert sorted(task.status.value for task in ended) == ["completed"] * 4 + ["failed"]
    assert [task.error_code for task in ended if task.error_code] == ["model_refused"]
    # What the batch has not answered is asked directly, at the usual price.
    assert model_server.call_count == 3
    batched = [("answered", HALF), ("invalid", HALF), ("refused", HALF)]
    assert sorted(await ledger(engine)) == sorted([*batched, *[("answered", CALL_MICROS)] * 3])


@ON_ONE_KIND
async def test_a_known_photo_goes_into_no_batch(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    async with album(batch_settings(settings, model_server, "openai"), photos=1) as ours:
        data = jpeg_photo(64, 64)
        known = UploadedPhoto(data, hashlib.sha256(data).hexdigest())
        await ours.resources.classifier.classify(known, Caller())
        (result,) = await ours.results(await ours.ask(ours.images[0]))
        assert result.from_cache
    assert model_server.batches.made == []
    assert model_server.call_count == 1
    assert await statuses(engine) == ["ended"]


@ON_ONE_KIND
@pytest.mark.parametrize("stays", [ALL_STAY, NONE_STAYS], ids=["stays", "may leave"])
async def test_what_must_not_leave_the_server_goes_into_no_batch(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer, tmp_path: Path, stays: float
) -> None:
    chosen = batch_settings(settings, model_server, "openai")
    file = tmp_path / "cascade.json"
    write_thresholds(file, LOCAL_MODEL, thresholds(kept_from=stays))
    kept = {"local_only_categories": frozenset({Category.IDCARD}), "cascade_file": file}
    chosen = chosen.model_copy(update={"model": chosen.model.model_copy(update=kept)})
    model_server.script(classification("foods"))
    batches = model_server.batches
    async with album(chosen, photos=1) as ours:
        task = await ours.ask(ours.images[0])
        if stays == NONE_STAYS:
            await until(lambda: bool(batches.made), "a batch")
            batches.finish()
        (result,) = await ours.results(task)
    may_leave = stays == NONE_STAYS
    assert (result.cost_micros, result.model.startswith("local-only/")) == (HALF * may_leave, not may_leave)
    assert (len(batches.made), model_server.call_count) == (may_leave, 0)
    assert await ledger(engine) == [("answered", HALF)] * may_leave


@ON_ONE_KIND
@pytest.mark.parametrize(
    ("provider", "changes"), [("custom", {}), ("openai", {"batch_deadline_hours": 0.0})], ids=["custom", "no-patience"]
)
async def test_where_there_are_no_batches_the_model_is_asked_at_once(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer, provider: str, changes: dict[str, float]
) -> None:
    async with album(batch_settings(settings, model_server, provider, **changes), photos=1) as ours:
        task_id = await ours.ask(ours.images[0])
        await ours.results(task_id)
        assert (await ours.task(task_id)).priority.priority is Priority.LOW
    assert (model_server.call_count, model_server.batches.made) == (1, [])
    assert await ledger(engine) == [("answered", CALL_MICROS)]


@ON_ONE_KIND
@pytest.mark.parametrize("provider", ["openai", "claude"])
async def test_a_server_that_knows_no_batches_is_asked_directly(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer, provider: str
) -> None:
    model_server.batches.has_api = False
    async with album(batch_settings(settings, model_server, provider), photos=1) as ours:
        await ours.results(await ours.ask(ours.images[0]))
    assert await statuses(engine) == ["failed"]
    assert await ledger(engine) == [("answered", CALL_MICROS)]


@ON_ONE_KIND
@pytest.mark.parametrize("provider", ["openai", "claude"])
async def test_a_batch_whose_submission_was_not_answered_is_not_submitted_again(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer, provider: str
) -> None:
    batches = model_server.batches
    batches.unanswered = 1
    batches.end_by_themselves = True
    async with album(batch_settings(settings, model_server, provider), photos=2) as ours:
        await ours.results(*await ours.ask_all())
    assert sum(len(batch.requests) for batch in batches.made) == 2
    assert model_server.call_count == 0
    assert await ledger(engine) == [("answered", HALF)] * 2


@ON_ONE_KIND
async def test_past_its_deadline_a_batch_is_cancelled_and_the_rest_asked_directly(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    batches = model_server.batches
    async with album(batch_settings(settings, model_server, "openai"), photos=2) as ours:
        tasks = await ours.ask_all()
        await until(lambda: bool(batches.made), "a batch")
        async with engine.begin() as connection:
            await connection.execute(update(ModelBatch).values(deadline_at=ModelBatch.created_at))
        await until(lambda: batches.made[0].status == "cancelling", "the batch to be cancelled")
        batches.finish(answered=1, status="cancelled")
        async with engine.begin() as connection:
            await connection.execute(update(ModelBatch).values(due_at=ModelBatch.created_at))
        await ours.results(*tasks)
    assert model_server.call_count == 1
    assert sorted(await ledger(engine)) == [("answered", HALF), ("answered", CALL_MICROS)]


async def test_a_batch_takes_the_photos_that_the_budget_has_room_for(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    """Two photos at half a cent do not fit into nine tenths of a cent: one goes, and the other waits for room."""
    batches = model_server.batches
    changed = batch_settings(settings, model_server, "claude")
    small = changed.model_copy(update={"spending": spending_settings(daily_budget=Decimal("0.009"))})
    async with album(small, photos=2) as ours:
        tasks = await ours.ask_all()

        async def waits() -> bool:
            async with engine.connect() as connection:
                row = ModelBatch
                query = select(row.steps, row.owner, row.reserved_micros).where(row.status == "collecting")
                return (await connection.execute(query)).all() == [(1, None, 0)]

        await until(waits, "the second batch to be put off")
        assert [len(batch.requests) for batch in batches.made] == [1]
        assert {(await ours.task(each)).status.value for each in tasks} == {"pending"}
        async with engine.connect() as connection:
            assert sum((await connection.scalars(select(ModelBatch.reserved_micros))).all()) == HALF
            # The task that waits again does so until its deadline, and not for the time of a cancellation as well.
            deadlines = (await connection.execute(select(ModelBatch.id, ModelBatch.deadline_at))).all()
            due = (await connection.execute(select(InferenceTask.batch_item, InferenceTask.due_at))).all()
            assert len(due) == 2
            for item, due_at in due:
                assert item is not None
                (deadline,) = (row.deadline_at for row in deadlines if item[:12] == row.id[:12])
                assert due_at == deadline + CANCELLING
        batches.finish()

        async def is_settled() -> bool:
            return await ledger(engine) == [("answered", HALF)]

        await until(is_settled, "the call to be written down")
        async with engine.connect() as connection:
            assert sum((await connection.scalars(select(ModelBatch.reserved_micros))).all()) == 0
