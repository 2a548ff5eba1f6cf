"""Settings of money: what a call of a model costs, and what may be spent."""

import re
from decimal import Decimal
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from app.config.source import SettingsGroup

UNLIMITED: Literal["unlimited"] = "unlimited"
_MODEL_PRICE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,99})=(?P<prices>\d+(\.\d+)?(/\d+(\.\d+)?){0,2})")


class SpendingSettings(SettingsGroup):
    """Prices and limits; all money is in CURRENCY."""

    currency: str = Field("CNY", validation_alias="CURRENCY", pattern=r"^[A-Z]{3}$")
    """ISO 4217 code of the currency that prices are in; it is shown wherever money is."""
    cost_per_call: Decimal = Field(Decimal("0.01"), validation_alias="COST_PER_API_CALL", ge=0)
    """Cost of one call of a model without a price per token; with one, what is reserved for a call before it."""
    input_price: Decimal | None = Field(None, validation_alias="LLM_PRICE_INPUT_PER_MTOK", ge=0)
    """Price of a million input tokens of LLM_MODEL."""
    cached_input_price: Decimal | None = Field(None, validation_alias="LLM_PRICE_CACHED_INPUT_PER_MTOK", ge=0)
    """Price of a million input tokens that the provider had in its cache; empty: as other input."""
    output_price: Decimal | None = Field(None, validation_alias="LLM_PRICE_OUTPUT_PER_MTOK", ge=0)
    """Price of a million output tokens of LLM_MODEL."""
    model_prices: dict[str, tuple[Decimal, ...]] = Field({}, validation_alias="MODEL_PRICES")
    """Comma-separated name=price of a call, name=input/output or name=input/cached/output per million tokens, of MODELS
    and plugins."""
    daily_budget: Decimal | Literal["unlimited"] | None = Field(None, validation_alias="DAILY_BUDGET")
    """What a day of STATS_TIMEZONE may cost, or unlimited. ENV=production with a model that costs money needs one."""
    webhook_url: SecretStr = Field(SecretStr(""), validation_alias="BUDGET_WEBHOOK_URL")
    """Is sent JSON when 80 and 100 % of a budget are spent, once a day each."""
    photos_per_user: int | None = Field(None, validation_alias="NEW_PHOTOS_PER_USER_PER_DAY", ge=0)
    """New photos of one user id in a day of STATS_TIMEZONE; 0 and empty: no limit."""
    photos_per_address: int | None = Field(None, validation_alias="NEW_PHOTOS_PER_ADDRESS_PER_HOUR", ge=0)
    """New photos from one address (IPv6: /64) in an hour without an API key; 0: no limit. Empty: 100 in production
    with a model that costs money, else no limit."""

    @field_validator("daily_budget", mode="before")
    @classmethod
    def _amount_or_unlimited(cls, value: Any) -> Any:
        if isinstance(value, str) and value != UNLIMITED and not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", value):
            raise ValueError("a number, or the word unlimited")
        return value

    @field_validator("webhook_url")
    @classmethod
    def _http_address(cls, value: SecretStr) -> SecretStr:
        if value and not re.fullmatch(r"https?://[!-~]+", value.get_secret_value()):
            # Without the address: it may hold a token.
            raise ValueError("not an http:// or https:// address")
        return value

    @field_validator("model_prices", mode="before")
    @classmethod
    def _split_prices(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        prices: dict[str, tuple[Decimal, ...]] = {}
        for item in filter(None, (part.strip() for part in value.split(","))):
            found = _MODEL_PRICE.fullmatch(item)
            if found is None or found["name"] in prices:
                raise ValueError("not a comma-separated list of name=call, name=input/output and the like")
            prices[found["name"]] = tuple(map(Decimal, found["prices"].split("/")))
        return prices

    @model_validator(mode="after")
    def _prices_fit_together(self) -> Self:
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("LLM_PRICE_INPUT_PER_MTOK and LLM_PRICE_OUTPUT_PER_MTOK need each other")
        if self.cached_input_price is not None and self.input_price is None:
            raise ValueError("LLM_PRICE_CACHED_INPUT_PER_MTOK needs LLM_PRICE_INPUT_PER_MTOK")
        return self

    @property
    def daily_budget_micros(self) -> int | None:
        """The budget in millionths of CURRENCY, or None where there is no limit."""
        return int(self.daily_budget * 1_000_000) if isinstance(self.daily_budget, Decimal) else None
