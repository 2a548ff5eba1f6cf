"""One chain of models: when one cannot answer for now, the next one is asked, within the same total time.

The chain begins with the service's model; FALLBACK_MODELS says what follows. What is wrong with a picture goes to no
other model, and a refusal only where the operator says so.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from typing import NamedTuple

from loguru import logger

from app.clients.base import ModelClient, ModelResult, PreparedPhoto
from app.clients.errors import ModelError, ModelRefused
from app.clients.metering import CallMeter
from app.clients.registry import create_further_client
from app.config.model import ModelSettings
from app.observability import metrics

# With less time left, another model is not asked: no hosted one is quicker.
LEAST_SECONDS = 1.0


class Role(StrEnum):
    """Why a model was asked."""

    SERVICE = "service"
    FALLBACK = "fallback"
    CHOSEN = "chosen"


class Candidate(NamedTuple):
    """A model that may be asked; `name` is what MODELS calls it, None where it is the service's own."""

    client: ModelClient
    name: str | None = None
    role: Role = Role.SERVICE


async def ask_in_turn(
    chain: Sequence[Candidate],
    photo: PreparedPhoto,
    meter: CallMeter,
    *,
    deadline: float,
    falls_back_on_refusal: bool,
    can_pay: Callable[[Candidate], Awaitable[bool]],
) -> tuple[ModelResult, ModelClient]:
    """Return what the first model of `chain` says that answers, and which it is.

    Args:
        chain: the models, in their order; one at least.
        photo: what they are shown.
        meter: notes their calls.
        deadline: `time.monotonic()` at which all end.
        falls_back_on_refusal: another model is asked about a picture that one has refused.
        can_pay: makes the calls from then on those of another model, and says whether they can be paid.

    Raises:
        ModelError: why the first one gave no answer, where none did.
    """
    first_error: ModelError | None = None
    for place, candidate in enumerate(chain):
        if first_error is not None:
            if deadline - time.monotonic() < LEAST_SECONDS:
                break
            if not await can_pay(candidate):
                continue
        try:
            until = deadline - seconds_kept_for(len(chain) - place - 1, candidate.client.settings, deadline)
            result = await candidate.client.classify(photo, meter, deadline=until)
        except ModelError as error:
            first_error = first_error or error
            if not (error.another_may_answer or (falls_back_on_refusal and isinstance(error, ModelRefused))):
                break
            if place + 1 < len(chain):
                logger.info("{} gives no answer ({}): the next model is asked", candidate.client.model, error.code)
        else:
            metrics.count(metrics.MODEL_ANSWERS.labels(candidate.client.model, candidate.role))
            return result, candidate.client
    raise first_error or ModelError


def seconds_kept_for(others: int, settings: ModelSettings, deadline: float) -> float:
    """Return how many seconds before the deadline a model ends, so that `others` after it have some time.

    It has a whole attempt in any case, and half of what is beyond that.
    """
    left = deadline - time.monotonic()
    return min(others * settings.timeout_seconds, max(0.0, left - settings.timeout_seconds) / 2)


@asynccontextmanager
async def open_fallbacks(settings: ModelSettings, model_client: ModelClient) -> AsyncIterator[dict[str, ModelClient]]:
    """Give the models of FALLBACK_MODELS by name, started, in their order; closed at the end.

    Args:
        settings: name them.
        model_client: the service's model, which is not its own fallback.

    Raises:
        ModelConfigurationError: one cannot be made.
    """
    clients: dict[str, ModelClient] = {}
    async with AsyncExitStack() as stack:
        for name in settings.fallback_models:
            if name == settings.provider:
                continue
            clients[name] = client = create_further_client(
                settings, settings.further_models.get(name, name), said_in=f"FALLBACK_MODELS: {name}"
            )
            stack.push_async_callback(client.close)
            await client.start()
            metrics.MODEL_ANSWERS.labels(client.model, Role.FALLBACK)
        metrics.MODEL_ANSWERS.labels(model_client.model, Role.SERVICE)
        yield clients
