"""The local model looks at a photo before it would be sent to any other one, and what it says may be final.

With LLM_PROVIDER=cascade it is final where the local model is sure, which saves the call. With LOCAL_ONLY_CATEGORIES it
is final where the photo may be of a category of which none is to leave the server. What it has not looked at is not
sent. Such answers are kept under names of their own, so that they count for good and can be told from provisional ones.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from loguru import logger

from app.categories import Category
from app.clients.base import (
    CASCADE_MODEL_PREFIX,
    LOCAL_MODEL_PREFIX,
    LOCAL_ONLY_MODEL_PREFIX,
    ModelClient,
    ModelResult,
)
from app.clients.errors import ModelConfigurationError
from app.clients.registry import create_further_client
from app.clients.thresholds import Measured, Thresholds, thresholds_of
from app.config.model import LOCAL_PROVIDER, ModelSettings
from app.observability import metrics
from app.services.classification.fallbacks import Candidate, Given, Role


class LocalFirst:
    """Puts the local model before others.

    Args:
        client: the local model, started.
        thresholds: from where on its answers count.
        is_cascade: they count where it is sure, too.
        kept: categories of which no photo may leave the server.
    """

    def __init__(
        self, client: ModelClient, thresholds: Thresholds, *, is_cascade: bool, kept: frozenset[Category]
    ) -> None:
        self.client = client
        self.thresholds = thresholds
        self._is_cascade = is_cascade
        self._kept = kept
        name = client.model.removeprefix(LOCAL_MODEL_PREFIX)
        self._cascade_model = f"{CASCADE_MODEL_PREFIX}{name}"
        self._local_only_model = f"{LOCAL_ONLY_MODEL_PREFIX}{name}"

    @property
    def models(self) -> list[str]:
        """The names that its final answers are kept under."""
        roles = [(self._is_cascade, self._cascade_model), (bool(self._kept), self._local_only_model)]
        return [model for is_used, model in roles if is_used]

    @property
    def sure_answers(self) -> Measured | None:
        """What was measured of the answers that count because it is sure; None where there is no cascade."""
        return self.thresholds.right if self._is_cascade else None

    def before(self, chain: Sequence[Candidate], *, is_chosen: bool = False) -> Sequence[Candidate]:
        """Return `chain` behind the local model, if a photo might leave the server or be paid for by it.

        Args:
            chain: the models to ask.
            is_chosen: a user has named the model: only what must not leave is kept from it.
        """
        may_be_final = bool(self._kept) or (self._is_cascade and not is_chosen)
        if not may_be_final or all(each.client.provider == LOCAL_PROVIDER for each in chain):
            return chain
        judge = partial(self.judge, is_chosen=is_chosen)
        first, *others = chain
        if first.client is self.client:
            # It does not have to look twice, but nothing is sent that it could not look at.
            return [
                first._replace(judge=lambda result: judge(result) or Given(result, first.client.model, first.role)),
                *others,
            ]
        return [Candidate(self.client, judge=judge), *chain]

    def judge(self, result: ModelResult, *, is_chosen: bool = False) -> Given | None:
        """Return what the local model's answer is kept as, or None where another model is to be asked.

        Args:
            result: what the local model says.
            is_chosen: as with `before`.
        """
        probabilities = {Category(key): float(value) for key, value in result.response["probabilities"].items()}
        if self._kept and self.thresholds.stays(probabilities, self._kept):
            return self._given(result, self._local_only_model, Role.LOCAL_ONLY)
        is_cascade = self._is_cascade and not is_chosen
        if is_cascade and self.thresholds.is_sure(result.category, probabilities[result.category]):
            return self._given(result, self._cascade_model, Role.CASCADE)
        return None

    def show(self) -> None:
        """Show the metrics' series from the start."""
        for model, role in ((self._cascade_model, Role.CASCADE), (self._local_only_model, Role.LOCAL_ONLY)):
            if model in self.models:
                metrics.MODEL_ANSWERS.labels(model, role)

    def _given(self, result: ModelResult, model: str, role: Role) -> Given:
        return Given(replace(result, response=result.response | {"model": model}), model, role)


@asynccontextmanager
async def open_local_first(settings: ModelSettings, model_client: ModelClient) -> AsyncIterator[LocalFirst | None]:
    """Give what puts the local model before others, if the settings ask for it; closed at the end.

    Args:
        settings: say so.
        model_client: the service's model; it is the local one itself where LLM_PROVIDER says so.

    Raises:
        ModelConfigurationError: there are no thresholds for the local model, or they are for a lower precision.
    """
    kept = settings.local_only_categories
    if not settings.is_cascade and not kept:
        yield None
        return
    said_in = "LLM_PROVIDER=cascade" if settings.is_cascade else "LOCAL_ONLY_CATEGORIES"
    is_own = model_client.provider == LOCAL_PROVIDER
    client = model_client if is_own else create_further_client(settings, LOCAL_PROVIDER, said_in=said_in)
    try:
        thresholds = _thresholds(settings, client, said_in)
        if not is_own:
            await client.start()
        local_first = LocalFirst(client, thresholds, is_cascade=settings.is_cascade, kept=kept)
        local_first.show()
        _tell(settings, thresholds)
        yield local_first
    finally:
        if not is_own:
            await client.close()


def _thresholds(settings: ModelSettings, client: ModelClient, said_in: str) -> Thresholds:
    thresholds = thresholds_of(client.model, settings.cascade_file)
    measure = "`image-classifier evaluate FOLDER --cascade` measures and keeps them."
    if thresholds is None:
        raise ModelConfigurationError(f"{said_in}: there are no thresholds for {client.model}. {measure}")
    if settings.is_cascade and thresholds.target_precision < settings.cascade_target_precision:
        raise ModelConfigurationError(
            f"CASCADE_TARGET_PRECISION={settings.cascade_target_precision}: the thresholds of {client.model} were"
            f" chosen for {thresholds.target_precision}. {measure}"
        )
    return thresholds


def _tell(settings: ModelSettings, thresholds: Thresholds) -> None:
    if settings.is_cascade:
        right = thresholds.right
        logger.info(
            "the local model answers where it is sure: {:.0%} of {} measured photos, of which {:.1%} right ({:.1%} to"
            " {:.1%})",
            *(thresholds.answered.share, thresholds.photos, right.share, right.low, right.high),
        )
    for category in sorted(settings.local_only_categories):
        missed = thresholds.categories[category].missed
        logger.info(
            "{} stays on the server; {} of {} measured ones were not recognised", category, missed.part, missed.whole
        )
