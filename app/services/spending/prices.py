"""What one call of a model costs, in millionths of CURRENCY.

A price per million tokens of currency is at the same time a price per token in millionths of it.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from app.clients.base import ModelClient
from app.clients.metering import CallOutcome, ModelCall
from app.config.spending import SpendingSettings

MICROS = 1_000_000
# Of the usual price, for calls in a batch: https://developers.openai.com/api/docs/guides/batch and
# https://platform.claude.com/docs/en/build-with-claude/batch-processing.
BATCH_SHARE = Decimal("0.5")
# What a provider takes into its cache costs 1.25 times the price of input:
# https://developers.openai.com/api/docs/guides/prompt-caching (from GPT-5.6 on) and
# https://platform.claude.com/docs/en/build-with-claude/prompt-caching (for five minutes).
CACHE_WRITE_SURCHARGE = Decimal("0.25")
# One whose tokens are not known yet.
BATCHED_CALL = ModelCall(CallOutcome.ANSWERED, is_charged=True, is_batched=True)


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """Prices of a token, in millionths of CURRENCY."""

    input: Decimal
    cached_input: Decimal
    output: Decimal


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a model's calls; `per_call_micros` counts where there is none by tokens, or no tokens are known."""

    per_call_micros: int
    tokens: TokenPrice | None = None

    def cost_micros(self, call: ModelCall) -> int:
        """Return what a call costs, rounded to whole millionths."""
        if not call.is_charged:
            return 0
        share = BATCH_SHARE if call.is_batched else Decimal(1)
        if self.tokens is None or call.input_tokens + call.output_tokens == 0:
            return int((self.per_call_micros * share).to_integral_value(ROUND_HALF_UP))
        cost = share * (
            (call.input_tokens - call.cached_input_tokens) * self.tokens.input
            + call.cached_input_tokens * self.tokens.cached_input
            + call.cache_write_tokens * self.tokens.input * CACHE_WRITE_SURCHARGE
            + call.output_tokens * self.tokens.output
        )
        return int(cost.to_integral_value(ROUND_HALF_UP))


def price_of(client: ModelClient, settings: SpendingSettings, name: str | None = None) -> Price | None:
    """Return what the calls of a client cost, or None where they cost nothing.

    Args:
        client: the model.
        settings: the prices.
        name: what it is called in MODELS; None for the service's own model.
    """
    per_call = _micros(settings.cost_per_call)
    if name is not None and (own := settings.model_prices.get(name)) is not None:
        if len(own) == 1:
            return Price(_micros(own[0]))
        return Price(per_call, TokenPrice(own[0], own[-2] if len(own) > 2 else own[0], own[-1]))
    if not client.is_paid:
        return None
    if name is None and settings.input_price is not None and settings.output_price is not None:
        cached = settings.input_price if settings.cached_input_price is None else settings.cached_input_price
        return Price(per_call, TokenPrice(settings.input_price, cached, settings.output_price))
    return Price(per_call)


def _micros(amount: Decimal) -> int:
    return int((amount * MICROS).to_integral_value(ROUND_HALF_UP))
