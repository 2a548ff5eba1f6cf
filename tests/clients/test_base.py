"""What every client gets from the base class, with a client that does what a test tells it."""

import asyncio
from collections import deque
from typing import Any, ClassVar

import pytest

from app.categories import Category
from app.clients import base, pacing
from app.clients.base import ModelClient, ModelResult, PreparedPhoto
from app.clients.breaker import BreakerState
from app.clients.errors import (
    ModelAnswerInvalid,
    ModelAuthenticationFailed,
    ModelBusy,
    ModelCircuitOpen,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
)
from app.config.model import ModelSettings
from tests.support.model_settings import model_settings

PHOTO = PreparedPhoto(b"jpeg")
RESULT = ModelResult(Category.PETS, 0.9, None, {})


class ScriptedClient(ModelClient):
    provider: ClassVar[str] = "scripted"
    default_model: ClassVar[str] = "scripted-1"

    def __init__(self, settings: ModelSettings, *outcomes: object) -> None:
        super().__init__(settings)
        self.outcomes = deque(outcomes)
        self.calls = 0
        self.probes = 0
        self.probe_error: Exception | None = None
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def _classify(self, photo: PreparedPhoto) -> ModelResult:
        assert photo.jpeg.startswith(PHOTO.jpeg)
        self.calls += 1
        self.entered.set()
        await self.gate.wait()
        outcome = self.outcomes.popleft() if self.outcomes else RESULT
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[return-value] # a plugin may return anything

    async def _probe(self) -> None:
        self.probes += 1
        if self.probe_error is not None:
            raise self.probe_error


def scripted(*outcomes: object, **fields: Any) -> ScriptedClient:
    return ScriptedClient(model_settings("scripted", **fields), *outcomes)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "BACKOFF_FIRST_SECONDS", 0.0)


async def test_result_passes_through() -> None:
    assert await scripted(RESULT).classify(PHOTO) == RESULT


async def test_passing_failures_are_retried_up_to_the_limit() -> None:
    client = scripted(ModelUnreachable(), ModelRateLimited(), RESULT, max_retries=2)
    assert await client.classify(PHOTO) == RESULT
    client = scripted(*[ModelUnreachable() for _ in range(9)], max_retries=2)
    with pytest.raises(ModelUnreachable):
        await client.classify(PHOTO)
    assert client.calls == 3


async def test_lasting_failures_are_not_retried() -> None:
    client = scripted(ModelAuthenticationFailed())
    with pytest.raises(ModelAuthenticationFailed):
        await client.classify(PHOTO)
    assert client.calls == 1


async def test_pause_that_would_miss_the_deadline_is_not_begun() -> None:
    client = scripted(ModelRateLimited(retry_after_seconds=50), timeout_seconds=1, max_retries=2)
    with pytest.raises(ModelRateLimited):
        await client.classify(PHOTO)
    assert client.calls == 1


@pytest.mark.parametrize(
    "outcome",
    [
        None,
        "pets",
        ModelResult("pets", 0.9, None, {}),  # type: ignore[arg-type]
        ModelResult("cats", 0.9, None, {}),  # type: ignore[arg-type]
        ModelResult(Category.PETS, 1.1, None, {}),
        ModelResult(Category.PETS, -0.1, None, {}),
        ModelResult(Category.PETS, float("nan"), None, {}),
        ModelResult(Category.PETS, None, None, {}),  # type: ignore[arg-type]
        ModelResult(Category.PETS, "0.9", None, {}),  # type: ignore[arg-type]
    ],
)
async def test_nonsense_of_a_plugin_is_an_invalid_answer(outcome: object) -> None:
    with pytest.raises(ModelAnswerInvalid):
        await scripted(outcome).classify(PHOTO)


async def test_any_exception_becomes_a_model_error() -> None:
    with pytest.raises(ModelError) as raised:
        await scripted(RuntimeError("secret")).classify(PHOTO)
    assert "secret" not in str(raised.value)


async def test_attempt_is_bounded() -> None:
    client = scripted(timeout_seconds=0.05)
    client.gate.clear()
    with pytest.raises(ModelTimeout):
        await client.classify(PHOTO)


async def test_waiting_for_a_slot_is_bounded() -> None:
    client = scripted(timeout_seconds=0.05, max_concurrency=1)
    await client._slots.acquire(0)
    with pytest.raises(ModelBusy) as raised:
        await client.classify(PHOTO)
    assert raised.value.retry_after_seconds == 0.05
    assert client.calls == 0


class TightSettings(ModelSettings):
    @property
    def total_timeout_seconds(self) -> float:
        return self.timeout_seconds


@pytest.mark.timeout(60)
async def test_waiting_and_attempts_share_one_deadline() -> None:
    """Where one attempt may take all the time there is, none is left to wait for a slot."""
    client = ScriptedClient(TightSettings(_env_file=None, timeout_seconds=100, max_concurrency=1))
    assert await client.classify(PHOTO) == RESULT
    await client._slots.acquire(0)
    with pytest.raises(ModelBusy):
        await client.classify(PHOTO)


async def test_cancelled_call_gives_its_slot_back() -> None:
    client = scripted(max_concurrency=1)
    client.gate.clear()
    running = asyncio.create_task(client.classify(PHOTO))
    await client.entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    client.gate.set()
    assert await client.classify(PHOTO) == RESULT


async def test_breaker_opens_and_lets_one_trial_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "BREAKER_OPEN_SECONDS", 0.0)
    client = scripted(*[ModelTimeout() for _ in range(5)])
    for number in range(5):
        with pytest.raises(ModelTimeout):
            await client.classify(PreparedPhoto(PHOTO.jpeg + bytes([number])))
    client.entered.clear()
    client.gate.clear()
    trial = asyncio.create_task(client.classify(PHOTO))
    await client.entered.wait()
    with pytest.raises(ModelCircuitOpen) as raised:
        await client.classify(PHOTO)
    assert raised.value.retry_after_seconds == 1
    client.gate.set()
    assert await trial == RESULT
    assert client._breaker.state is BreakerState.CLOSED


async def test_a_picture_at_fault_says_nothing_about_health() -> None:
    client = scripted(*[ModelRefused() for _ in range(6)])
    for _ in range(6):
        with pytest.raises(ModelRefused):
            await client.classify(PHOTO)
    health = await client.health()
    assert health.available
    assert health.breaker is BreakerState.CLOSED
    assert health.last_error_code == "model_refused"


async def test_health_of_a_fresh_client() -> None:
    health = await scripted().health()
    assert (health.provider, health.model, health.available) == ("scripted", "scripted-1", True)
    assert (health.last_success_at, health.last_error_code, health.last_error_at) == (None, None, None)


async def test_health_remembers_the_last_success() -> None:
    client = scripted()
    await client.classify(PHOTO)
    health = await client.health()
    assert health.last_success_at is not None
    assert health.last_success_at.tzinfo is not None


async def test_probe_is_kept_for_a_while() -> None:
    client = scripted()
    client.probe_error = ModelAuthenticationFailed()
    reports = await asyncio.gather(*(client.health() for _ in range(5)))
    assert client.probes == 1
    assert {report.available for report in reports} == {False}
    assert {report.last_error_at for report in reports} == {reports[0].last_error_at}


async def test_probe_may_fail_in_any_way(monkeypatch: pytest.MonkeyPatch) -> None:
    client = scripted()
    client.probe_error = RuntimeError("secret")
    assert (await client.health()).last_error_code == "model_error"
    monkeypatch.setattr(base, "PROBE_TTL_SECONDS", -1.0)
    client.probe_error = TimeoutError()
    assert (await client.health()).last_error_code == "model_timeout"
    client.probe_error = None
    assert (await client.health()).available


def test_photo_is_not_shown() -> None:
    assert "secret" not in repr(PreparedPhoto(b"secret"))
