"""The contract of a model client: a prepared photo in, a valid classification or a `ModelError` out, nothing else.

The public methods hold what every provider needs (a bounded number of calls at once, retries, the breaker, the
record of outcomes); a provider fills in the private hooks `_classify`, `_start`, `_probe` and `_close`.
"""

import asyncio
import json
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import NoneType
from typing import Any, ClassVar

from loguru import logger

from app.categories import Category
from app.clients.breaker import BreakerState, CircuitBreaker, show_breaker, worst_breaker
from app.clients.errors import (
    ModelAnswerInvalid,
    ModelCircuitOpen,
    ModelError,
    ModelPreparing,
    ModelRateLimited,
    ModelRefused,
    ModelRejectedRequest,
    ModelTimeout,
    ModelWeightsMissing,
)
from app.clients.health import ModelHealth
from app.clients.metering import CallMeter, CallOutcome, ModelCall, calls_noted, may_call_again, metered, note_call
from app.clients.pacing import Pace, pause_after
from app.clients.slots import slot, slots_of_instance
from app.clock import utc_now
from app.config.model import ModelSettings
from app.language.accept import Language
from app.observability import metrics
from app.observability.tracing import span
from app.runtime.shared_semaphore import SharedSemaphore

# Five pictures that fail, and half of the last ones, are an outage, not bad luck; half a minute is what most outages
# of hosted APIs last. A provider that says how long (Retry-After) is believed.
BREAKER_FAILURE_THRESHOLD = 5
BREAKER_OPEN_SECONDS = 30.0
BREAKER_MIN_OPEN_SECONDS = 1.0
PROBE_TTL_SECONDS = 30.0
PROBE_TIMEOUT_SECONDS = 3.0

# Results of the local model are marked by this beginning of their model name, also in the database, and count only
# while it is the configured one: a demo must never answer for a production model. No other client may use it.
LOCAL_MODEL_PREFIX = "local/"
# Entries that an operator wants to have asked again (`image-classifier reclassify`) are marked in the same way; they
# count for no model. As long as the other one, so that a look-up compares one beginning with both.
MARKED_MODEL_PREFIX = "again/"
# What the local model has answered for good, whichever model is configured: because it was sure, or because the photo
# was not to leave the server (app/services/classification/local_first.py).
CASCADE_MODEL_PREFIX = "cascade/"
LOCAL_ONLY_MODEL_PREFIX = "local-only/"
# No other client may have a name that begins with one of these.
RESERVED_PREFIXES = {
    LOCAL_MODEL_PREFIX: "results of LLM_PROVIDER=local",
    MARKED_MODEL_PREFIX: "results that are to be asked again",
    CASCADE_MODEL_PREFIX: "the local model's part of LLM_PROVIDER=cascade",
    LOCAL_ONLY_MODEL_PREFIX: "results of LOCAL_ONLY_CATEGORIES",
}

# These say something about one picture, or about our rate, not about the model's health; or the model has not been
# asked at all. An invalid answer counts: a model that answers garbage to every picture would be paid without an end.
_NOT_AN_OUTAGE = (ModelRefused, ModelRejectedRequest, ModelRateLimited, ModelPreparing, ModelWeightsMissing)


@dataclass(frozen=True, slots=True)
class PreparedPhoto:
    """What a model looks at: a JPEG turned upright, without metadata, within the configured size.

    `language` is that in which it is to be described.
    """

    jpeg: bytes = field(repr=False)
    language: Language = Language.CHINESE


@dataclass(frozen=True, slots=True)
class ModelResult:
    """A model's classification.

    `confidence` is 0..1. `response` is what the model said and what it cost in tokens, as JSON for the operator.
    `language` is that of the description; None where the model does not take a language (`ModelClient.takes_language`).
    `translation` is the description in the other language, from a model that has it at no cost.
    """

    category: Category
    confidence: float
    description: str | None
    response: dict[str, Any]
    language: Language | None = None
    translation: str | None = None


class ModelClient(ABC):
    """Base of all model clients; see the module's docstring for its parts.

    Class data say what a provider is: `provider` is its name, `default_model` what it uses when LLM_MODEL is empty,
    `is_paid` whether a call costs money, `takes_language` whether it describes a photo in `PreparedPhoto.language`.
    """

    provider: ClassVar[str]
    default_model: ClassVar[str]
    is_paid: ClassVar[bool] = True
    takes_language: ClassVar[bool] = False

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.model = settings.model or self.default_model
        # Until it is started: its model may be named by what inherits from this class.
        self._slots = SharedSemaphore(settings.max_concurrency)
        self._breaker = CircuitBreaker(failure_threshold=BREAKER_FAILURE_THRESHOLD, open_seconds=BREAKER_OPEN_SECONDS)
        self._pace = Pace()
        self._last_success_at: datetime | None = None
        self._last_error: tuple[str, datetime] | None = None
        self._probe_outcome: tuple[float, ModelError | None] | None = None
        self._probe_lock = asyncio.Lock()

    async def start(self) -> None:
        """Make ready for the first call (load weights, open connections)."""
        self._slots = slots_of_instance(self.provider, self.model, self.settings.max_concurrency)
        metrics.show_model(self.provider, self.model)
        self._show_breaker()
        await self._start()

    async def close(self) -> None:
        """Release what `start` and the calls have opened."""
        await self._close()

    async def classify(
        self, photo: PreparedPhoto, meter: CallMeter | None = None, *, deadline: float | None = None
    ) -> ModelResult:
        """Classify one photo, retrying what may pass.

        Args:
            photo: what the model is shown.
            meter: holds each call that was made afterwards, also after an error.
            deadline: `time.monotonic()` at which it ends; None: after the total time of the settings.

        Raises:
            ModelError: the subclass says why; nothing else is raised, whatever the provider does.
        """
        try:
            with span("model.call", provider=self.provider, model=self.model), metered(meter or CallMeter()):
                result = await self._classify_in_turn(photo, deadline)
        except ModelError as error:
            self._count_call(error.code)
            raise
        self._count_call("ok")
        return replace(result, language=photo.language if self.takes_language else None)

    async def _classify_in_turn(self, photo: PreparedPhoto, ends_at: float | None) -> ModelResult:
        now = time.monotonic()
        deadline = now + self.settings.total_timeout_seconds
        if ends_at is not None:
            deadline = min(deadline, ends_at)
        # A model that is asked in the place of another one may have less time than it would need.
        timeout_seconds = max(0.0, min(self.settings.timeout_seconds, deadline - now))
        # A photo that gets a slot still has time for one attempt.
        wait_seconds = min(timeout_seconds, deadline - time.monotonic() - timeout_seconds)
        async with slot(self._slots, wait_seconds, retry_after_seconds=self.settings.timeout_seconds):
            if not self._breaker.try_acquire():
                raise ModelCircuitOpen(retry_after_seconds=max(1.0, self._breaker.seconds_until_trial()))
            started_at = time.perf_counter()
            picture = hash(photo.jpeg)
            try:
                result = await self._classify_with_retries(photo, deadline, timeout_seconds)
            except _NOT_AN_OUTAGE as error:
                self._breaker.record_nothing()
                self._note_error(error)
                raise
            except ModelError as error:
                pause = error.retry_after_seconds
                if isinstance(error, ModelTimeout) and timeout_seconds < self.settings.timeout_seconds:
                    # It had less time than it may take.
                    self._breaker.record_nothing()
                else:
                    self._breaker.record_failure(
                        picture, open_seconds=None if pause is None else max(pause, BREAKER_MIN_OPEN_SECONDS)
                    )
                self._note_error(error)
                raise
            except BaseException:
                self._breaker.record_nothing()
                raise
            else:
                self._breaker.record_success(picture)
                self._last_success_at = utc_now()
                return result
            finally:
                metrics.observe(metrics.MODEL_CALL_SECONDS.labels(self.provider), time.perf_counter() - started_at)
                self._show_breaker()

    async def health(self) -> ModelHealth:
        """Say how the model is, without a paid call: the breaker, the last outcomes, and a free probe (cached)."""
        probe_error = await self._probe_cached()
        code, at = self._last_error or (None, None)
        breaker, open_breakers = await asyncio.to_thread(worst_breaker, self._breaker.state, self.provider, self.model)
        return ModelHealth(
            provider=self.provider,
            model=self.model,
            available=probe_error is None and breaker is not BreakerState.OPEN,
            breaker=breaker,
            open_breakers=open_breakers,
            last_success_at=self._last_success_at,
            last_error_code=code,
            last_error_at=at,
        )

    @abstractmethod
    async def _classify(self, photo: PreparedPhoto) -> ModelResult:
        """Ask the model once. Raises ModelError; `retryable` on its class decides whether `classify` tries again."""

    async def _start(self) -> None:  # noqa: B027 - an optional hook
        """Make ready; nothing by default."""

    async def _probe(self) -> None:  # noqa: B027 - an optional hook
        """Check at no cost that the model can be reached and used; raises ModelError when it cannot."""

    async def _close(self) -> None:  # noqa: B027 - an optional hook
        """Release resources; nothing by default."""

    async def _classify_with_retries(
        self, photo: PreparedPhoto, deadline: float, timeout_seconds: float
    ) -> ModelResult:
        attempt = 0
        while True:
            attempt += 1
            latest_start = min(deadline - timeout_seconds, time.monotonic() + timeout_seconds)
            async with self._pace.turn(latest_start):
                error = await self._attempt(photo, timeout_seconds)
                if isinstance(error, ModelResult):
                    self._pace.speed_up()
                    return error
                pause = pause_after(error, attempt)
                if isinstance(error, ModelRateLimited):
                    self._pace.slow_down(pause)
            out_of_time = time.monotonic() + pause + timeout_seconds > deadline
            if not error.retryable or attempt > self.settings.max_retries or out_of_time:
                raise error
            if not await may_call_again():
                raise error
            logger.warning("model attempt {} failed ({}), next in {:.1f} s", attempt, error.code, pause)
            metrics.count(metrics.MODEL_RETRIES.labels(self.provider))
            await asyncio.sleep(pause)

    async def _attempt(self, photo: PreparedPhoto, timeout_seconds: float) -> ModelResult | ModelError:
        """Ask once within the time of an attempt; a client that has noted no call of its own has made one."""
        before = calls_noted()
        outcome = await self._attempt_unnoted(photo, timeout_seconds)
        if calls_noted() == before:
            note_call(_call_of(outcome))
        return outcome

    async def _attempt_unnoted(self, photo: PreparedPhoto, timeout_seconds: float) -> ModelResult | ModelError:
        try:
            with span("model.attempt"):
                async with asyncio.timeout(timeout_seconds):
                    result = await self._classify(photo)
        except TimeoutError:
            return ModelTimeout()
        except ModelError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            # The text may hold a key, so only the type is logged.
            logger.error("model client {} raised {}", self.provider, type(error).__name__)
            return ModelError()
        return result if _is_valid(result) else ModelAnswerInvalid()

    async def _probe_cached(self) -> ModelError | None:
        async with self._probe_lock:
            now = time.monotonic()
            if self._probe_outcome is None or now - self._probe_outcome[0] > PROBE_TTL_SECONDS:
                error = await self._probe_error()
                if error is not None:
                    self._note_error(error)
                self._probe_outcome = (now, error)
            return self._probe_outcome[1]

    async def _probe_error(self) -> ModelError | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                await self._probe()
        except TimeoutError:
            return ModelTimeout()
        except ModelError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            logger.error("probe of model client {} raised {}", self.provider, type(error).__name__)
            return ModelError()
        return None

    def _count_call(self, outcome: str) -> None:
        metrics.count(metrics.MODEL_CALLS.labels(self.provider, self.model, outcome))

    def _show_breaker(self) -> None:
        show_breaker(self._breaker, self.provider, self.model)

    def _note_error(self, error: ModelError) -> None:
        self._last_error = (error.code, utc_now())
        advice = f". {error.advice}" if error.advice else ""
        logger.warning("model {} ({}): {}{}", self.provider, self.model, error.code, advice)


def _call_of(outcome: ModelResult | ModelError) -> ModelCall:
    """Return the one call of a client that notes none: what was answered, or not answered in time, is charged."""
    match outcome:
        case ModelResult():
            return ModelCall(CallOutcome.ANSWERED, is_charged=True)
        case ModelAnswerInvalid():
            return ModelCall(CallOutcome.INVALID, is_charged=True)
        case ModelRefused():
            return ModelCall(CallOutcome.REFUSED, is_charged=True)
        case _:
            return ModelCall(CallOutcome.FAILED, is_charged=isinstance(outcome, ModelTimeout))


def _is_valid(result: object) -> bool:
    """Check what a plugin returned; its types cannot be relied on."""
    return (
        isinstance(result, ModelResult)
        and isinstance(result.category, Category)
        and isinstance(result.confidence, (int, float))
        and 0.0 <= result.confidence <= 1.0
        and isinstance(result.description, (str, NoneType))
        and isinstance(result.translation, (str, NoneType))
        and _is_json([result.description, result.translation, result.response])
    )


def _is_json(value: object) -> bool:
    try:
        # As UTF-8: a lone surrogate is a str that no database takes.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True
