"""The local model on real photos: its weights must be there (`make model`), and nothing stands in for them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.categories import Category
from app.clients.base import ModelResult, PreparedPhoto
from app.clients.errors import ModelRejectedRequest, ModelUnreachable
from app.clients.local import LocalClient
from app.clients.local.client import describe
from app.clients.local.network import WeightsMissing, load_networks, open_session
from app.config.model import DescriptionLanguage
from tests.support.model_settings import model_settings

SAMPLES = Path(__file__).resolve().parents[3] / "docs" / "samples"


def sample(name: str) -> PreparedPhoto:
    return PreparedPhoto((SAMPLES / name).read_bytes())


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[LocalClient]:
    client = LocalClient(model_settings("local", max_concurrency=20, max_retries=0, timeout_seconds=60.0))
    await client.start()
    yield client
    await client.close()


@pytest.mark.parametrize(("name", "category"), [("cat.jpg", Category.PETS), ("coffee.jpg", Category.FOODS)])
async def test_sample_photos_get_a_sensible_answer(client: LocalClient, name: str, category: Category) -> None:
    result = await client.classify(sample(name))
    assert result.category is category
    assert result.confidence > 0.8
    probabilities = result.response["probabilities"]
    assert set(probabilities) == set(Category)
    assert sum(probabilities.values()) == pytest.approx(1, abs=0.001)
    assert probabilities[category] == result.confidence == max(probabilities.values())
    assert result.response["model"] == client.model


async def test_the_same_photo_gets_the_same_answer(client: LocalClient) -> None:
    assert await client.classify(sample("cat.jpg")) == await client.classify(sample("cat.jpg"))


async def test_the_model_is_named_by_itself_whatever_llm_model_says() -> None:
    client = LocalClient(model_settings("local", model="gpt-something"))
    assert client.model == LocalClient.default_model
    assert client.model.startswith("local/")
    assert len(client.model) <= 50


async def test_the_loop_stays_responsive_and_all_answers_are_right(client: LocalClient) -> None:
    names = ["cat.jpg", "coffee.jpg"] * 10
    alone = {name: await client.classify(sample(name)) for name in names[:2]}
    tasks = [asyncio.create_task(client.classify(sample(name))) for name in names]
    for _ in range(10):
        await asyncio.sleep(0)
    assert not all(task.done() for task in tasks), "the photos were looked at on the event loop"
    assert await asyncio.gather(*tasks) == [alone[name] for name in names]


async def test_callers_who_give_up_do_not_disturb_the_others(client: LocalClient) -> None:
    expected = await client.classify(sample("coffee.jpg"))
    tasks = [asyncio.create_task(client.classify(sample("cat.jpg"))) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert await client.classify(sample("coffee.jpg")) == expected


async def test_closing_answers_those_who_wait() -> None:
    client = LocalClient(model_settings("local", max_concurrency=20, max_retries=0, timeout_seconds=60.0))
    await client.start()
    tasks = [asyncio.create_task(client.classify(sample("cat.jpg"))) for _ in range(20)]
    await asyncio.sleep(0)
    await client.close()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, ModelResult | ModelUnreachable) for outcome in outcomes)
    with pytest.raises(ModelUnreachable):
        await client.classify(sample("cat.jpg"))


async def test_a_client_that_is_not_started_is_not_available() -> None:
    client = LocalClient(model_settings("local", max_retries=0))
    assert not (await client.health()).available
    with pytest.raises(ModelUnreachable):
        await client.classify(sample("cat.jpg"))


async def test_a_started_client_is_available(client: LocalClient) -> None:
    assert (await client.health()).available


@pytest.mark.parametrize("jpeg", [b"", b"not a picture", (SAMPLES / "cat.jpg").read_bytes()[:5000]])
async def test_bytes_that_are_no_photo_are_no_outage(client: LocalClient, jpeg: bytes) -> None:
    with pytest.raises(ModelRejectedRequest):
        await client.classify(PreparedPhoto(jpeg))
    assert (await client.health()).available


def test_sessions_are_loaded_once() -> None:
    assert load_networks() is load_networks()


def test_missing_and_foreign_weights_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"missing.*make model"):
        open_session("centerface.onnx", tmp_path)
    (tmp_path / "centerface.onnx").write_bytes(b"of another version")
    with pytest.raises(WeightsMissing, match=r"not those of this version.*make model"):
        open_session("centerface.onnx", tmp_path)


@pytest.mark.parametrize("category", Category)
def test_descriptions_are_different_when_the_model_is_not_sure(category: Category) -> None:
    for language in DescriptionLanguage:
        assert describe(category, 0.95, language) != describe(category, 0.5, language)
