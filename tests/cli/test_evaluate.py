"""`evaluate`: a model behind HTTP is asked about labelled photos, once, after the price was told."""

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.categories import Category
from app.clients.calibration import ConfidenceSource
from app.config.settings import Settings
from app.evaluation.answers import Answer, AnswerFile
from app.evaluation.candidates import find_candidate
from tests.fakes.model_replies import failure, likely, refusal
from tests.fakes.model_server import API_KEY, FakeModelServer
from tests.servers.waiting import wait_until
from tests.support.command_line import Done, run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pets and two foods, one of them twice, and a file that is no photo."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("pets/1", "pets/2", "pets/3", "foods/4", "foods/<b>5", "foods/same")):
        file = folder / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (40 * min(number, 4), 90, 160)).save(file)
    (folder / "foods" / "notes.txt").write_text("no photo", encoding="utf-8")
    return folder


@pytest.fixture
def server(model_server: FakeModelServer) -> Iterator[FakeModelServer]:
    """A model that takes everything for a pet, by log-probabilities."""
    model_server.default = likely("pets", pets=0.8, foods=0.2)
    yield model_server
    assert model_server.violations == []


def variables(server: FakeModelServer, **more: str) -> dict[str, Any]:
    return {
        "LLM_PROVIDER": "custom",
        "LLM_BASE_URL": server.openai_url,
        "LLM_API_KEY": API_KEY,
        "LLM_MODEL": "test-vision",
        "LLM_PRICE_INPUT_PER_MTOK": "2",
        "LLM_PRICE_OUTPUT_PER_MTOK": "10",
        "LLM_MAX_RETRIES": "0",
        "CURRENCY": "EUR",
        **more,
    }


async def evaluate(photos: Path, environment: dict[str, Any], *arguments: str) -> Done:
    return await run("evaluate", str(photos), *arguments, cwd=photos.parent, **environment)


async def test_a_paid_model_is_asked_once_after_its_price_was_told(photos: Path, server: FakeModelServer) -> None:
    environment = variables(server)
    told = await evaluate(photos, environment)
    assert told.status == 2
    assert "custom test-vision: 5 of 5 photos are to be asked, about 0.0" in told.messages
    assert "Say --yes" in told.messages
    assert server.call_count == 0

    done = await evaluate(photos, environment, "--yes", "--json", "--html", "report.html")
    assert done.status == 0, done.messages
    assert server.call_count == 5
    mistakes = json.loads(done.output)["models"][0]["mistakes"]
    assert [(each["truth"], each["category"]) for each in mistakes] == [("foods", "pets")] * 2
    assert "notes.txt: not a photo" in done.messages
    result = json.loads(done.output)
    assert result["comparison"] is None
    [report] = result["models"]
    assert (report["photos"], report["accuracy"]["part"], report["accuracy"]["whole"]) == (5, 3, 5)
    assert report["accuracy"]["low"] < 0.6 < report["accuracy"]["high"]
    assert report["categories"]["pets"]["recall"]["value"] == 1
    assert report["categories"]["pets"]["precision"]["value"] == 0.6
    assert report["confusion"]["foods"]["pets"] == 2
    calibration, spent = report["calibration"], report["spent"]
    assert calibration["sources"] == {"logprobs": 5}
    assert calibration["expected_calibration_error"] == pytest.approx(0.2)
    assert [band["right"]["whole"] for band in calibration["curve"]] == [5]
    # 1300 tokens in, 40 out, by the fake server.
    assert (spent["input_tokens"], spent["output_tokens"], spent["currency"]) == (6500, 200, "EUR")
    assert spent["cost"] == pytest.approx(0.015)
    assert spent["cost_per_thousand"] == pytest.approx(3.0)
    assert spent["p95_ms"] > 0

    page = await asyncio.to_thread((photos.parent / "report.html").read_text, encoding="utf-8")
    assert "&lt;b&gt;5" in page
    assert "<b>5" not in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert not [word for word in ("http:", "https:", "<script", "<link", "url(", 'src="/') if word in page]
    assert "宠物萌照" in page
    assert "Pet Photos" in page

    # The operator has not agreed, so what was paid for is not forgotten.
    assert (await evaluate(photos, environment, "--fresh")).status == 2
    again = await evaluate(photos, environment)
    assert again.status == 0, again.messages
    assert server.call_count == 5
    assert "0.600 (0.231 to 0.882; 3 of 5)" in again.output
    assert (await evaluate(photos, environment, "--fresh", "--yes")).status == 0
    assert server.call_count == 10


async def test_what_was_stopped_goes_on(photos: Path, server: FakeModelServer) -> None:
    environment = variables(server)
    usual = server.default
    server.script(usual, failure(500), refusal())
    server.default = failure(500)
    stopped = await evaluate(photos, environment, "--yes", "--concurrency", "1")
    assert stopped.status == 1
    assert "model_unreachable" in stopped.messages
    assert "3 photos were not asked" in stopped.messages
    assert server.call_count == 5
    server.default = usual
    done = await evaluate(photos, environment, "--yes", "--json")
    assert done.status == 0, done.messages
    assert server.call_count == 8
    [report] = json.loads(done.output)["models"]
    # A refused photo counts as wrong.
    assert (report["photos"], report["errors"]) == (5, {"model_refused": 1})
    assert report["confusion"]["foods"][""] + report["confusion"]["pets"][""] == 1


async def test_ctrl_c_waits_for_what_is_paid(photos: Path, server: FakeModelServer) -> None:
    server.script(server.default, server.default.delayed(3.0))

    async def second_call() -> None:
        await asyncio.to_thread(wait_until, lambda: server.call_count == 2, "the second call")

    environment = variables(server)
    arguments = ("evaluate", photos, "--yes", "--concurrency", "1")
    stopped = await run(*arguments, cwd=photos.parent, interrupt_when=second_call, **environment)
    assert stopped.status == 130, stopped.messages
    assert "Waiting for the photos under way" in stopped.messages
    assert "3 photos were not asked" in stopped.messages
    done = await evaluate(photos, environment, "--yes", "--json")
    assert json.loads(done.output)["models"][0]["photos"] == 5
    assert server.call_count == 5


async def test_a_model_that_cannot_see_is_noticed_at_once(photos: Path, server: FakeModelServer) -> None:
    server.refuses = {"image"}
    done = await evaluate(photos, variables(server), "--yes", "--concurrency", "1")
    assert done.status == 1
    assert "model_rejected_request" in done.messages
    assert "5 photos were not asked" in done.messages


async def test_two_models_side_by_side(photos: Path, server: FakeModelServer) -> None:
    environment = variables(server)
    await evaluate(photos, environment, "--yes")
    other = photos.parent / "other.env"
    lines = {"LLM_PROVIDER": "claude", "LLM_BASE_URL": server.anthropic_url, "LLM_API_KEY": API_KEY}
    prices = {"LLM_PRICE_INPUT_PER_MTOK": 4, "LLM_PRICE_OUTPUT_PER_MTOK": 20}
    await asyncio.to_thread(other.write_text, "\n".join(f"{name}={value}" for name, value in (lines | prices).items()))
    server.default = likely("foods", foods=1.0)
    done = await evaluate(photos, environment, "--yes", "--json", "--against", "other.env")
    assert done.status == 0, done.messages
    assert server.call_count == 10
    result = json.loads(done.output)
    assert [report["accuracy"]["part"] for report in result["models"]] == [3, 2]
    assert result["models"][1]["calibration"]["sources"] == {"self_reported": 5}
    between = result["comparison"]
    assert (between["photos"], between["points"]) == (5, pytest.approx(-20))
    assert between["test"] == {"only_first": 3, "only_second": 2, "p_value": 1.0}
    assert between["cost_per_thousand"] == pytest.approx(3.0)
    # Worse and dearer: no price makes that a gain.
    assert between["cost_per_point"] is None
    assert API_KEY not in done.output + done.messages
    shown = await evaluate(photos, environment, "--against", "other.env")
    assert "McNemar's exact test p = 1.0000" in " ".join(shown.output.split())


async def test_two_prompts_are_two_sets_of_answers(photos: Path, server: FakeModelServer) -> None:
    prompt = photos.parent / "short.txt"
    await asyncio.to_thread(prompt.write_text, "Everything is food.", encoding="utf-8")
    done = await evaluate(photos, variables(server), "--yes", "--json", "--against-prompt", "short.txt")
    assert done.status == 0, done.messages
    assert [report["model"] for report in json.loads(done.output)["models"]] == [
        "custom test-vision",
        "custom test-vision (short.txt)",
    ]
    said = {call.body["messages"][0]["content"] for call in server.calls}
    assert len(said) == 2
    assert "Everything is food." in said
    files = await asyncio.to_thread(os.listdir, photos.parent / "data" / "evaluations")
    assert len(files) == 2


async def test_calibration_needs_photos_and_is_kept(tmp_path: Path, server: FakeModelServer) -> None:
    folder = tmp_path / "photos"
    for number in range(100):
        file = folder / ("pets" if number % 10 < 7 else "foods") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number, 0, 0)).save(file)
    environment = variables(server, CALIBRATION_FILE=str(tmp_path / "kept" / "calibration.json"))
    server.default = likely("pets", pets=0.95, foods=0.05)
    done = await evaluate(folder, environment, "--yes", "--calibrate", "--json", "--concurrency", "8")
    assert done.status == 0, done.messages
    kept = json.loads(await asyncio.to_thread((tmp_path / "kept" / "calibration.json").read_text, encoding="utf-8"))
    assert kept["models"]["custom/test-vision"]["temperature"] > 1.5
    calibration = json.loads(done.output)["models"][0]["calibration"]
    assert calibration["sources"] == {"calibrated": 100}
    assert calibration["expected_calibration_error"] < 0.1


async def test_what_cannot_be_evaluated_is_told(photos: Path, server: FakeModelServer) -> None:
    environment = variables(server)
    for arguments, words in (
        (("--provider", "nobody"), "LLM_... variables"),
        (("--against", "custom"), "the same model with the same prompt"),
        (("--html", "missing/report.html"), "no folder missing"),
        (("--calibrate", "--prompt", "photos/foods/notes.txt"), "the prompt that the service asks with"),
        (("--against", "claude"), "needs LLM_API_KEY"),
        (("--provider", "local", "--prompt", "photos/foods/notes.txt"), "takes no prompt"),
    ):
        done = await evaluate(photos, environment, *arguments)
        assert done.status == 2, done.messages
        assert words in " ".join(done.messages.split())
        assert "Traceback" not in done.messages
    empty = photos.parent / "empty"
    await asyncio.to_thread(empty.mkdir)
    assert (await evaluate(empty, environment)).status == 2
    assert server.call_count == 0


async def test_thresholds_of_the_cascade_are_chosen_and_what_it_saves_is_told(
    server: FakeModelServer, tmp_path: Path
) -> None:
    """The local model has looked at the photos before: it is right about all pets, and about half of the rest."""
    environment = variables(
        server, CASCADE_FILE=str(tmp_path / "kept" / "cascade.json"), DATA_DIR=str(tmp_path / "data")
    )
    settings = Settings(data_dir=tmp_path / "data")
    local = find_candidate("local", None, settings)
    answers = AnswerFile(settings.data_dir / "evaluations", local.client.model, local.key)
    folder = tmp_path / "photos"
    for number in range(120):
        truth = Category.PETS if number < 80 else Category.FOODS
        said = truth if number % 2 or truth is Category.PETS else Category.OTHER
        file = folder / truth / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (2 * number, 250 - 2 * number, 31 * number % 256)).save(file)
        likely = dict.fromkeys(Category, 0.004) | {said: 0.97 if truth is Category.PETS else 0.6}
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        answers.keep(Answer(digest, 0.1, said, likely[said], ConfidenceSource.PROBABILITIES, likely))
    answers.close()

    done = await evaluate(folder, environment, "--cascade", "--json")
    assert done.status == 0, done.messages
    assert server.call_count == 0
    result = json.loads(done.output)
    assert (result["photos"], result["answered"]["part"], result["right"]["part"]) == (120, 80, 80)
    assert result["categories"]["pets"]["sure_from"] == 0.97
    assert result["categories"]["foods"]["sure_from"] is None
    with_cascade, alone = result["cost_per_thousand"]
    assert with_cascade == pytest.approx(alone / 3)
    kept = json.loads((tmp_path / "kept" / "cascade.json").read_text(encoding="utf-8"))
    assert list(kept["models"]) == [local.client.model]

    table = await evaluate(folder, environment, "--cascade")
    assert "answered locally" in table.output
    assert "0.667" in table.output
    few = await evaluate(folder / "pets", environment, "--cascade")
    assert few.status == 2
    wrong = await evaluate(folder, environment, "--cascade", "--calibrate")
    assert wrong.status == 2
    assert "--cascade takes" in wrong.messages
