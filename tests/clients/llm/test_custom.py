import pytest

from app.clients.base import PreparedPhoto
from app.clients.errors import ModelConfigurationError
from app.clients.llm.custom import CustomClient
from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.fakes.model_server import FakeModelServer
from tests.support.model_settings import MakeClient, model_settings


async def test_key_is_optional_and_no_other_key_is_sent(
    monkeypatch: pytest.MonkeyPatch, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "ambient")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "ambient")
    server.api_key = None
    client = await make_client("custom", api_key=None)
    await client.classify(photo)
    assert (await client.health()).available
    assert "authorization" not in server.calls[0].headers


@pytest.mark.parametrize(
    ("missing", "named"), [({"base_url": None, "model": "m"}, "LLM_BASE_URL"), ({"model": None}, "LLM_MODEL")]
)
def test_address_and_model_are_required(missing: dict[str, None], named: str) -> None:
    with pytest.raises(ModelConfigurationError, match=named):
        CustomClient(model_settings("custom", **{"base_url": "http://127.0.0.1:9/v1"} | missing))


async def test_server_without_a_list_of_models_is_well(server: FakeModelServer, make_client: MakeClient) -> None:
    server.lists_models = False
    assert (await (await make_client("custom")).health()).available


@pytest.mark.parametrize(
    ("listed", "asked", "available"),
    [
        ("llava:latest", "llava", True),
        ("llava:13b", "llava:latest", True),
        ("models/gemini-flash", "gemini-flash", True),
        ("qwen3-vl", "Qwen/Qwen3-VL", True),
        ("llama3", "llava", False),
    ],
)
async def test_names_differ_between_list_and_request(
    listed: str,
    asked: str,
    available: bool,
    server: FakeModelServer,
    make_client: MakeClient,
) -> None:
    server.models = (listed,)
    assert (await (await make_client("custom", model=asked)).health()).available is available


@pytest.mark.parametrize("owner", ["openrouter", "custom", "openai", "system", "library", "vllm", "llamacpp"])
async def test_only_a_server_that_runs_its_models_proves_that_one_is_missing(
    owner: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    """Routers take names that they do not list, such as OpenRouter's aliases and one-api's mappings."""
    server.models, server.owned_by = ("listed",), owner
    health = await (await make_client("custom", model="vendor/alias:free")).health()
    assert health.available is (owner not in {"library", "vllm", "llamacpp"})


@pytest.mark.parametrize("provider", ["openai", "claude"])
async def test_a_proxy_without_the_path_of_a_model_is_well(provider: str, make_client: MakeClient) -> None:
    async def handler(_: HTTPRequest) -> HTTPResponse:
        return HTTPResponse(404, b'{"detail": "Not Found"}')

    with running_http_server(handler) as url:
        assert (await (await make_client(provider, base_url=url)).health()).available


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": null}', b'{"data": []}', b'{"data": [{"id": 7}]}'])
async def test_list_that_is_none_is_no_failure(body: bytes, make_client: MakeClient) -> None:
    async def handler(_: HTTPRequest) -> HTTPResponse:
        return HTTPResponse(body=body)

    with running_http_server(handler) as url:
        assert (await (await make_client("custom", base_url=url)).health()).available


async def test_server_that_is_away_is_a_failure(make_client: MakeClient) -> None:
    health = await (await make_client("custom", base_url="http://127.0.0.1:9/v1")).health()
    assert (health.available, health.last_error_code) == (False, "model_unreachable")
