"""`/metrics` in one process: each figure counts what docs/metrics.md says of it, and there is no other."""

import asyncio
import hashlib
import re
import sys
import time

import httpx2
import pytest

from app.config.settings import CacheSettings, Settings
from app.main import create_app
from app.observability import metrics
from app.services.request_log import recorder as recorder_module
from tests.fakes.images import encode, jpeg_photo, png_photo, quadrants
from tests.fakes.model_replies import failure
from tests.fakes.model_server import FakeModelServer
from tests.support.documents import DOCS
from tests.support.growth import Growth, figures
from tests.support.people import bearer, log_in, sign_up
from tests.support.serving import serving

UNKNOWN_HASH = hashlib.sha256(b"unknown").hexdigest()


@pytest.fixture
async def growth(service: httpx2.AsyncClient) -> Growth:
    return await Growth.begin(service)


def documented() -> dict[str, tuple[str, set[str]]]:
    """Name -> type and labels, of the tables of docs/metrics.md."""
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(image_classifier_\w+)` \| (\w+) \| (.+?) \| .+ \|$", text, re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows})
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_what_is_exposed_is_documented_and_the_other_way_round() -> None:
    exposed = {}
    for metric in metrics.REGISTRY._collector_to_names:
        [family] = metric.describe()  # type: ignore[attr-defined]  # all are metrics
        name = f"{family.name}_total" if family.type == "counter" else family.name
        exposed[name] = (family.type, set(metric._labelnames))  # type: ignore[attr-defined]
    assert exposed == documented()


async def test_the_answer_holds_only_what_is_defined(service: httpx2.AsyncClient) -> None:
    names = {re.sub("_(bucket|count|sum)$", "", name) for name, _ in await figures(service)}
    assert names <= set(documented())


def test_queries_of_the_page_name_what_is_exposed() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8").partition("```promql")[2]
    used = {re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"image_classifier_\w+", text)}
    assert len(used) > 8
    assert used <= set(documented())


async def test_requests_are_counted_by_template_status_and_outcome(service: httpx2.AsyncClient, growth: Growth) -> None:
    photo = jpeg_photo(301, 200)
    image_hash = hashlib.sha256(photo).hexdigest()
    check, upload = "/api/v1/classify/check-cache", "/api/v1/classify"
    await service.post(check, json={"image_hash": image_hash})
    await service.post(upload, files={"image": photo})
    await service.post(upload, files={"image": photo})
    await service.post(check, json={"image_hash": image_hash})
    # The long way, by the route.
    await service.post(check, json={"image_hash": image_hash}, headers={"Origin": "https://app.example"})
    await service.post(check, json={"image_hash": "no hash"})
    await service.get("/api/v1/requests/req_1_unknown")
    await service.get("/nowhere/at/all")
    await service.request("PROPFIND", "/nowhere")
    for path in ("/metrics", "/metrics?name=a"):
        await service.get(path)

    async def times(route: str, outcome: str) -> float:
        return await growth.of("http_request_seconds_count", route=route, outcome=outcome)

    assert [await times(check, outcome) for outcome in ("miss", "hit", "client_error", "ok")] == [1, 2, 1, 0]
    assert [await times(upload, outcome) for outcome in ("miss", "hit")] == [1, 1]
    assert await times("/api/v1/requests/{request_id}", "client_error") == 1
    assert await growth.of("http_requests_total", method="POST", route=check, status="200") == 3
    assert await growth.of("http_requests_total", method="POST", route=check, status="400") == 1
    assert await growth.of("http_requests_total", method="GET", route="other", status="404") == 1
    assert await growth.of("http_requests_total", method="other", route="other", status="404") == 1
    assert await growth.of("http_requests_total", method="GET", route="/metrics", status="200") == 0
    assert 0 < await growth.of("http_request_seconds_sum", route=check, outcome="hit") < 10


async def test_cache_model_log_and_money_are_counted(
    service: httpx2.AsyncClient, growth: Growth, settings: Settings
) -> None:
    photos = [jpeg_photo(302, 200), png_photo(302, 200), encode(quadrants(302, 200), "WEBP")]
    # The last one is cut off.
    for photo in (*photos, *photos, photos[2][:-1]):
        await service.post("/api/v1/classify", files={"image": photo})
    hashes = [hashlib.sha256(photo).hexdigest() for photo in photos]
    await service.post("/api/v1/classify/check-cache/batch", json={"image_hashes": [*hashes, UNKNOWN_HASH]})
    assert await growth.of("cache_lookups_total", layer="memory") == 6
    assert await growth.of("cache_lookups_total", layer="miss") == 5
    assert await growth.of("images_total", format="jpg") == 1
    assert await growth.of("images_total", format="png") == 1
    assert await growth.of("images_total", format="webp") == 1
    assert await growth.of("image_bytes_sum") == sum(map(len, photos))
    model = {"provider": settings.model.provider, "model": settings.model.model or ""}
    assert await growth.of("model_calls_total", outcome="ok", **model) == 3
    assert await growth.of("model_call_seconds_count", provider=settings.model.provider) == 3
    assert await growth.of("model_tokens_total", provider=settings.model.provider, direction="input") > 0
    assert await growth.of("model_tokens_total", provider=settings.model.provider, direction="output") > 0
    assert await growth.of("commit_rows_sum") == 9
    assert await growth.of("commit_seconds_count") == await growth.of("commit_rows_count") == 7
    cost = float(settings.spending.cost_per_call)
    assert await growth.of("money_spent_total", currency="CNY") == pytest.approx(3 * cost)
    assert await growth.of("money_saved_total", currency="CNY") == pytest.approx(6 * cost)


async def test_an_entry_that_another_process_stored_comes_from_the_database(
    service: httpx2.AsyncClient, settings: Settings
) -> None:
    photo = jpeg_photo(303, 200)
    await service.post("/api/v1/classify", files={"image": photo})
    async with serving(create_app(settings)) as url, httpx2.AsyncClient(base_url=url) as other:
        growth = await Growth.begin(other)
        for _ in range(3):
            await other.post("/api/v1/classify/check-cache", json={"image_hash": hashlib.sha256(photo).hexdigest()})
        assert await growth.of("cache_lookups_total", layer="database") == 1
        assert await growth.of("cache_lookups_total", layer="memory") == 2


async def test_look_ups_that_share_a_query_are_counted_one_by_one(
    service: httpx2.AsyncClient, settings: Settings
) -> None:
    photo = jpeg_photo(305, 200)
    await service.post("/api/v1/classify", files={"image": photo})
    image_hash = hashlib.sha256(photo).hexdigest()
    without_memory = settings.model_copy(update={"cache": CacheSettings.model_validate({"memory_entries": 0})})
    async with serving(create_app(without_memory)) as url, httpx2.AsyncClient(base_url=url) as other:
        growth = await Growth.begin(other)
        question = {"image_hash": image_hash}
        await asyncio.gather(*(other.post("/api/v1/classify/check-cache", json=question) for _ in range(20)))
        hashes = [image_hash, "0" * 64, image_hash]
        await other.post("/api/v1/classify/check-cache/batch", json={"image_hashes": hashes})
        assert await growth.of("cache_lookups_total", layer="database") == 22
        assert await growth.of("cache_lookups_total", layer="miss") == 1


async def test_every_look_up_under_load_is_counted_once_wherever_the_entry_was(
    service: httpx2.AsyncClient, settings: Settings, redis_url: str
) -> None:
    photos = [jpeg_photo(350 + number, 200) for number in range(8)]
    for photo in photos:
        await service.post("/api/v1/classify", files={"image": photo})
    cache = CacheSettings.model_validate({"memory_entries": 0, "redis_url": redis_url})
    with_redis = settings.model_copy(update={"cache": cache})
    limits = httpx2.Limits(max_connections=40)
    async with serving(create_app(with_redis)) as url, httpx2.AsyncClient(base_url=url, limits=limits) as other:

        async def ask(number: int) -> None:
            photo = photos[number % len(photos)]
            if number % 3:
                body = {"image_hash": hashlib.sha256(photo).hexdigest()}
                answer = await other.post("/api/v1/classify/check-cache", json=body, timeout=60)
            else:
                answer = await other.post("/api/v1/classify", files={"image": photo}, timeout=60)
            assert answer.raise_for_status().json().get("cached", True)

        growth = await Growth.begin(other)
        await asyncio.gather(*(ask(number) for number in range(300)))
        uploads = 100
        in_database, in_redis = [await growth.of("cache_lookups_total", layer=layer) for layer in ("database", "redis")]
        # An upload that finds another one of its photo under way waits for it without a look-up.
        assert 300 - uploads <= in_database + in_redis <= 300
        assert in_redis > in_database > 0
        assert await growth.of("cache_lookups_total", layer="miss") == 0
        assert await growth.of("commit_rows_sum") == 300
        before = in_redis
        for number in range(30):
            await ask(number)
        assert await growth.of("cache_lookups_total", layer="redis") == before + 30


async def test_failures_retries_and_the_breaker_are_counted(
    service: httpx2.AsyncClient, growth: Growth, model_server: FakeModelServer, settings: Settings
) -> None:
    model_server.script(failure(500), *[failure(401)] * 5)
    statuses = []
    for number in range(6):
        answer = await service.post("/api/v1/classify", files={"image": jpeg_photo(310 + number, 200)})
        statuses.append(answer.status_code)
    assert statuses == [503] * 6
    model = {"provider": settings.model.provider, "model": settings.model.model or ""}
    assert await growth.of("model_calls_total", outcome="model_authentication_failed", **model) == 5
    assert await growth.of("model_calls_total", outcome="model_circuit_open", **model) == 1
    assert await growth.of("model_call_seconds_count", provider=settings.model.provider) == 5
    assert await growth.of("model_retries_total", provider=settings.model.provider) == 1
    now = await figures(service)
    assert now["image_classifier_model_breaker_open", frozenset(model.items())] == 1
    assert now["image_classifier_model_breaker_open_until_seconds", frozenset(model.items())] > time.time()


async def test_who_is_refused_for_want_of_room_is_counted(
    service: httpx2.AsyncClient, growth: Growth, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = jpeg_photo(304, 200)
    await service.post("/api/v1/classify", files={"image": photo})
    monkeypatch.setattr(recorder_module, "MAX_PENDING_ROWS", 0)
    body = {"image_hash": hashlib.sha256(photo).hexdigest()}
    for headers in ({}, {"Origin": "https://app.example"}):
        assert (await service.post("/api/v1/classify/check-cache", json=body, headers=headers)).status_code == 503
    assert await growth.of("refused_requests_total", code="server_busy") == 2
    route = "/api/v1/classify/check-cache"
    assert await growth.of("http_request_seconds_count", route=route, outcome="server_error") == 2


async def test_open_streams_and_ended_tasks_are_counted(service: httpx2.AsyncClient, growth: Growth) -> None:
    await sign_up(service)
    headers = bearer(await log_in(service))
    async with service.stream("GET", "/images/inference/events", headers=headers) as stream:
        lines = stream.aiter_lines()
        assert "hello" in "".join([await anext(lines), await anext(lines)])
        assert await growth.reaches(1, "event_streams")
        files = {"file": ("a.jpg", jpeg_photo(305, 200), "image/jpeg")}
        image = (await service.post("/images/upload", files=files, headers=headers)).raise_for_status().json()
        answer = await service.post("/images/inference/async", json={"image_id": image["id"]}, headers=headers)
        assert answer.status_code == 202
        async for line in lines:
            if '"completed"' in line:
                break
        assert await growth.reaches(1, "tasks_total", outcome="completed")
    assert await growth.reaches(0, "event_streams")


async def test_the_state_of_the_process_is_shown(service: httpx2.AsyncClient) -> None:
    now = await figures(service)
    while not now["image_classifier_database_connections_limit", frozenset()]:
        await asyncio.sleep(0.01)
        now = await figures(service)
    assert now["image_classifier_build_info", frozenset({("version", "0.1.0")})] == 1
    assert now["image_classifier_processes", frozenset()] == 1
    assert now["image_classifier_log_queue_rows", frozenset()] == 0
    assert now["image_classifier_log_queue_limit_rows", frozenset()] == 20_000
    if sys.platform == "linux":
        assert 20_000_000 < now["image_classifier_process_resident_bytes", frozenset()] < 5_000_000_000
    assert now["image_classifier_process_cpu_seconds_total", frozenset()] > 0


async def test_what_was_counted_shows_without_a_request_after_a_moment() -> None:
    counter = metrics.TASKS_RETRIED
    before = counter._value.get()
    metrics.count(counter, 2)
    assert counter._value.get() == before
    await asyncio.sleep(3 * metrics.FLUSH_SECONDS)
    assert counter._value.get() == before + 2


async def test_a_figure_that_cannot_be_added_costs_no_other_one() -> None:
    metrics.flush()
    before = metrics.TASKS_RETRIED._value.get(), metrics.COMMIT_ROWS._sum.get()
    # As a plugin might have it.
    metrics.count(metrics.TASKS_FAILED, -1)
    metrics.count(metrics.TASKS_RETRIED)
    metrics.observe(metrics.COMMIT_ROWS, 1)
    for _ in range(2):
        metrics.flush()
    assert (metrics.TASKS_RETRIED._value.get(), metrics.COMMIT_ROWS._sum.get()) == (before[0] + 1, before[1] + 1)


async def test_many_values_are_put_into_the_right_buckets() -> None:
    metrics.flush()
    before = [bucket.get() for bucket in metrics.COMMIT_ROWS._buckets]
    for rows in (1, 1, 2, 3, 1000, 1001):
        metrics.observe(metrics.COMMIT_ROWS, rows)
    metrics.flush()
    grown = [bucket.get() - old for bucket, old in zip(metrics.COMMIT_ROWS._buckets, before, strict=True)]
    # 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, more: as `Histogram.observe` has it, a bound belongs to its bucket.
    assert grown == [2, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1]
