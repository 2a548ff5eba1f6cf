"""What models cost that look at library pictures: written with their results, and saved by those who use one again."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config.settings import Settings
from app.database.tables.classification import ModelCallLease
from app.database.tables.spending import ModelCallRow
from app.database.tables.statistics import PeriodTotals
from app.errors import DatabaseUnavailable
from app.resources import Resources, open_resources
from app.services.inference.results import Inference
from app.services.photos import UploadedPhoto
from tests.fakes.counted_model import CountedModel
from tests.fakes.images import jpeg_photo
from tests.fakes.model_server import FakeModelServer
from tests.support.spending import spending_settings

CALL_MICROS = 20_000


@dataclass
class Library:
    """One account and its picture."""

    resources: Resources
    account_id: int
    image_id: int

    async def infer(self, name: str, **options: object) -> Inference:
        return await self.resources.inference.infer(self.account_id, self.image_id, name, **options)  # type: ignore[arg-type]


@pytest.fixture
async def library(settings: Settings, engine: AsyncEngine) -> AsyncIterator[Library]:
    """A service whose models, its own and a further one, cost two cents a call."""
    CountedModel.reset()
    further = {"counted": "tests.fakes.counted_model:CountedModel"}
    price = Decimal("0.02")
    changed = {
        "model": settings.model.model_copy(update={"further_models": further}),
        "spending": spending_settings(cost_per_call=price, model_prices={"counted": (price,)}),
    }
    async with open_resources(settings.model_copy(update=changed)) as resources:
        account = await resources.accounts.register("testuser", "test@example.com", "testpassword123")
        data = jpeg_photo()
        image = await resources.library.add(account.id, UploadedPhoto(data, hashlib.sha256(data).hexdigest()))
        yield Library(resources, account.id, image.id)


async def written(connection: AsyncConnection) -> int:
    return await connection.scalar(select(func.count(ModelCallRow.id))) or 0


@pytest.mark.parametrize("name", ["custom", "counted"])
async def test_a_result_that_is_used_again_saves_what_its_call_cost(
    library: Library, engine: AsyncEngine, name: str
) -> None:
    answers = [await library.infer(name) for _ in range(3)]
    assert [answer.from_cache for answer in answers] == [False, True, True]
    assert [answer.cost_micros for answer in answers] == [CALL_MICROS] * 3
    async with engine.connect() as connection:
        saved = await connection.scalar(select(func.sum(PeriodTotals.saved_micros)))
        assert await connection.scalar(select(func.sum(ModelCallRow.cost_micros))) == CALL_MICROS
    assert saved == 2 * CALL_MICROS


@pytest.mark.parametrize("name", ["custom", "counted"])
async def test_a_call_is_written_in_the_transaction_that_keeps_its_result(
    library: Library, engine: AsyncEngine, model_server: FakeModelServer, name: str
) -> None:
    seen: list[tuple[int, int]] = []

    async def look(connection: AsyncConnection, result_id: int) -> None:
        async with engine.connect() as another:
            seen.append((await written(connection), await written(another)))

    await library.infer(name, on_saved=look)
    assert seen == [(1, 0)]
    async with engine.connect() as connection:
        assert await written(connection) == 1
        assert await connection.scalar(select(func.count(ModelCallLease.image_hash))) == 0


@pytest.mark.parametrize("name", ["custom", "counted"])
async def test_what_was_paid_for_is_kept_when_its_task_is_another_process(
    library: Library, engine: AsyncEngine, model_server: FakeModelServer, name: str
) -> None:
    async def refuse(connection: AsyncConnection, result_id: int) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await library.infer(name, on_saved=refuse)
    again = await library.infer(name)
    assert (again.from_cache, again.cost_micros) == (True, CALL_MICROS)
    assert model_server.call_count + CountedModel.calls == 1
    async with engine.connect() as connection:
        assert await written(connection) == 1
        assert await connection.scalar(select(func.count(ModelCallLease.image_hash))) == 0


@pytest.mark.parametrize("name", ["custom", "counted"])
async def test_what_was_paid_for_while_the_database_is_away_is_found_by_the_next_request(
    library: Library, engine: AsyncEngine, model_server: FakeModelServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*arguments: object, **options: object) -> None:
        raise DatabaseUnavailable

    with monkeypatch.context() as patch:
        for away in ("inference.results.write", "spending.service.run"):
            patch.setattr(f"app.services.{away}", fail)
        # A result has a number, which only the database gives.
        with pytest.raises(DatabaseUnavailable):
            await library.infer(name)
    again = await library.infer(name)
    assert (again.from_cache, again.cost_micros) == (True, CALL_MICROS)
    results, total = await library.resources.inference.results.page(library.account_id, skip=0, limit=10)
    assert [result.from_cache for result in results] == [True, False]
    assert total == 2
    assert model_server.call_count + CountedModel.calls == 1
    async with engine.connect() as connection:
        assert await written(connection) == 1
