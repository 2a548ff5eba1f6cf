"""A class with four methods as a model client: what it may say, what it may not, and how it fails."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from loguru import logger
from PIL import Image

from app.categories import Category
from app.clients.adapter import AdaptedModel, adapt
from app.clients.base import PreparedPhoto
from app.clients.errors import (
    ModelAnswerInvalid,
    ModelConfigurationError,
    ModelError,
    ModelRejectedRequest,
    ModelTimeout,
    ModelUnreachable,
)
from app.clients.registry import create_model_client
from tests.support.model_settings import model_settings

GOOD: dict[str, Any] = {"label": "cat", "confidence": 0.9}


class Model:
    """Says what `answer` says."""

    CATEGORIES = {"cat": "pets", 281: "pets"}  # noqa: RUF012 - as the documentation shows it
    answer: Any = GOOD
    loaded = 0

    def load_model(self) -> None:
        type(self).loaded += 1
        self.threads: set[str] = set()

    def preprocess(self, image: Image.Image) -> Any:
        assert image.mode == "RGB"
        self.threads.add(threading.current_thread().name)
        return image.size

    def predict(self, data: Any) -> Any:
        return data

    def postprocess(self, prediction: Any) -> Any:
        assert prediction == (320, 240)
        return self.answer


Make = Callable[..., Any]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Give a function that adapts and starts a subclass of `Model` with these attributes."""
    clients: list[AdaptedModel] = []

    async def started(*, timeout_seconds: float = 5.0, **attributes: Any) -> AdaptedModel:
        client = adapt(type("Mine", (Model,), attributes))(model_settings("x:Y", timeout_seconds=timeout_seconds))
        clients.append(client)
        await client.start()
        return client

    yield started
    for client in clients:
        await client.close()


async def test_it_is_loaded_once_and_works_in_a_thread_of_its_own(make: Make, photo: PreparedPhoto) -> None:
    client = await make()
    results = await asyncio.gather(*(client.classify(photo) for _ in range(5)))
    assert {(result.category, result.confidence, result.description) for result in results} == {
        (Category.PETS, 0.9, None)
    }
    assert client.model_class.loaded == 1
    assert client._loaded.threads == {"Mine_0"}
    assert (client.provider, client.model) == ("Mine", "tests.clients.test_adapter:Mine")
    assert results[0].response == {"model": client.model, "label": "cat"}
    assert (await client.health()).available


async def test_its_model_name_is_its_own(make: Make) -> None:
    client = adapt(type("Mine", (Model,), {"MODEL": "mine/2"}))(model_settings("x:Y", model="gpt-left-over"))
    assert client.model == "mine/2"
    await client.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"category": "foods", "confidence": 1}, (Category.FOODS, 1.0, None)),
        ({"label": "other", "confidence": 0}, (Category.OTHER, 0.0, None)),
        ({"label": np.int64(281), "confidence": np.float32(0.5)}, (Category.PETS, 0.5, None)),
        ({"label": np.str_("cat"), "confidence": np.float64(0.5)}, (Category.PETS, 0.5, None)),
        (GOOD | {"description": " a\n cat\x00 "}, (Category.PETS, 0.9, "a cat")),
        (GOOD | {"category": None}, (Category.PETS, 0.9, None)),
        (GOOD | {"description": "  "}, (Category.PETS, 0.9, None)),
        (GOOD | {"description": 7}, (Category.PETS, 0.9, None)),
        (GOOD | {"description": "x" * 9999}, (Category.PETS, 0.9, "x" * 500)),
    ],
)
async def test_answers(make: Make, photo: PreparedPhoto, answer: Any, expected: Any) -> None:
    result = await (await make(answer=answer)).classify(photo)
    assert (result.category, result.confidence, result.description) == expected


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "cat",
        [],
        {},
        GOOD | {"label": "dog"},
        GOOD | {"label": "Cat"},
        GOOD | {"label": None},
        GOOD | {"label": ["cat"]},
        GOOD | {"label": np.array([1, 2])},
        GOOD | {"confidence": 1.01},
        GOOD | {"confidence": -0.1},
        GOOD | {"confidence": float("nan")},
        GOOD | {"confidence": "0.9"},
        GOOD | {"confidence": True},
        GOOD | {"confidence": None},
        GOOD | {"confidence": np.array([0.9])},
    ],
)
async def test_what_is_no_answer(make: Make, photo: PreparedPhoto, answer: Any) -> None:
    with pytest.raises(ModelAnswerInvalid):
        await (await make(answer=answer)).classify(photo)


@pytest.mark.parametrize("method", ["preprocess", "predict", "postprocess"])
async def test_a_method_that_raises(make: Make, photo: PreparedPhoto, method: str) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("secret")

    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    try:
        with pytest.raises(ModelError) as raised:
            await (await make(**{method: fail})).classify(photo)
    finally:
        logger.remove(sink)
    assert raised.type is ModelError
    assert "KeyError in" in "".join(lines)
    assert "secret" not in "".join(lines)


async def test_a_load_that_fails_can_be_tried_again(make: Make, photo: PreparedPhoto) -> None:
    files: list[str] = []

    def load_model(_: Any) -> None:
        if not files:
            raise FileNotFoundError("weights")

    client = adapt(type("Mine", (Model,), {"load_model": load_model, "preprocess": lambda _, image: image.size}))(
        model_settings("x:Y")
    )
    with pytest.raises(ModelUnreachable):
        await client.start()
    with pytest.raises(ModelUnreachable):
        await client.classify(photo)
    files.append("weights")
    await client.start()
    assert (await client.classify(photo)).category is Category.PETS
    await client.close()


async def test_a_prediction_that_hangs_harms_nobody(make: Make, photo: PreparedPhoto) -> None:
    release = threading.Event()

    def predict(_: Any, data: Any) -> Any:
        release.wait(120)
        return data

    client = await make(predict=predict, timeout_seconds=0.05)
    try:
        with pytest.raises(ModelTimeout):
            await client.classify(photo)
        await asyncio.wait_for(client.close(), 1)
    finally:
        release.set()


async def test_as_many_threads_as_it_says(make: Make, photo: PreparedPhoto) -> None:
    meeting = threading.Barrier(3)

    def predict(_: Any, data: Any) -> Any:
        meeting.wait(5)
        return data

    client = await make(predict=predict, THREADS=3)
    await asyncio.gather(*(client.classify(photo) for _ in range(3)))


async def test_what_is_no_photo(make: Make) -> None:
    with pytest.raises(ModelRejectedRequest):
        await (await make()).classify(PreparedPhoto(b"nothing"))


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"CATEGORIES": {"cat": "animals"}}, "there is no category animals"),
        ({"CATEGORIES": ["cat"]}, "must be a dict"),
        ({"MODEL": ""}, "MODEL must be"),
        ({"MODEL": "x" * 101}, "MODEL must be"),
        ({"MODEL": 1}, "MODEL must be"),
        ({"THREADS": 0}, "THREADS must be"),
        ({"THREADS": "2"}, "THREADS must be"),
        ({"MODEL": "Local/x"}, "marks results of LLM_PROVIDER=local"),
        ({"predict": None}, "nor has it the methods"),
    ],
)
def test_what_cannot_be_adapted(attributes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in attributes.items():
        monkeypatch.setattr(Model, name, value, raising=False)
    with pytest.raises(ModelConfigurationError, match=said):
        create_model_client(model_settings(f"{__name__}:Model"))
