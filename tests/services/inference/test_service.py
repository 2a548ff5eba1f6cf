"""Inference without HTTP: what a task relies on, and what the catalogue refuses."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import ModelClient
from app.clients.errors import ModelConfigurationError
from app.clients.registry import create_model_client
from app.config.model import ModelSettings
from app.config.settings import Settings
from app.errors import ImageNotFound, UnknownModel
from app.resources import Resources, open_resources
from app.services.accounts.rows import Account
from app.services.inference.catalogue import ModelCatalogue
from app.services.photos import UploadedPhoto
from tests.fakes.counted_model import CountedModel
from tests.fakes.images import jpeg_photo
from tests.fakes.model_server import FakeModelServer
from tests.support.model_settings import model_settings

HERE = "tests.fakes.counted_model"
TASK = "t" * 32


@pytest.fixture
async def resources(settings: Settings, engine: AsyncEngine) -> AsyncIterator[Resources]:
    """What a process opens, on an empty database."""
    model = settings.model.model_copy(update={"further_models": {"counted": f"{HERE}:CountedModel"}})
    CountedModel.reset()
    library = settings.library.model_copy(update={"shares_results": True})
    async with open_resources(settings.model_copy(update={"model": model, "library": library})) as opened:
        yield opened


@pytest.fixture
async def account(resources: Resources) -> Account:
    return await resources.accounts.register("testuser", "test@example.com", "testpassword123")


@pytest.fixture
async def image_id(resources: Resources, account: Account) -> int:
    data = jpeg_photo()
    return (await resources.library.add(account.id, UploadedPhoto(data, hashlib.sha256(data).hexdigest()))).id


@pytest.mark.parametrize("name", ["custom", "counted"])
async def test_a_task_has_one_result_however_often_it_runs(
    resources: Resources, account: Account, image_id: int, name: str
) -> None:
    infer = resources.inference.infer
    at_once = await asyncio.gather(*(infer(account.id, image_id, name, task_id=TASK) for _ in range(4)))
    later = await infer(account.id, image_id, name, task_id=TASK)
    assert {inference.id for inference in at_once} == {later.id}
    assert later.task_id == TASK
    assert await resources.inference.results.get(account.id, later.id) == later
    _, total = await resources.inference.results.page(account.id, skip=0, limit=10)
    assert total == 1


async def test_it_asks_for_the_specifications_name_by_default(
    resources: Resources, account: Account, image_id: int
) -> None:
    inference = await resources.inference.infer(account.id, image_id)
    assert (inference.model_name, inference.model[:6]) == ("dummy", "test-v")


async def test_what_is_not_there(resources: Resources, account: Account, image_id: int) -> None:
    with pytest.raises(UnknownModel):
        await resources.inference.infer(account.id, image_id, "nonsense")
    with pytest.raises(UnknownModel):
        resources.models.check("nonsense")
    with pytest.raises(ImageNotFound):
        await resources.inference.infer(account.id + 1, image_id, "counted")


async def test_a_service_that_ends_keeps_what_is_under_way(
    settings: Settings, engine: AsyncEngine, resources: Resources, account: Account, image_id: int
) -> None:
    CountedModel.may_answer.clear()
    asked = asyncio.create_task(resources.inference.infer(account.id, image_id, "counted"))
    async with asyncio.timeout(120):
        while not CountedModel.calls:  # noqa: ASYNC110 - it counts in a thread
            await asyncio.sleep(0.01)
    asked.cancel()
    closing = asyncio.create_task(resources.inference.close())
    await asyncio.sleep(0)
    assert not closing.done()
    CountedModel.may_answer.set()
    await closing
    _, total = await resources.inference.results.page(account.id, skip=0, limit=10)
    assert total == 1


async def test_a_picture_that_is_deleted_meanwhile_costs_the_other_requests_no_second_call(
    resources: Resources, account: Account, image_id: int
) -> None:
    other = await resources.accounts.register("other", "other@example.com", "testpassword123")
    data = jpeg_photo()
    upload = UploadedPhoto(data, hashlib.sha256(data).hexdigest())
    other_image_id = (await resources.library.add(other.id, upload)).id
    CountedModel.may_answer.clear()
    first = asyncio.create_task(resources.inference.infer(account.id, image_id, "counted"))
    async with asyncio.timeout(120):
        while not CountedModel.calls:  # noqa: ASYNC110 - it counts in a thread
            await asyncio.sleep(0.01)
    others = [
        asyncio.create_task(resources.inference.infer(other.id, other_image_id, "counted", task_id=f"{number}" * 32))
        for number in range(2)
    ]
    await asyncio.sleep(0.1)
    await resources.library.delete(account.id, image_id)
    CountedModel.may_answer.set()
    with pytest.raises(ImageNotFound):
        await first
    assert [(each.category, each.from_cache) for each in await asyncio.gather(*others)] == [("pets", True)] * 2
    later = await resources.inference.infer(other.id, other_image_id, "counted")
    assert later.from_cache
    assert CountedModel.calls == 1


def client_of(settings: ModelSettings) -> ModelClient:
    return create_model_client(settings)


@pytest.mark.parametrize("name", ["default", "dummy", "local", "custom", "openai", "claude"])
async def test_names_that_mean_something_else(name: str, model_server: FakeModelServer) -> None:
    settings = model_settings("custom", base_url=model_server.openai_url, model="m", further_models={name: "a:B"})
    client = client_of(settings)
    with pytest.raises(ModelConfigurationError, match=f"MODELS: {name} means something else already"):
        ModelCatalogue(client, settings)
    await client.close()


async def test_the_local_model_may_be_the_services() -> None:
    settings = model_settings("local")
    client = client_of(settings)
    models = ModelCatalogue(client, settings)
    assert [(choice.name, choice.alias_of) for choice in models.choices()] == [
        ("local", None),
        ("default", "local"),
        ("dummy", "local"),
    ]
    assert await models.client_of("dummy") is client
    await models.close()
    await client.close()


@pytest.mark.parametrize(
    ("provider", "local_model", "offered"),
    [
        ("local", None, True),
        ("local", "on", True),
        ("custom", None, False),
        ("custom", "on", True),
        ("custom", "off", False),
    ],
)
def test_whether_the_local_model_can_be_chosen(provider: str, local_model: str | None, offered: bool) -> None:
    values = {"LLM_PROVIDER": provider} | ({} if local_model is None else {"LOCAL_MODEL": local_model})
    assert ModelSettings.model_validate(values).offers_local is offered


def test_the_services_own_model_cannot_be_switched_off() -> None:
    with pytest.raises(ValueError, match="LOCAL_MODEL=off needs another LLM_PROVIDER"):
        ModelSettings.model_validate({"LLM_PROVIDER": "local", "LOCAL_MODEL": "off"})


async def test_a_class_may_be_the_services() -> None:
    settings = model_settings(f"{HERE}:CountedModel")
    client = client_of(settings)
    models = ModelCatalogue(client, settings)
    assert [choice.name for choice in models.choices()] == ["CountedModel", "default", "dummy"]
    await models.close()
    await client.close()


class KeyedClient(ModelClient):
    """Remembers what it was given."""

    provider = "keyed"
    default_model = "keyed-1"

    async def _classify(self, photo: object) -> None:  # type: ignore[override]
        raise NotImplementedError


async def test_further_models_do_not_see_the_providers_key(model_server: FakeModelServer) -> None:
    further = {"keyed": f"{__name__}:KeyedClient"}
    settings = model_settings("custom", base_url=model_server.openai_url, model="m", further_models=further)
    client = client_of(settings)
    models = ModelCatalogue(client, settings)
    keyed = await models.client_of("keyed")
    assert (keyed.settings.api_key, keyed.settings.base_url, keyed.model) == (None, None, "keyed-1")
    assert keyed is await models.client_of("keyed")
    await models.close()
    await client.close()


@pytest.mark.parametrize(
    "text",
    ["a", "a=b", "a=b:", "=a:B", "a=a:B,a=a:C", "a b=a:B", f"{'a' * 101}=a:B", "a=..a:B", "-a=a:B", "a=a:B;b=c:D"],
)
def test_what_models_must_not_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"MODELS|further_models"):
        ModelSettings.model_validate({"MODELS": text})


def test_what_models_may_be() -> None:
    settings = ModelSettings.model_validate({"MODELS": " res-net.50=my.models:ResNet , b=c:D.E,"})
    assert settings.further_models == {"res-net.50": "my.models:ResNet", "b": "c:D.E"}
