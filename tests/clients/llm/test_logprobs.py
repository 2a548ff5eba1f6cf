"""From tokens to the probabilities of the categories, whatever the tokens are and whatever a server puts there."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from app.categories import Category
from app.clients.base import PreparedPhoto
from app.clients.calibration import write_temperature
from app.clients.llm.logprobs import category_probabilities
from tests.fakes.model_replies import answer, likely, raw
from tests.fakes.model_server import FakeModelServer
from tests.support.model_settings import MakeClient


def token(text: str, probability: float = 1.0, **others: float) -> SimpleNamespace:
    ways = [SimpleNamespace(token=text, logprob=math.log(probability))]
    ways += [SimpleNamespace(token=other, logprob=math.log(p)) for other, p in others.items()]
    return SimpleNamespace(token=text, logprob=math.log(probability), top_logprobs=ways)


HEAD, TAIL = token('{"category": "'), token('", "confidence": 0.9}')


def test_one_token_for_each_category() -> None:
    found = category_probabilities([HEAD, token("pets", 0.7, foods=0.2, other=0.05, Hm=0.05), TAIL])
    assert found is not None
    assert found[Category.PETS] == pytest.approx(0.7 / 0.95)
    assert found[Category.FOODS] == pytest.approx(0.2 / 0.95)
    assert sum(found.values()) == pytest.approx(1.0)


def test_the_categories_may_share_a_beginning() -> None:
    """s|ingle|_person, where the second token decides."""
    tokens = [HEAD, token("s", 0.9, pets=0.1), token("ingle", 0.6, ocial=0.4), token("_person"), TAIL]
    found = category_probabilities(tokens)
    assert found is not None
    assert found[Category.SINGLE_PERSON] == pytest.approx(0.54)
    assert found[Category.SOCIAL_ACTIVITIES] == pytest.approx(0.36)
    assert found[Category.PETS] == pytest.approx(0.1)


def test_a_token_may_hold_the_quotation_mark() -> None:
    ways = {' "foods': 0.25, "foods": 0.05}
    tokens = [token('{"category":'), token(' "pets', 0.7, **ways), token('",'), token(' "confidence": 1}')]
    found = category_probabilities(tokens)
    assert found is not None
    # Without the mark it is no JSON.
    assert found == pytest.approx({Category.PETS: 0.7 / 0.95, Category.FOODS: 0.25 / 0.95})


def test_a_way_that_ends_there_is_a_category_only_if_it_is_whole() -> None:
    found = category_probabilities([HEAD, token("pet", 0.5, **{'other"': 0.3, 'oth"': 0.2}), token("s"), TAIL])
    assert found is not None
    assert found == pytest.approx({Category.PETS: 0.625, Category.OTHER: 0.375})


def test_the_last_answer_counts() -> None:
    drafts = [HEAD, token("foods", 0.9), token('"} No: '), HEAD, token("pets", 0.8, foods=0.2), TAIL]
    found = category_probabilities(drafts)
    assert found is not None
    assert found[Category.PETS] == pytest.approx(0.8)


@pytest.mark.parametrize(
    "content",
    [
        *(None, [], "text", 7, [None], [{"token": "a"}], [SimpleNamespace(token="a", logprob="x", top_logprobs=[])]),
        [SimpleNamespace(token=3, logprob=0.0, top_logprobs=None)],
        [HEAD, SimpleNamespace(token="pets", logprob=float("nan"), top_logprobs=[]), TAIL],
        [HEAD, SimpleNamespace(token="pets", logprob=-9999.0, top_logprobs=[]), TAIL],
        [HEAD, token("cats"), TAIL],
        [token("no JSON")],
        [HEAD] * 20_001,
    ],
)
def test_what_cannot_be_read_is_nothing(content: object) -> None:
    assert category_probabilities(content) is None


def test_hostile_neighbours_are_passed_over() -> None:
    odd: Any = [None, 3, SimpleNamespace(token="foods", logprob=True), SimpleNamespace(token="foods", logprob=50.0)]
    tokens = [HEAD, SimpleNamespace(token="pets", logprob=0.0, top_logprobs=odd), TAIL]
    assert category_probabilities(tokens) == {Category.PETS: 0.5, Category.FOODS: 0.5}


# ----- in a client


@pytest.mark.parametrize("provider", ["openai", "custom"])
async def test_confidence_is_that_of_the_tokens(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.default = likely("pets", pets=0.6, foods=0.4)
    result = await (await make_client(provider)).classify(photo)
    assert (server.calls[0].body["logprobs"], server.calls[0].body["top_logprobs"]) == (True, 5)
    assert result.category is Category.PETS
    assert result.confidence == pytest.approx(0.6)
    assert result.response["confidence_source"] == "logprobs"
    assert result.response["probabilities"]["foods"] == pytest.approx(0.4, abs=1e-5)


async def test_a_fitted_temperature_is_used(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto, tmp_path: Any
) -> None:
    file = tmp_path / "calibration.json"
    write_temperature(file, "openai/gpt-6-luna", 2.0)
    server.default = likely("pets", pets=0.9, foods=0.1)
    result = await (await make_client("openai", calibration_file=file)).classify(photo)
    # The square roots of both, and a little for six others.
    assert result.confidence == pytest.approx(0.75, abs=0.01)
    assert (result.response["confidence_source"], result.response["temperature"]) == ("calibrated", 2.0)
    assert result.response["probabilities"]["pets"] == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize("provider", ["openai", "custom", "claude"])
async def test_without_them_the_model_speaks_for_itself(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    result = await (await make_client(provider)).classify(photo)
    assert (result.confidence, result.response["confidence_source"]) == (0.93, "self_reported")
    assert "probabilities" not in result.response


@pytest.mark.parametrize("provider", ["openai", "custom"])
async def test_a_server_that_refuses_them_is_asked_without(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.refuses = {"logprobs"}
    client = await make_client(provider)
    for _ in range(2):
        assert (await client.classify(photo)).response["confidence_source"] == "self_reported"
    assert ["logprobs" in call.body for call in server.calls] == [True, False, False]


async def test_tokens_of_another_answer_do_not_count(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    text = json.dumps({"category": "idcard", "confidence": 0.5})
    tokens = [{"token": '{"category": "', "logprob": 0}, {"token": "pets", "logprob": 0}, {"token": '"}', "logprob": 0}]
    choice = {"message": {"content": text}, "logprobs": {"content": tokens}}
    server.script(raw(json.dumps({"choices": [choice]}).encode()), answer(text))
    result = await (await make_client("openai")).classify(photo)
    assert (result.category, result.confidence) == (Category.IDCARD, 0.5)
    assert result.response["confidence_source"] == "self_reported"
