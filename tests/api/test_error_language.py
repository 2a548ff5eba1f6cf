"""Errors are in the language that a request asks for, from whichever part of the service they come."""

import io
import re
from typing import Any

import httpx2
import pytest
from PIL import Image

from app.services.statistics.service import StatsService
from tests.support.classify import check, error_code, photo, upload

CHINESE = {"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}


def message(response: httpx2.Response) -> str:
    assert "Accept-Language" in response.headers["Vary"]
    assert error_code(response)
    return str(response.json()["error"]["message"])


async def test_a_message_is_english_where_nothing_is_said(api: httpx2.AsyncClient) -> None:
    for headers in ({}, {"Accept-Language": "en-GB,en;q=0.9,zh;q=0.8"}, {"Accept-Language": "fr"}):
        assert message(await api.get("/nothing", headers=headers)) == "There is nothing at this address."


async def test_what_a_request_can_get_wrong(api: httpx2.AsyncClient) -> None:
    assert message(await api.get("/nothing", headers=CHINESE)) == "该地址不存在。"
    method = await api.get("/classify", headers=CHINESE)
    assert message(method) == "该地址不支持此方法；支持的方法见响应头 Allow。"
    assert "POST" in method.headers["Allow"]
    assert message(await api.get("/requests/req_1_000000000000", headers=CHINESE)).startswith(
        "日志中没有这个 id 的请求"
    )
    unknown = await api.get("/stats/today?colour=1", headers=CHINESE)
    assert message(unknown) == "未知的查询参数 'colour'；该地址支持：date。"
    none = await api.get("/stats/cache-efficiency?colour=1", headers=CHINESE)
    assert message(none) == "未知的查询参数 'colour'；该地址支持：-。"
    long = await api.get("/stats/timeseries?metric=requests&bucket=15min&from=2020-01-01", headers=CHINESE)
    assert re.fullmatch(r"超过 \d+ 个区间。请选择更长的区间或更短的时间。", message(long))
    user = await upload(api, photo(), headers={**CHINESE, "X-User-ID": "account:7"})
    assert message(user) == 'X-User-ID 无效：用户 id 不能以 "account:" 开头，这是已登录账户的标记。'


async def test_fields_keep_their_names_and_details_stay(api: httpx2.AsyncClient) -> None:
    response = await check(api, "95290152", headers=CHINESE)
    assert message(response) == "body.image_hash: 应符合模式 '^[0-9a-fA-F]{64}$'"
    assert response.json()["error"]["details"] == [
        {"field": "body.image_hash", "message": "String should match pattern '^[0-9a-fA-F]{64}$'"}
    ]
    broken = await api.post(
        "/classify/check-cache", content=b"{", headers={**CHINESE, "Content-Type": "application/json"}
    )
    assert message(broken) == "body: 不是有效的 JSON"
    similar = await api.post(
        "/classify/check-cache", json={"image_hash": "0" * 64, "perceptual_hash": "x"}, headers=CHINESE
    )
    assert message(similar) == "body.perceptual_hash: 应为 16 位十六进制数字"
    user = await api.post("/classify/check-cache", json={"image_hash": "0" * 64, "user_id": "x" * 99}, headers=CHINESE)
    assert message(user) == "body.user_id: 用户 id 最多 64 个字符"
    day = await api.get("/stats/today?date=yesterday", headers=CHINESE)
    assert message(day) == "query.date: 日期应写作 YYYY-MM-DD"
    bucket = await api.get("/stats/timeseries?metric=requests&bucket=year", headers=CHINESE)
    assert message(bucket) == "query.bucket: 可取的值：'15min'、'hour'、'day'"


@pytest.mark.parametrize("origin", [{}, {"Origin": "https://app.example"}], ids=["fast path", "route"])
async def test_photos(api: httpx2.AsyncClient, origin: dict[str, str]) -> None:
    headers = {**CHINESE, **origin}
    assert message(await upload(api, photo()[:200], headers=headers)) == "图片已损坏或不完整。"
    tiff = io.BytesIO()
    Image.new("RGB", (8, 8)).save(tiff, "TIFF")
    kind = message(await upload(api, tiff.getvalue(), headers=headers))
    assert kind.startswith("上传的内容不是可接受的图片格式：")
    assert "jpg" in kind
    large = await upload(api, b"\xff" * (11 * 1024 * 1024), headers=headers)
    assert message(large) == "图片文件超过大小上限。请压缩：JPEG，1024 像素，质量 80。上限为 10 MB。"


async def test_each_photo_of_a_batch(api: httpx2.AsyncClient) -> None:
    files = [("image", ("a.jpg", photo(1))), ("image", ("b.jpg", b"no photo"))]
    first, second = (await api.post("/classify/batch", files=files, headers=CHINESE)).json()["results"]
    assert first["success"] is True
    assert second["error"]["message"].startswith("上传的内容不是可接受的图片格式：")


async def test_what_middleware_answers(api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    body = await api.post("/classify/check-cache", content=b" " * (8 * 1024 * 1024), headers=CHINESE)
    assert message(body) == "请求体超过大小上限。"

    async def fail(self: StatsService, *arguments: Any) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(StatsService, "cache_efficiency", fail)
    unexpected = await api.get("/stats/cache-efficiency", headers=CHINESE)
    assert message(unexpected) == "服务内部出错。反馈问题时请附上 request_id。"


async def test_a_success_does_not_depend_on_the_language(api: httpx2.AsyncClient) -> None:
    answer = await api.get("/categories", headers=CHINESE)
    assert answer.status_code == 200
    assert "Accept-Language" not in answer.headers.get("Vary", "")
