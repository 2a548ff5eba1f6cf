"""Each call of a paid model stands in the ledger, with what it cost then, whatever became of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx2
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.tables.classification import CachedImage, ModelCallLease
from app.database.tables.spending import SpendingTotals
from app.database.tables.statistics import PeriodTotals
from app.main import create_app
from tests.fakes.images import jpeg_photo
from tests.fakes.model_replies import answer, classification, failure, filtered, refusal
from tests.fakes.model_server import FakeModelServer
from tests.support.serving import serving
from tests.support.spending import ledger_of, spending_settings


@asynccontextmanager
async def service_with(settings: Settings, **values: Any) -> AsyncIterator[httpx2.AsyncClient]:
    changed = settings.model_copy(update={"spending": spending_settings(**values)})
    async with (
        serving(create_app(changed)) as url,
        httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as client,
    ):
        yield client


async def upload(client: httpx2.AsyncClient, photo: bytes, **headers: str) -> httpx2.Response:
    return await client.post("/classify", files={"image": photo}, headers=headers)


async def sums_of(engine: AsyncEngine) -> list[tuple[int, ...]]:
    row = SpendingTotals
    async with engine.connect() as connection:
        rows = await connection.execute(select(row.calls, row.input_tokens, row.output_tokens, row.cost_micros))
        return [tuple(each) for each in rows]


async def test_a_call_is_written_with_what_it_cost(settings: Settings, engine: AsyncEngine) -> None:
    async with service_with(settings) as client:
        response = await upload(client, jpeg_photo(64, 64), **{"X-User-ID": "device-1"})
        assert response.status_code == 200
        [row] = await ledger_of(engine)
        assert (row.request_id, row.number) == (response.json()["request_id"], 0)
        assert (row.provider, row.model) == ("custom", "test-vision")
        assert (row.outcome, row.cost_micros, row.user_id) == ("answered", 10_000, "device-1")
        assert row.input_tokens > 0 < row.output_tokens
        assert (row.api_key_id, row.account_id) == (None, None)
        assert await sums_of(engine) == [(1, row.input_tokens, row.output_tokens, 10_000)]
        # A hit costs nothing.
        assert (await upload(client, jpeg_photo(64, 64))).json()["from_cache"]
        assert len(await ledger_of(engine)) == 1


async def test_junk_is_paid_and_written(settings: Settings, engine: AsyncEngine, model_server: FakeModelServer) -> None:
    async with service_with(settings) as client:
        for number in range(5):
            model_server.script(answer("what?"), answer("{}"))
            response = await upload(client, jpeg_photo(40 + number, 64))
            assert response.json()["error"]["code"] == "model_answer_invalid"
        rows = await ledger_of(engine)
        assert [row.outcome for row in rows] == ["invalid"] * 10
        assert [row.number for row in rows] == [0, 1] * 5
        assert model_server.call_count == 10
        assert sum(row.cost_micros for row in rows) == 100_000
        async with engine.connect() as connection:
            assert (await connection.execute(select(ModelCallLease.image_hash))).all() == []


async def test_what_was_refused_or_failed_is_told_apart(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    async with service_with(settings) as client:
        model_server.script(refusal())
        assert (await upload(client, jpeg_photo(41, 64))).json()["error"]["code"] == "model_refused"
        model_server.script(filtered())
        assert (await upload(client, jpeg_photo(42, 64))).json()["error"]["code"] == "model_refused"
        model_server.script(failure(429, retry_after="0"), failure(500, retry_after="0"), classification())
        assert (await upload(client, jpeg_photo(43, 64))).status_code == 200
        model_server.script(answer("what?"), classification())
        assert (await upload(client, jpeg_photo(44, 64))).status_code == 200
    rows = await ledger_of(engine)
    assert [(row.outcome, row.cost_micros) for row in rows] == [
        ("refused", 10_000),
        ("refused", 10_000),
        ("failed", 0),
        ("failed", 0),
        ("answered", 10_000),
        ("invalid", 10_000),
        ("answered", 10_000),
    ]
    assert model_server.call_count == 7
    # What a hit saves is what the entry's own calls cost.
    async with engine.connect() as connection:
        costs = (await connection.scalars(select(CachedImage.cost_micros).order_by(CachedImage.id))).all()
    assert costs == [10_000, 20_000]


async def test_a_later_price_does_not_change_the_past(settings: Settings, engine: AsyncEngine) -> None:
    photo = jpeg_photo(64, 64)
    async with service_with(settings) as client:
        await upload(client, photo)
    async with service_with(settings, cost_per_call=Decimal("0.5")) as client:
        await upload(client, photo)
        await upload(client, jpeg_photo(65, 64))
    assert [row.cost_micros for row in await ledger_of(engine)] == [10_000, 500_000]
    async with engine.connect() as connection:
        saved = (await connection.scalars(select(PeriodTotals.saved_micros))).all()
    assert sum(saved) == 10_000


async def test_tokens_are_priced_to_the_last_millionth(settings: Settings, engine: AsyncEngine) -> None:
    prices = {"input_price": Decimal("1.25"), "cached_input_price": Decimal("0.125"), "output_price": Decimal(10)}
    async with service_with(settings, **prices) as client:
        await upload(client, jpeg_photo(64, 64))
    [row] = await ledger_of(engine)
    plain = row.input_tokens - row.cached_input_tokens
    exact = plain * Decimal("1.25") + row.cached_input_tokens * Decimal("0.125") + row.output_tokens * 10
    assert abs(row.cost_micros - exact) <= Decimal("0.5")
