"""What calls cost, to the last millionth."""

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from app.clients.llm.custom import CustomClient
from app.clients.local import LocalClient
from app.clients.metering import CallOutcome, ModelCall
from app.services.spending.prices import Price, TokenPrice, price_of
from tests.support.model_settings import model_settings
from tests.support.spending import spending_settings

TOKENS = TokenPrice(input=Decimal("0.15"), cached_input=Decimal("0.075"), output=Decimal("0.6"))


def call(outcome: CallOutcome = CallOutcome.ANSWERED, *, is_charged: bool = True, **tokens: Any) -> ModelCall:
    return ModelCall(outcome, is_charged=is_charged, **tokens)


def price(provider: str = "custom", name: str | None = None, **values: Any) -> Price | None:
    settings = model_settings(provider=provider, base_url="http://127.0.0.1:1/v1", model="m")
    client = LocalClient(settings) if provider == "local" else CustomClient(settings)
    return price_of(client, spending_settings(**values), name)


def test_a_call_costs_its_fixed_price_whatever_it_answers() -> None:
    fixed = Price(10_000)
    for outcome in CallOutcome:
        assert fixed.cost_micros(call(outcome, input_tokens=5, output_tokens=7)) == 10_000
        assert fixed.cost_micros(call(outcome, is_charged=False)) == 0
        assert fixed.cost_micros(call(outcome, is_batched=True)) == 5_000


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [
        ({"input_tokens": 1000, "output_tokens": 100}, 210),
        ({"input_tokens": 1000, "cached_input_tokens": 400, "output_tokens": 100}, 180),
        ({"input_tokens": 1000, "cached_input_tokens": 1000}, 75),
        # What the provider takes into its cache costs a quarter more.
        ({"input_tokens": 1000, "cache_write_tokens": 800, "output_tokens": 100}, 240),
        ({"input_tokens": 1000, "output_tokens": 100, "is_batched": True}, 105),
        # 0.15 + 0.6 and half a millionth more is rounded up.
        ({"input_tokens": 1, "output_tokens": 1}, 1),
        ({"input_tokens": 3}, 0),
        ({"output_tokens": 5}, 3),
    ],
)
def test_tokens_have_their_price(tokens: dict[str, Any], cost: int) -> None:
    assert Price(10_000, TOKENS).cost_micros(call(**tokens)) == cost


def test_a_server_that_tells_no_tokens_costs_the_fixed_price() -> None:
    assert Price(10_000, TOKENS).cost_micros(call()) == 10_000


def test_the_services_model_has_the_prices_of_llm_price() -> None:
    assert price() == Price(10_000)
    assert price(cost_per_call=Decimal("0.0000004")) == Price(0)
    with_tokens: dict[str, Any] = {"input_price": Decimal(1), "output_price": Decimal(4)}
    assert price(**with_tokens) == Price(10_000, TokenPrice(Decimal(1), Decimal(1), Decimal(4)))
    cached = price(**with_tokens, cached_input_price=Decimal("0.1"))
    assert cached == Price(10_000, TokenPrice(Decimal(1), Decimal("0.1"), Decimal(4)))


def test_further_models_have_prices_of_their_own() -> None:
    prices: dict[str, Any] = {
        "model_prices": "house=0.5,shop=1/4,farm=1/0.1/4",
        "input_price": Decimal(9),
        "output_price": Decimal(9),
    }
    assert price(name="house", **prices) == Price(500_000)
    assert price(name="shop", **prices) == Price(10_000, TokenPrice(Decimal(1), Decimal(1), Decimal(4)))
    assert price(name="farm", **prices) == Price(10_000, TokenPrice(Decimal(1), Decimal("0.1"), Decimal(4)))
    assert price(name="other", **prices) == Price(10_000)


def test_the_local_model_costs_nothing() -> None:
    assert price("local") is None
    assert price("local", name="local", cost_per_call=Decimal(5)) is None


@pytest.mark.parametrize(
    "values",
    [
        {"input_price": "1"},
        {"output_price": "1"},
        {"cached_input_price": "1"},
        {"model_prices": "house"},
        {"model_prices": "house=1,house=2"},
        {"model_prices": "house=1/2/3/4"},
        {"model_prices": "house=-1"},
        {"daily_budget": "much"},
        {"daily_budget": "-1"},
        {"daily_budget": "0.0000001"},
        {"currency": "yuan"},
        {"webhook_url": "ftp://example.org"},
    ],
)
def test_what_is_no_price_or_limit_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        spending_settings(**values)


def test_a_budget_is_a_number_or_unlimited() -> None:
    assert spending_settings(daily_budget="2.5").daily_budget_micros == 2_500_000
    assert spending_settings(daily_budget="0").daily_budget_micros == 0
    assert spending_settings(daily_budget="unlimited").daily_budget_micros is None
    assert spending_settings().daily_budget_micros is None
