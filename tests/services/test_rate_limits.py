"""Requests per minute: of a key, of an address, in one process or in all."""

from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from app.errors import RateLimited
from app.services.rate_limits import RateLimits
from app.services.redis import RedisClient
from tests.servers.processes import free_port
from tests.support.running import running

ADDRESS = "192.0.2.1"
# A window that slides on during the test lets one or two more through.
SLIDES = 2


async def passed(limits: RateLimits, address: str | None, count: int) -> int:
    """How many of so many requests pass."""
    refusals: list[RateLimited] = []
    for _ in range(count):
        try:
            await limits.count_address(address)
        except RateLimited as error:
            refusals.append(error)
    assert all(0 <= (error.retry_after_seconds or 0) <= 60 for error in refusals)
    assert all(error.details == {"per_minute": 10} for error in refusals)
    return count - len(refusals)


async def test_each_address_and_each_key_has_its_own() -> None:
    limits = RateLimits(None, per_address=10)
    assert 10 <= await passed(limits, ADDRESS, 20) <= 10 + SLIDES
    assert await passed(limits, "192.0.2.2", 10) == 10
    networks = [f"2001:db8:1:2:{number:x}::1" for number in range(20)]
    assert 10 <= sum([await passed(limits, each, 1) for each in networks]) <= 10 + SLIDES
    assert await passed(limits, "2001:db8:1:3::1", 10) == 10
    assert await passed(limits, None, 30) == 30
    for key_id in (1, 2):
        await limits.count_key(key_id, 1)
        with pytest.raises(RateLimited):
            await limits.count_key(key_id, 1)


async def test_without_a_setting_no_address_is_limited() -> None:
    assert await passed(RateLimits(None, per_address=None), ADDRESS, 1000) == 1000


async def test_with_redis_processes_count_together(redis_url: str) -> None:
    clients = [RedisClient(redis_url, key_space="test", timeout_seconds=30) for _ in range(2)]
    one, other = (RateLimits(client, per_address=10) for client in clients)
    assert await passed(one, ADDRESS, 6) + await passed(other, ADDRESS, 14) in range(10, 11 + SLIDES)
    for client in clients:
        await client.close()


@pytest.mark.parametrize("has_redis", [True, False])
def test_two_services_have_one_limit_with_redis_and_one_each_without(
    has_redis: bool, redis_url: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Processes of their own, as gunicorn's workers are; what docs/configuration.md says of both cases."""
    (tmp_path / "tmp").mkdir()
    environment |= {"REQUESTS_PER_MINUTE_PER_ADDRESS": "10", "REDIS_URL": redis_url if has_redis else ""}
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(running("python", port, {**environment, "APP_PORT": str(port)}))
        client = stack.enter_context(httpx2.Client(timeout=120))
        answers = [client.get(f"http://127.0.0.1:{port}/api/v1/categories") for _ in range(15) for port in ports]
    assert {answer.status_code for answer in answers} == {200, 429}
    passed = sum(answer.status_code == 200 for answer in answers)
    least = 10 if has_redis else 20
    assert least <= passed <= least + 2 * SLIDES
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limited"
    assert 0 <= int(refused.headers["Retry-After"]) <= 60


async def test_a_redis_that_is_away_stops_no_request() -> None:
    client = RedisClient("redis://127.0.0.1:1/0", key_space="test", timeout_seconds=30)
    assert 10 <= await passed(RateLimits(client, per_address=10), ADDRESS, 20) <= 10 + SLIDES
    assert client.outage.is_out
    await client.close()
