"""The statistics endpoints: envelope, parameters, and figures that follow what was just done."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings, StatisticsSettings
from app.main import create_app
from tests.fakes import images
from tests.support.classify import check, error_code, photo, sha256, upload
from tests.support.serving import serving
from tests.support.statistics import log_and_sum, log_row


async def test_figures_follow_the_requests(api: httpx2.AsyncClient) -> None:
    data = photo(1)
    await upload(api, data, headers={"X-User-ID": "a"})
    await check(api, sha256(data), headers={"X-User-ID": "b"})
    await check(api, sha256(data), headers={"X-User-ID": "b"})
    await check(api, "0" * 64, headers={"X-User-ID": "c"})

    today = (await api.get("/stats/today")).json()
    assert today["success"] is True
    figures = today["data"]
    assert figures.pop("avg_processing_time_ms") >= 0
    assert figures == {
        "total_requests": 3,
        "cache_hits": 2,
        "cache_misses": 1,
        "cache_hit_rate": 66.67,
        "unique_users": 2,
        "unique_ips": 1,
        "estimated_cost": 0.01,
        "cost_saved": 0.02,
        "similar_hits": 0,
        "saved_by_similar": 0.0,
        "currency": "CNY",
    }
    efficiency = (await api.get("/stats/cache-efficiency")).json()["data"]
    assert efficiency == {
        "total_cached_images": 1,
        "total_hits": 3,
        "times_saved": 2,
        "cost_saved": 0.02,
        "avg_hit_per_image": 3.0,
        "max_hits": 3,
        "similar_hits": 0,
        "saved_by_similar": 0.0,
        "currency": "CNY",
    }
    shares = (await api.get("/stats/category-distribution")).json()["data"]
    assert shares == [{"category": "pets", "count": 3, "percentage": 100.0, "avg_confidence": 0.93}]
    users = (await api.get("/stats/users/top", params={"limit": 1})).json()["data"]
    assert [(user["user_id"], user["request_count"], user["cache_hit_rate"]) for user in users] == [("b", 2, 100.0)]
    assert users[0]["first_request"].endswith("Z")
    images = (await api.get("/stats/top-images", params={"limit": 5})).json()["data"]
    assert [(image["image_hash"], image["hit_count"], image["lifetime_days"]) for image in images] == [
        (sha256(data), 3, 0)
    ]


async def test_a_date_chooses_the_day(api: httpx2.AsyncClient) -> None:
    await upload(api, photo(2))
    today = datetime.now(UTC).astimezone(ZoneInfo("Asia/Shanghai")).date()
    for path, empty in (("today", 0), ("category-distribution", 0)):
        figures = (await api.get(f"/stats/{path}", params={"date": today.isoformat()})).json()["data"]
        assert (figures["total_requests"] if path == "today" else len(figures)) == 1
        before = (today - timedelta(days=1)).isoformat()
        figures = (await api.get(f"/stats/{path}", params={"date": before})).json()["data"]
        assert (figures["total_requests"] if path == "today" else len(figures)) == empty


async def test_a_range_of_days_is_their_sum(api: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    moments = [datetime(2025, 10, day, 4, tzinfo=UTC) for day in (9, 10, 11, 12)]
    await log_and_sum(engine, [log_row(number, created_at=moment) for number, moment in enumerate(moments)])

    async def count(**days: str) -> int:
        response = await api.get("/stats/category-distribution", params=days)
        assert response.status_code == 200, response.text
        return sum(int(share["count"]) for share in response.json()["data"])

    assert await count(date="2025-10-10") == 1
    assert await count(**{"from": "2025-10-10", "to": "2025-10-11"}) == 2
    assert await count(to="2025-10-11") == 1
    assert await count(**{"from": "2025-01-01", "to": "2025-12-31"}) == 4
    assert await count() == 0


async def test_new_photos_follow_the_uploads(api: httpx2.AsyncClient) -> None:
    data = photo(1)
    for upload_of in (data, data, photo(2), images.png_photo()):
        assert (await upload(api, upload_of)).status_code == 200
    await check(api, sha256(data))
    today = datetime.now(UTC).astimezone(ZoneInfo("Asia/Shanghai")).date()
    days = {"from": (today - timedelta(days=1)).isoformat()}

    async def counts(by: str) -> dict[str, int]:
        answer = (await api.get("/stats/new-photos", params={"by": by, **days})).json()
        assert answer["success"] is True
        assert sum(share["percentage"] for share in answer["data"]) == pytest.approx(100, abs=0.02)
        return {share["value"]: share["count"] for share in answer["data"] if share["count"]}

    assert await counts("format") == {"jpg": 2, "png": 1}
    assert await counts("model") == {"test-vision": 3}
    assert await counts("confidence") == {"0.9-1.0": 3}


async def test_series_follow_the_requests(api: httpx2.AsyncClient) -> None:
    data = photo(3)
    await upload(api, data, headers={"X-User-ID": "a"})
    await check(api, sha256(data), headers={"X-User-ID": "b"})

    async def latest(metric: str, bucket: str) -> float:
        answer = (await api.get("/stats/timeseries", params={"metric": metric, "bucket": bucket})).json()
        assert answer["success"] is True
        series = answer["data"]
        assert (series["metric"], series["bucket"]) == (metric, bucket)
        assert all(point["start"].endswith("Z") for point in series["points"])
        # A bucket may have begun between the two requests.
        return float(sum(point["value"] for point in series["points"][-2:]))

    for bucket in ("15min", "hour", "day"):
        for metric, expected in {
            "requests": 2,
            "hits": 1,
            "misses": 1,
            "money_spent": 0.01,
            "money_saved": 0.01,
        }.items():
            assert await latest(metric, bucket) == expected
        assert await latest("hit_rate", bucket) in (50, 100)
        assert await latest("latency", bucket) >= 0
    assert await latest("users", "day") == 2


async def test_a_series_has_the_bounds_that_it_is_asked_for(api: httpx2.AsyncClient) -> None:
    async def starts(**bounds: str) -> list[str]:
        answer = await api.get("/stats/timeseries", params={"metric": "requests", "bucket": "day", **bounds})
        assert answer.status_code == 200, answer.text
        return [point["start"] for point in answer.json()["data"]["points"]]

    # The usual time zone is Shanghai's.
    two_days = ["2025-10-09T16:00:00Z", "2025-10-10T16:00:00Z"]
    assert await starts(**{"from": "2025-10-10", "to": "2025-10-12"}) == two_days
    assert await starts(**{"from": "2025-10-10T08:00", "to": "2025-10-11T00:00:01"}) == two_days
    assert await starts(**{"from": "2025-10-09T16:00:00Z", "to": "2025-10-11T16:00:00.000Z"}) == two_days
    assert await starts(**{"from": "2025-10-10T00:00:00+08:00", "to": "2025-10-11T12:00:00+08:00"}) == two_days
    # A client that does not quote the plus sign sends a space.
    answer = await api.get(
        "/stats/timeseries?metric=requests&bucket=day&from=2025-10-10T00:00:00+08:00&to=2025-10-12T00:00:00+08:00"
    )
    assert [point["start"] for point in answer.json()["data"]["points"]] == two_days


@pytest.mark.parametrize("migrate_on_start", [True, False])
async def test_the_start_counts_visitors_again_for_another_zone(
    settings: Settings, engine: AsyncEngine, migrate_on_start: bool
) -> None:
    row = log_row(1, user_id="user", created_at=datetime(2025, 10, 10, 20, tzinfo=UTC))
    await log_and_sum(engine, [row], "UTC")
    database = settings.database.model_copy(update={"migrate_on_start": migrate_on_start})
    statistics = StatisticsSettings.model_validate({"timezone": "Asia/Shanghai"})
    settings = settings.model_copy(update={"database": database, "statistics": statistics})
    async with serving(create_app(settings)) as url, httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as api:
        days = [(await api.get(f"/stats/today?date={day}")).json()["data"] for day in ("2025-10-10", "2025-10-11")]
    assert [day["unique_users"] for day in days] == [0, 1]


@pytest.mark.parametrize(
    "path",
    [
        "/stats/today?date=yesterday",
        "/stats/today?date=2025-13-01",
        "/stats/today?date=0001-01-01",
        "/stats/today?date=1795219200",
        "/stats/today?date=2025-10-10T00:00:00",
        "/stats/timeseries",
        "/stats/timeseries?metric=money",
        "/stats/timeseries?metric=requests&bucket=minute",
        "/stats/timeseries?metric=users&bucket=hour",
        "/stats/timeseries?metric=requests&from=yesterday",
        "/stats/timeseries?metric=requests&from=2025-02-30",
        "/stats/timeseries?metric=requests&from=2025-10-10T25:00:00Z",
        "/stats/timeseries?metric=requests&from=1760097600",
        "/stats/timeseries?metric=requests&from=0001-01-01&to=0001-01-02",
        "/stats/timeseries?metric=requests&from=2025-10-10&to=2025-10-10",
        "/stats/timeseries?metric=requests&from=2025-01-01&to=2025-10-10",
        "/stats/timeseries?metric=requests&bucket=day&to=9999-12-31",
        "/stats/category-distribution?date=9999-12-31",
        "/stats/category-distribution?date=2025-10-10&from=2025-10-10",
        "/stats/category-distribution?from=2025-10-11&to=2025-10-10",
        "/stats/category-distribution?from=2024-01-01&to=2025-12-31",
        "/stats/category-distribution?from=2025-10-10T00:00:00Z&to=2025-10-10",
        "/stats/new-photos",
        "/stats/new-photos?by=user",
        "/stats/new-photos?by=model&from=1970-01-01",
        "/stats/users/top?limit=0",
        "/stats/users/top?limit=1001",
        "/stats/top-images?limit=-1",
        "/stats/top-images?limit=ten",
    ],
)
async def test_wrong_parameters_are_refused(api: httpx2.AsyncClient, path: str) -> None:
    response = await api.get(path)
    assert (response.status_code, error_code(response)) == (400, "invalid_request")


@pytest.mark.parametrize(
    "path",
    [
        "/stats/today?dat=2025-10-10",
        "/stats/timeseries?metric=hits&categorie=foods",
        "/stats/spending?group=model",
        "/health?x=1",
        "/categories?lang=zh",
    ],
)
async def test_an_unknown_parameter_is_an_error(api: httpx2.AsyncClient, path: str) -> None:
    response = await api.get(path)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "invalid_request"
    assert error["details"]["known"] == sorted(error["details"]["known"])


async def test_an_unknown_parameter_of_a_look_up_is_an_error_too(api: httpx2.AsyncClient) -> None:
    assert (await api.post("/classify/check-cache?x=1", json={"image_hash": "a" * 64})).status_code == 400
    assert (await api.post("/classify/check-cache", json={"image_hash": "a" * 64})).status_code == 200


async def test_a_series_of_a_category(api: httpx2.AsyncClient) -> None:
    await upload(api, photo(3))

    async def values(**query: str) -> list[float]:
        response = await api.get("/stats/timeseries", params={"metric": "requests", "bucket": "day", **query})
        return [point["value"] for point in response.json()["data"]["points"]]

    assert sum(await values()) == sum(await values(category="pets")) == 1
    assert sum(await values(category="foods")) == 0
    for query in ({"category": "cats"}, {"category": "pets", "metric": "errors"}):
        assert (await api.get("/stats/timeseries", params={"metric": "hits", **query})).status_code == 400


async def test_spending_by_model_and_key(api: httpx2.AsyncClient) -> None:
    await upload(api, photo(4))
    data = (await api.get("/stats/spending")).json()["data"]
    assert data["currency"] == "CNY"
    [group] = data["groups"]
    assert (group["name"], group["calls"], group["cost"]) == ("test-vision", 1, 0.01)
    assert group["input_tokens"] > 0
    [group] = (await api.get("/stats/spending", params={"by": "key"})).json()["data"]["groups"]
    assert group["name"] is None
    series = await api.get("/stats/timeseries", params={"metric": "money_spent", "bucket": "day"})
    assert series.json()["data"]["currency"] == "CNY"
    assert sum(point["value"] for point in series.json()["data"]["points"]) == 0.01
