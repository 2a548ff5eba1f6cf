"""The operator is told once when 80 and 100 % of a budget are spent, whatever number of processes there are."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.services.spending.test_ledger import service_with, upload
from tests.services.spending.test_limits import photo

pytestmark = pytest.mark.usefixtures("engine")


class Webhook:
    """What an operator's address was sent; `failures` answers are errors first."""

    def __init__(self) -> None:
        self.url = ""
        self.failures = 0
        self.notices: list[dict[str, object]] = []

    async def handle(self, request: HTTPRequest) -> HTTPResponse:
        if self.failures:
            self.failures -= 1
            return HTTPResponse(500, b"", {})
        self.notices.append(json.loads(request.body))
        return HTTPResponse(200, b"", {})

    async def told(self, percents: list[int]) -> None:
        """Wait until just these were told."""
        deadline = time.monotonic() + 60
        while [notice["percent"] for notice in self.notices] != percents:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


@pytest.fixture
async def webhook() -> AsyncIterator[Webhook]:
    webhook = Webhook()
    with running_http_server(webhook.handle) as url:
        webhook.url = f"{url}/hook/secret-token"
        yield webhook


async def test_each_is_told_once(settings: Settings, webhook: Webhook) -> None:
    values = {"daily_budget": Decimal("0.1"), "webhook_url": webhook.url, "currency": "EUR"}
    async with service_with(settings, **values) as one, service_with(settings, **values) as other:
        for number in range(7):
            await upload(one, photo(number))
        assert webhook.notices == []
        await upload(one, photo(7))
        await webhook.told([80])
        for number in range(8, 10):
            await upload(other, photo(number))
        await webhook.told([80, 100])
        assert (await upload(one, photo(11))).status_code == 429
        assert (await upload(other, photo(11))).status_code == 429
    notice = webhook.notices[0]
    assert {name: notice[name] for name in ("event", "scope", "budget", "spent", "currency")} == {
        "event": "budget",
        "scope": "all",
        "budget": "0.1",
        "spent": "0.08",
        "currency": "EUR",
    }
    assert [each["percent"] for each in webhook.notices] == [80, 100]


async def test_a_budget_whose_rest_is_too_small_is_used_up(settings: Settings, webhook: Webhook) -> None:
    async with service_with(settings, daily_budget=Decimal("0.019"), webhook_url=webhook.url) as client:
        await upload(client, photo(0))
        assert (await upload(client, photo(1))).status_code == 429
        await webhook.told([100])


async def test_a_notice_that_is_not_taken_is_sent_again(
    settings: Settings, webhook: Webhook, capfd: pytest.CaptureFixture[str]
) -> None:
    webhook.failures = 1
    async with service_with(settings, daily_budget=Decimal("0.012"), webhook_url=webhook.url) as client:
        await upload(client, photo(0))
        await webhook.told([80])
    # The address may hold a token.
    assert "secret-token" not in "".join(capfd.readouterr())


async def test_without_an_address_nothing_is_looked_up(settings: Settings, engine: AsyncEngine) -> None:
    async with service_with(settings, daily_budget=Decimal("0.01")) as client:
        assert (await upload(client, photo(0))).status_code == 200
        assert (await upload(client, photo(1))).status_code == 429
