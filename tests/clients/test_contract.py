"""One suite for every language model client: whatever a server does, a valid classification or a named error."""

import asyncio
import json

import pytest

from app.categories import Category
from app.clients.base import PreparedPhoto
from app.clients.errors import (
    ModelAnswerInvalid,
    ModelAuthenticationFailed,
    ModelCircuitOpen,
    ModelError,
    ModelNotFound,
    ModelRateLimited,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
)
from tests.fakes.model_replies import (
    CONFIDENCE,
    DESCRIPTION,
    Reply,
    answer,
    classification,
    cut_off,
    failure,
    refusal,
)
from tests.fakes.model_server import FakeModelServer
from tests.support.model_scenarios import INVALID, JSON, LASTING, PASSING, PROVIDERS, VALID
from tests.support.model_settings import MakeClient

pytestmark = pytest.mark.parametrize("provider", PROVIDERS)


async def test_valid_answer(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    client = await make_client(provider)
    result = await client.classify(photo)
    assert (result.category, result.confidence, result.description) == (Category.PETS, CONFIDENCE, DESCRIPTION)
    assert result.response["answer"] == JSON
    assert result.response["usage"] == {"input_tokens": 1300, "output_tokens": 40, "total_tokens": 1340}
    assert result.response["model"].startswith(client.model)
    assert result.response["attempts"] == 1
    assert json.dumps(result.response)
    assert server.call_count == 1
    assert server.calls[0].jpeg == photo.jpeg


@pytest.mark.parametrize("name", VALID)
async def test_answer_is_found_in_what_surrounds_it(
    provider: str, name: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(answer(VALID[name]))
    result = await (await make_client(provider)).classify(photo)
    assert (result.category, result.description) == (Category.PETS, DESCRIPTION)
    assert server.call_count == 1


async def test_blank_space_up_to_the_token_limit_is_no_cut(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(cut_off(JSON + "\n" * 400))
    assert (await (await make_client(provider)).classify(photo)).category is Category.PETS
    assert server.call_count == 1


@pytest.mark.parametrize("name", PASSING)
async def test_passing_failure_is_retried(
    provider: str, name: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(PASSING[name][0])
    result = await (await make_client(provider)).classify(photo)
    assert result.category is Category.PETS
    assert server.call_count == 2


@pytest.mark.parametrize("name", PASSING)
async def test_failure_that_does_not_pass_is_named(
    provider: str, name: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    reply, expected = PASSING[name]
    server.default = reply
    client = await make_client(provider, max_retries=1)
    with pytest.raises(ModelError) as raised:
        await client.classify(photo)
    assert type(raised.value) is expected
    assert server.call_count == 2


@pytest.mark.parametrize("name", LASTING)
async def test_lasting_failure_is_not_retried(
    provider: str, name: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    reply, expected = LASTING[name]
    server.default = reply
    client = await make_client(provider)
    with pytest.raises(ModelError) as raised:
        await client.classify(photo)
    assert type(raised.value) is expected
    assert server.call_count == 1
    assert (await client.health()).last_error_code == expected.code


@pytest.mark.parametrize("name", INVALID)
async def test_invalid_answer_is_corrected_once(
    provider: str, name: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(INVALID[name])
    result = await (await make_client(provider)).classify(photo)
    assert result.category is Category.PETS
    assert result.response["attempts"] == 2
    assert result.response["usage"]["total_tokens"] == 2 * 1340
    assert server.call_count == 2
    assert "not a valid answer" not in str(server.calls[0].body)
    assert "not a valid answer" in str(server.calls[1].body)
    assert server.calls[1].jpeg == photo.jpeg


@pytest.mark.parametrize("name", INVALID)
async def test_second_invalid_answer_is_an_error(
    provider: str, name: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.default = INVALID[name]
    client = await make_client(provider)
    with pytest.raises(ModelAnswerInvalid):
        await client.classify(photo)
    assert server.call_count == 2


async def test_slow_model_times_out(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(classification().delayed(30))
    client = await make_client(provider, timeout_seconds=0.3)
    with pytest.raises(ModelTimeout):
        await client.classify(photo)
    assert server.call_count == 1


async def test_nobody_listens(provider: str, make_client: MakeClient, photo: PreparedPhoto) -> None:
    client = await make_client(provider, base_url="http://127.0.0.1:9/v1", max_retries=1)
    with pytest.raises(ModelUnreachable):
        await client.classify(photo)


@pytest.mark.parametrize("value", ["-1", "1e9", "nan", "inf", "soon", "", "9" * 400, "Wed, 99 Nov 2026 99:99:99 GMT"])
async def test_hostile_retry_after(
    provider: str, value: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.default = failure(429, retry_after=value)
    client = await make_client(provider, max_retries=0)
    with pytest.raises(ModelRateLimited) as raised:
        await client.classify(photo)
    assert raised.value.retry_after_seconds is None


async def test_retry_after_beyond_the_deadline_is_not_waited_for(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.default = failure(429, retry_after="86400")
    client = await make_client(provider)
    with pytest.raises(ModelRateLimited) as raised:
        await client.classify(photo)
    assert raised.value.retry_after_seconds == 60
    assert server.call_count == 1


async def test_calls_at_once_are_bounded(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.delay_seconds = 0.02
    client = await make_client(provider, max_concurrency=3)
    await asyncio.gather(*(client.classify(photo) for _ in range(12)))
    assert server.call_count == 12
    assert server.most_concurrent == 3


def other(photo: PreparedPhoto, number: int) -> PreparedPhoto:
    """Return the same picture in other bytes."""
    return PreparedPhoto(photo.jpeg + bytes([number]))


@pytest.mark.parametrize(
    ("reply", "expected", "calls"),
    [
        (failure(500), ModelUnreachable, 1),
        (failure(401), ModelAuthenticationFailed, 1),
        (answer("?"), ModelAnswerInvalid, 2),
    ],
)
async def test_breaker_leaves_a_model_alone_that_fails_with_different_pictures(
    provider: str,
    reply: Reply,
    expected: type[ModelError],
    calls: int,
    server: FakeModelServer,
    make_client: MakeClient,
    photo: PreparedPhoto,
) -> None:
    server.default = reply
    client = await make_client(provider, max_retries=0)
    for number in range(5):
        with pytest.raises(expected):
            await client.classify(other(photo, number))
    with pytest.raises(ModelCircuitOpen):
        await client.classify(photo)
    assert server.call_count == 5 * calls
    assert not (await client.health()).available


@pytest.mark.parametrize("status", [500, 503])
async def test_one_picture_that_a_server_cannot_take_stops_no_other(
    provider: str, status: int, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    client = await make_client(provider, max_retries=0)
    server.script(*[failure(status)] * 20)
    for _ in range(20):
        with pytest.raises(ModelUnreachable):
            await client.classify(photo)
    assert (await client.classify(other(photo, 1))).category is Category.PETS


async def test_retry_after_decides_how_long_the_breaker_is_open(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.default = failure(503, retry_after="7")
    client = await make_client(provider, max_retries=0)
    for number in range(5):
        with pytest.raises(ModelUnreachable):
            await client.classify(other(photo, number))
    with pytest.raises(ModelCircuitOpen) as raised:
        await client.classify(photo)
    assert 5 < (raised.value.retry_after_seconds or 0) <= 7


async def test_a_rate_limit_slows_and_does_not_shut(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.default = failure(429, retry_after="0")
    client = await make_client(provider, max_retries=0)
    for number in range(12):
        with pytest.raises(ModelRateLimited):
            await client.classify(other(photo, number))
    assert server.call_count == 12
    server.default = classification().delayed(0.02)
    await asyncio.gather(*(client.classify(other(photo, number)) for number in range(6)))
    assert (await client.health()).available


async def test_nobody_asks_before_the_provider_wants_it(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(failure(429, retry_after="50"))
    client = await make_client(provider, max_retries=0)
    for number in range(3):
        with pytest.raises(ModelRateLimited) as raised:
            await client.classify(other(photo, number))
    assert server.call_count == 1
    assert 40 < (raised.value.retry_after_seconds or 0) <= 50


@pytest.mark.parametrize("reply", [refusal(), failure(403, message="Your input was flagged.")])
async def test_refusals_say_nothing_about_health(
    provider: str, reply: Reply, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    """As `../shared/cases/provider_picture_refused_403`."""
    server.default = reply
    client = await make_client(provider)
    for number in range(6):
        with pytest.raises(ModelRefused):
            await client.classify(other(photo, number))
    assert server.call_count == 6
    assert (await client.health()).available
    server.default = classification()
    await client.classify(photo)


async def test_probe_is_free(provider: str, server: FakeModelServer, make_client: MakeClient) -> None:
    health = await (await make_client(provider)).health()
    assert health.available
    assert len(server.probes) == 1
    assert server.calls == []


async def test_probe_tells_a_wrong_key_from_an_unknown_model(
    provider: str, server: FakeModelServer, make_client: MakeClient
) -> None:
    unknown = await (await make_client(provider, model="nonsense")).health()
    server.api_key = "sk-another"
    wrong_key = await (await make_client(provider)).health()
    assert (unknown.available, unknown.last_error_code) == (False, "model_not_found")
    assert (wrong_key.available, wrong_key.last_error_code) == (False, "model_authentication_failed")


async def test_wrong_key(provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto) -> None:
    server.api_key = "sk-another"
    with pytest.raises(ModelAuthenticationFailed):
        await (await make_client(provider)).classify(photo)


async def test_unknown_model(provider: str, make_client: MakeClient, photo: PreparedPhoto) -> None:
    with pytest.raises(ModelNotFound):
        await (await make_client(provider, model="nonsense")).classify(photo)
