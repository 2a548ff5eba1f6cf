"""`python -m bench.photo_costs`: what a thousand new photos cost, for each provider and setting, by `prices.toml`.

Nothing is asked: the tokens are counted by the providers' rules, and priced as the service prices a call. What a model
says at a smaller size is not part of it.
"""

import argparse
import math
import sys
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from app.clients.llm.prompt import build_prompt
from app.clients.metering import CallOutcome, ModelCall
from app.language.accept import Language
from app.services.spending.prices import MICROS, Price, TokenPrice
from bench.report import render_table

PRICES = Path(__file__).with_name("prices.toml")
COLUMNS = ("provider", "model", "LLM_IMAGE_MAX_EDGE", "detail", "picture", "input tokens", "USD direct", "USD batch")
EDGES = (512, 768, 1024, 1536)
# A phone's photo.
RATIO = (4, 3)
# Of an answer with a Chinese sentence, rather too many.
OUTPUT_TOKENS = 80
PHOTOS = 1000


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.photo_costs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prices", type=Path, default=PRICES, help="another file of prices")
    models = tomllib.loads(parser.parse_args(arguments).prices.read_text(encoding="utf-8"))["models"]
    print(render_table(COLUMNS, 4, [row for model in models for row in rows_of(model)]))
    for model in models:
        fixed = fixed_tokens(model)
        kept = "is kept" if fixed >= model["cached_from_tokens"] else "is too short to be kept"
        print(
            f"\n{model['model']}: the fixed part of the prompt has about {fixed} tokens, and {kept} by the provider"
            f" (from {model['cached_from_tokens']} on)."
        )
    return 0


def rows_of(model: dict[str, Any]) -> Iterator[list[str]]:
    """Yield a row for each size, and one for `detail: low` where the provider has it."""
    for edge in EDGES:
        yield _row(model, edge, "–", edge)
    if (pixels := model.get("low_detail_pixels")) is not None:
        yield _row(model, 1024, "low", pixels)


def fixed_tokens(model: dict[str, Any]) -> int:
    """Return about how many tokens all photos have in common."""
    return math.ceil(len(build_prompt(Language.CHINESE).instructions) / float(model["characters_per_token"]))


def picture_tokens(model: dict[str, Any], edge: int) -> int:
    """Return how many tokens a photo of `RATIO` has whose long edge is `edge` pixels."""
    long, short = edge, edge * RATIO[1] // RATIO[0]
    pixels = float(model["patch_pixels"])
    patches = math.ceil(long / pixels) * math.ceil(short / pixels)
    return math.ceil(patches * float(model["tokens_per_patch"]))


def _row(model: dict[str, Any], edge: int, detail: str, shown: int) -> list[str]:
    question = build_prompt(Language.CHINESE).question
    fixed, picture = fixed_tokens(model), picture_tokens(model, shown)
    tokens = fixed + picture + math.ceil(len(question) / model["characters_per_token"])
    # All but the first photo find it there.
    cached = fixed if fixed >= model["cached_from_tokens"] else 0
    names = ("input", "cached_input", "output")
    price = Price(0, TokenPrice(*(Decimal(str(model[name])) for name in names)))
    costs = [
        Decimal(PHOTOS * price.cost_micros(_call(tokens, cached, is_batched=is_batched))) / MICROS
        for is_batched in (False, True)
    ]
    cells = [model["provider"], model["model"], str(edge), detail, str(picture), str(tokens)]
    return [*cells, *(f"{cost:.3f}" for cost in costs)]


def _call(tokens: int, cached: int, *, is_batched: bool) -> ModelCall:
    return ModelCall(
        CallOutcome.ANSWERED,
        is_charged=True,
        input_tokens=tokens,
        cached_input_tokens=cached,
        output_tokens=OUTPUT_TOKENS,
        is_batched=is_batched,
    )


if __name__ == "__main__":
    sys.exit(main())
