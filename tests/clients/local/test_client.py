"""The local model on real photos: its weights must be there (`make model`), and nothing stands in for them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from app.categories import Category
from app.clients.base import ModelResult, PreparedPhoto
from app.clients.errors import ModelConfigurationError, ModelRejectedRequest, ModelUnreachable
from app.clients.local import LocalClient, describing
from app.clients.local.classes import class_indices
from app.clients.local.describing import describe, recognise
from app.clients.local.features import Sight
from app.clients.local.head import Head, load_head, save_head
from app.clients.local.network import WeightsMissing, load_networks, open_session
from app.clients.registry import create_model_client
from app.language.accept import Language
from tests.support.model_settings import model_settings

NAMES = Path(describing.__file__).with_name("names.tsv")
SAMPLES = Path(__file__).resolve().parents[3] / "docs" / "samples"


NAMED = {"cat.jpg": "猫", "coffee.jpg": "咖啡"}


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
    assert result.description is not None
    assert NAMED[name] in result.description


async def test_the_same_photo_gets_the_same_answer(client: LocalClient) -> None:
    assert await client.classify(sample("cat.jpg")) == await client.classify(sample("cat.jpg"))


async def test_the_model_is_named_by_itself_whatever_llm_model_says() -> None:
    client = LocalClient(model_settings("local", model="gpt-something"))
    assert client.model == f"local/efficientnet-lite2/{load_head().version}"
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


async def test_another_head_answers_under_another_name(tmp_path: Path) -> None:
    shipped, file = load_head(), tmp_path / "head.npz"
    # It says what the shipped one says of the category before, in the order of the keys.
    save_head(Head(np.roll(shipped.weights, 1, axis=0), np.roll(shipped.bias, 1)), file)
    client = LocalClient(model_settings("local", local_head=file))
    assert (
        client.model
        == f"local/efficientnet-lite2/{load_head(file).version}"
        != LocalClient(model_settings("local")).model
    )
    await client.start()
    assert (await client.classify(sample("cat.jpg"))).category is Category.SINGLE_PERSON
    await client.close()


def test_a_head_that_cannot_be_used_is_named_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ModelConfigurationError, match=r"LOCAL_HEAD: .*head\.npz cannot be read"):
        create_model_client(model_settings("local", local_head=tmp_path / "head.npz"))


def seen(faces: int = 0, **classes: float) -> Sight:
    """What the network sees: c207=0.6 is class 207, a golden retriever, with probability 0.6."""
    probabilities = np.zeros(1000, np.float32)
    for name, probability in classes.items():
        probabilities[int(name[1:])] = probability
    return Sight(np.zeros(0, np.float32), probabilities, faces)


@pytest.mark.parametrize("category", Category)
def test_what_the_model_is_not_sure_of_it_does_not_say(category: Category) -> None:
    everything = seen(faces=3, c207=0.9, c963=0.9, c970=0.9)
    for language in Language:
        unsure = describe(category, 0.5, everything, language)
        assert unsure == describe(category, 0.5, seen(), language) != describe(category, 0.95, everything, language)


@pytest.mark.parametrize(
    ("category", "sight", "chinese", "english"),
    [
        (
            Category.PETS,
            seen(c207=0.9),
            "宠物萌照”，很可能是金毛寻回犬。",
            'Pet Photos", most likely: golden retriever.',
        ),
        (Category.PETS, seen(c207=0.3, c208=0.2), "宠物萌照”，很可能是狗。", 'Pet Photos", most likely: dog.'),
        (Category.PETS, seen(c207=0.3, c281=0.3), "宠物萌照”。", 'Pet Photos".'),
        (Category.PETS, seen(c963=0.9), "宠物萌照”。", 'Pet Photos".'),
        (Category.FOODS, seen(faces=1, c963=0.9), "美食记录”，很可能是比萨。", 'Food Records", most likely: pizza.'),
        (Category.SINGLE_PERSON, seen(1), "单人照片”，有 1 张人脸。", 'Single Person Photos", with 1 face.'),
        (Category.SOCIAL_ACTIVITIES, seen(5), "社交活动”，有 5 张人脸。", 'Social Activities", with 5 faces.'),
        (
            Category.SOCIAL_ACTIVITIES,
            seen(51),
            "社交活动”，有 10 张以上人脸。",
            'Social Activities", with more than 10 faces.',
        ),
        (Category.SINGLE_PERSON, seen(4), "单人照片”。", 'Single Person Photos".'),
        (Category.SOCIAL_ACTIVITIES, seen(1), "社交活动”。", 'Social Activities".'),
        (Category.IDCARD, seen(1, c207=0.9), "证件照”。", 'ID Card".'),
    ],
)
def test_what_the_model_is_sure_of_it_says(category: Category, sight: Sight, chinese: str, english: str) -> None:
    assert describe(category, 0.9, sight, Language.CHINESE).endswith(f"属于“{chinese}")
    assert describe(category, 0.9, sight, Language.ENGLISH).endswith(f' for "{english}')


def test_every_name_is_reached() -> None:
    """Each row is what is said of its classes, at the least of one of them."""
    rows = [line.split("\t") for line in NAMES.read_text(encoding="utf-8").splitlines()[1:]]
    unreached = [row for row in rows if not any(said(row[0], number) == row[3:] for number in class_indices(row[2]))]
    # Said where no breed is likely enough.
    assert [row[4] for row in unreached] == ["dog"]


def said(category: str, number: int) -> list[str]:
    name = recognise(Category(category), np.eye(1000, dtype=np.float32)[number])
    assert name is not None
    return [name.chinese, name.english]
