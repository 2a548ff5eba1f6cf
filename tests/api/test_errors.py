"""Every error has the one format and a declared code, and an unexpected one tells nothing about us."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin

import httpx2
import pytest
from loguru import logger

from app import errors as service_errors
from app.api.errors import REFUSALS
from app.clients import errors as model_errors
from app.errors import AppError, LimitReached, NotFound
from app.services.statistics.service import StatsService
from tests.support.classify import error_code


async def test_unknown_addresses_and_methods(api: httpx2.AsyncClient) -> None:
    unknown = await api.get("/nothing")
    assert (unknown.status_code, error_code(unknown)) == (404, NotFound.code)
    method = await api.get("/classify")
    assert (method.status_code, error_code(method)) == (405, "method_not_allowed")
    assert "POST" in method.headers["Allow"]
    missing = await api.get("/requests/req_1_000000000000")
    assert (missing.status_code, error_code(missing)) == (404, "request_not_found")
    long_id = await api.get(f"/requests/{'x' * 65}")
    assert (long_id.status_code, error_code(long_id)) == (400, "invalid_request")


async def test_an_unexpected_error_is_logged_and_not_shown(
    api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: StatsService, *arguments: Any) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(StatsService, "cache_efficiency", fail)
    lines: list[str] = []
    sink = logger.add(lines.append, format="{extra[request_id]} {message}")
    try:
        response = await api.get("/stats/cache-efficiency", headers={"Origin": "https://app.example"})
    finally:
        logger.remove(sink)
    assert (response.status_code, error_code(response)) == (500, "internal_error")
    # Without it a web page would be told nothing but "network error".
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "secret" not in response.text
    traceback = next(line for line in lines if "secret inside" in line)
    assert traceback.startswith(response.json()["request_id"])


@contextmanager
def logged_lines() -> Iterator[list[str]]:
    """What is logged during the block; an item may be several lines."""
    lines: list[str] = []
    sink = logger.add(lines.append, format="{extra[request_id]} {message}")
    try:
        yield lines
    finally:
        logger.remove(sink)


async def lines_with(text: str, lines: list[str]) -> list[str]:
    """The lines that hold `text`, as soon as there are any: they are written some moments after the answer."""
    for _ in range(1000):
        if any(text in line for line in lines):
            break
        await asyncio.sleep(0.01)
    return [line for line in "".join(lines).splitlines() if text in line]


async def test_each_request_has_an_id_and_one_log_line_without_its_query(api: httpx2.AsyncClient) -> None:
    with logged_lines() as lines:
        response = await api.get("/stats/today", params={"token": "hidden"})
        request_id = response.headers["X-Request-ID"]
        assert request_id.startswith("req_")
        [about] = await lines_with(request_id, lines)
    message = f"INFO    {request_id} access GET /api/v1/stats/today 400 client_error [0-9.]+ ms client=127.0.0.1 user=-"
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{3}}Z {message}", about)
    assert "hidden" not in "".join(lines)


async def test_web_pages_may_call_the_api(api: httpx2.AsyncClient) -> None:
    preflight = await api.options(
        "/classify/check-cache",
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-user-id,content-type",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    answer = await api.get("/categories", headers={"Origin": "https://app.example"})
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]


def all_errors(base: type[AppError] = AppError) -> list[type[AppError]]:
    return [base, *(error for child in base.__subclasses__() for error in all_errors(child))]


def test_codes_are_unique_and_drawn_in_the_tree() -> None:
    tree = f"{service_errors.__doc__}{model_errors.__doc__}"
    ours = [error for error in all_errors() if error.__module__ in {"app.errors", "app.clients.errors"}]
    assert len({error.code for error in ours}) == len(ours)
    for error in ours:
        assert f"{error.__name__} " in tree
        assert error.code in tree
        assert len(error.message) > 10


async def test_every_route_declares_its_errors_with_an_example(api: httpx2.AsyncClient) -> None:
    document = (await api.get(str(api.base_url.copy_with(path="/openapi.json")))).json()
    assert document["paths"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            where = f"{method} {path}"
            assert "422" not in responses, where
            assert {"400", "500", "4XX"} <= set(responses), where
            (success,) = (status for status in responses if status.startswith("2"))
            for status, response in responses.items():
                if not status.startswith(("4", "5")):
                    continue
                content = response["content"]["application/json"]
                if (path, status) == ("/api/v1/health", "503"):
                    assert content["example"]["status"] == "unhealthy"
                    continue
                for code, example in content["examples"].items():
                    assert example["value"]["error"]["code"] == code
            shown = [responses[success], operation.get("requestBody", {})]
            for content in (each.get("content", {}) for each in shown):
                if "application/json" in content:
                    assert has_example(document, content["application/json"]["schema"]), where
                if "multipart/form-data" in content:
                    assert content["multipart/form-data"]["example"], where


def has_example(document: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Whether /docs can show a likely value: one that is given, or one made of those of the parts."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if schema.keys() & {"examples", "enum", "const"} or schema.get("type") in {"boolean", "null"}:
        return True
    if "anyOf" in schema:
        return any(has_example(document, each) for each in schema["anyOf"] if each.get("type") != "null")
    if schema.get("type") == "array":
        return has_example(document, schema["items"])
    return "properties" in schema and all(has_example(document, each) for each in schema["properties"].values())


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_documentation_pages_need_no_other_host(api: httpx2.AsyncClient, page: str) -> None:
    origin = str(api.base_url.copy_with(path="/")).rstrip("/")
    html = (await api.get(f"{origin}{page}")).text
    links = [part.split('"')[0] for part in html.replace("'", '"').split('src="')[1:]]
    links += [part.split('"')[0] for part in html.replace("'", '"').split('href="')[1:]]
    assert links
    for link in links:
        address = urljoin(f"{origin}{page}", link)
        assert address.startswith(f"{origin}/"), link
        assert (await api.get(address)).status_code == 200, link


async def test_a_path_cannot_forge_log_lines(api: httpx2.AsyncClient) -> None:
    with logged_lines() as lines:
        await api.get("/x%0a2026-11-21%20ERROR%20forged%1b[31m" + "y" * 1000)
        [line] = await lines_with("forged", lines)
    assert "access GET /api/v1/x%0A2026" in line
    assert "\x1b" not in line
    assert len(line) < 350


def test_every_refusal_of_those_who_come_too_often_is_counted_as_one() -> None:
    # The base of the limits is not raised itself.
    assert {error for error in all_errors(AppError) if error.status == 429} - {LimitReached} <= set(REFUSALS)
