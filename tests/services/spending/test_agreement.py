"""The provider's own count of calls and tokens, and what every place that shows money makes of it, to the last unit."""

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path

import httpx2
import pytest

from app.config.settings import Settings
from tests.fakes.images import jpeg_photo
from tests.fakes.model_replies import answer, classification, failure, refusal
from tests.fakes.model_server import FakeModelServer
from tests.fakes.model_wire import USAGE
from tests.services.spending.test_ledger import service_with, upload
from tests.support.command_line import run
from tests.support.growth import Growth

INPUT_PRICE, OUTPUT_PRICE = Decimal("1.2377"), Decimal("9.971")


def micros(money: float) -> int:
    return round(money * 1_000_000)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("database_kind", ["mysql"], indirect=True)
async def test_all_figures_are_the_providers(settings: Settings, model_server: FakeModelServer, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        prices = {"input_price": INPUT_PRICE, "output_price": OUTPUT_PRICE}
        client = await stack.enter_async_context(service_with(settings, **prices))
        address = str(client.base_url).partition("/api/")[0]
        growth = await Growth.begin(await stack.enter_async_context(httpx2.AsyncClient(base_url=address)))
        photos = [jpeg_photo(32 + number, 48) for number in range(30)]
        assert {each.status_code for each in await asyncio.gather(*(upload(client, photo) for photo in photos))} == {
            200
        }
        # Junk and a refusal are paid, what the provider could not answer is not.
        for number, replies in enumerate(
            [(answer("what?"), classification()), (answer("{}"), answer("?")), (refusal(),)]
            + [(failure(500, retry_after="0"), classification())] * 2
        ):
            model_server.script(*replies)
            await upload(client, jpeg_photo(32 + number, 64))
        for photo in photos:
            hit = await client.post("/classify/check-cache", json={"image_hash": hashlib.sha256(photo).hexdigest()})
            assert hit.json()["cached"]

        calls = model_server.call_count - 2
        tokens = calls * USAGE["input"], calls * USAGE["output"]
        a_call = round(USAGE["input"] * INPUT_PRICE + USAGE["output"] * OUTPUT_PRICE)
        [group] = (await client.get("/stats/spending")).json()["data"]["groups"]
        assert (group["input_tokens"], group["output_tokens"]) == tokens
        assert micros(group["cost"]) == calls * a_call
        today = (await client.get("/stats/today")).json()["data"]
        assert (micros(today["estimated_cost"]), micros(today["cost_saved"])) == (calls * a_call, 30 * a_call)
        for metric, units in (("money_spent", calls), ("money_saved", 30)):
            series = (await client.get("/stats/timeseries", params={"metric": metric, "bucket": "day"})).json()
            assert micros(sum(point["value"] for point in series["data"]["points"])) == units * a_call
        for direction, number in zip(("input", "output"), tokens, strict=True):
            assert await growth.of("model_tokens_total", provider="custom", direction=direction) == number
        assert micros(await growth.of("money_spent_total", currency="CNY")) == calls * a_call
        assert micros(await growth.of("money_saved_total", currency="CNY")) == 30 * a_call
        shown = json.loads((await run("stats", "--server", address, "--json", cwd=tmp_path)).output)
        assert shown["spending"]["groups"] == [group]
        assert (shown["today"]["estimated_cost"], shown["today"]["cost_saved"]) == (
            today["estimated_cost"],
            today["cost_saved"],
        )
