"""One chain of models: when one cannot answer for now, the next one is asked, within the same total time.

The chain begins with the service's model; FALLBACK_MODELS says what follows, and what comes before it is in
local_first.py. What is wrong with a picture goes to no other model, and a refusal only where the operator says so.
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
from app.config.model import LOCAL_PROVIDER, ModelSettings
from app.errors import AppError
from app.observability import metrics

# With less time left, another model is not asked: no hosted one is quicker.
LEAST_SECONDS = 1.0


class Role(StrEnum):
    """Why a model was asked."""

    SERVICE = "service"
    FALLBACK = "fallback"
    CHOSEN = "chosen"
    CASCADE = "cascade"
    LOCAL_ONLY = "local_only"


class Given(NamedTuple):
    """A model's answer, the model's name that it is kept under, and why it was asked."""

    result: ModelResult
    model: str
    role: Role


class Candidate(NamedTuple):
    """A model that may be asked.

    `name` is what MODELS calls it, None where it is the service's own. `judge` says what becomes of its answer, None:
    the next model is asked; a model with it has to have looked before another one may.
    """

    client: ModelClient
    name: str | None = None
    role: Role = Role.SERVICE
    judge: Callable[[ModelResult], Given | None] | None = None


async def ask_in_turn(
    chain: Sequence[Candidate],
    photo: PreparedPhoto,
    meter: CallMeter,
    *,
    deadline: float,
    falls_back_on_refusal: bool,
    can_pay: Callable[[Candidate], Awaitable[bool]],
    unpaid: Callable[[], AppError],
) -> Given:
    """Return what the first model of `chain` says that answers.

    Args:
        chain: the models, in their order; one at least.
        photo: what they are shown.
        meter: notes their calls.
        deadline: `time.monotonic()` at which all end.
        falls_back_on_refusal: another model is asked about a picture that one has refused.
        can_pay: makes the calls from then on those of another model, and says whether they can be paid.
        unpaid: what is raised where no call could be paid, and none has failed.

    Raises:
        ModelError: why the first one gave no answer, where none did.
        AppError: that of `unpaid`, or of `can_pay`.
    """
    first_error: AppError | None = None
    for place, candidate in enumerate(chain):
        if first_error is not None and deadline - time.monotonic() < LEAST_SECONDS:
            break
        if place > 0:
            try:
                if not await can_pay(candidate):
                    continue
            except AppError as error:
                first_error = first_error or error
                continue
        try:
            until = deadline - seconds_kept_for(len(chain) - place - 1, candidate.client.settings, deadline)
            result = await candidate.client.classify(photo, meter, deadline=until)
        except ModelError as error:
            first_error = first_error or error
            may_go_on = error.another_may_answer or (falls_back_on_refusal and isinstance(error, ModelRefused))
            if candidate.judge is not None or not may_go_on:
                break
            if place + 1 < len(chain):
                logger.info("{} gives no answer ({}): the next model is asked", candidate.client.model, error.code)
        else:
            given = Given(result, candidate.client.model, candidate.role)
            if candidate.judge is not None:
                judged = candidate.judge(result)
                if judged is None:
                    continue
                given = judged
            metrics.count(metrics.MODEL_ANSWERS.labels(given.model, given.role))
            return given
    raise first_error or unpaid()


def seconds_kept_for(others: int, settings: ModelSettings, deadline: float) -> float:
    """Return how many seconds before the deadline a model ends, so that `others` after it have some time.

    It has a whole attempt in any case, and half of what is beyond that.
    """
    left = deadline - time.monotonic()
    return min(others * settings.timeout_seconds, max(0.0, left - settings.timeout_seconds) / 2)


@asynccontextmanager
async def open_fallbacks(
    settings: ModelSettings, model_client: ModelClient, local: ModelClient | None = None
) -> AsyncIterator[dict[str, ModelClient]]:
    """Give the models of FALLBACK_MODELS by name, started, in their order; closed at the end.

    Args:
        settings: name them.
        model_client: the service's model, which is not its own fallback.
        local: the local model, if it runs already; its maker closes it.

    Raises:
        ModelConfigurationError: one cannot be made.
    """
    clients: dict[str, ModelClient] = {}
    async with AsyncExitStack() as stack:
        for name in settings.fallback_models:
            if name == settings.provider:
                continue
            if name == LOCAL_PROVIDER and local is not None:
                client = local
            else:
                target = settings.further_models.get(name, name)
                client = create_further_client(settings, target, said_in=f"FALLBACK_MODELS: {name}")
                stack.push_async_callback(client.close)
                await client.start()
            clients[name] = client
            metrics.MODEL_ANSWERS.labels(client.model, Role.FALLBACK)
        metrics.MODEL_ANSWERS.labels(model_client.model, Role.SERVICE)
        yield clients
