"""docs/adding-a-model.md does what it says: its class and its file, saved as shown, answer over HTTP."""

import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.registry import create_model_client, plugin_names
from app.config.model import ModelSettings
from app.config.settings import Settings
from app.main import create_app
from tests.fakes.images import jpeg_photo
from tests.support.documents import DOCS, code_blocks
from tests.support.library_api import person, upload
from tests.support.model_settings import model_settings
from tests.support.serving import serving

PAGE = DOCS / "adding-a-model.md"
SCRIPT = DOCS / "snippets" / "make_colours_onnx.py"


def models_setting() -> str:
    """The value of MODELS in the command that starts the service."""
    start = next(block for block in code_blocks(PAGE, "sh") if "MODELS=" in block)
    return next(word.removeprefix("MODELS=") for word in shlex.split(start) if word.startswith("MODELS="))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page tells to save."""
    [source] = code_blocks(PAGE, "python")
    (tmp_path / "colours.py").write_text(source)
    subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, check=True)  # noqa: S603 - our own interpreter and script
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "colours", raising=False)
    return tmp_path


def test_it_can_be_registered_by_an_entry_point(folder: Path) -> None:
    toml = textwrap.dedent(re.findall(r"^ *```toml\n(.*?)^ *```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)[0])
    [(group, points)] = tomllib.loads(toml)["project"]["entry-points"].items()
    metadata = folder / "colours-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: colours\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    assert plugin_names() == ["colours"]
    client = create_model_client(model_settings("colours"))
    assert (client.provider, client.model) == ("Colours", "colours/1")


async def test_it_can_be_the_model_of_the_service(folder: Path, settings: Settings, engine: AsyncEngine) -> None:
    provider = re.findall(r"LLM_PROVIDER=([\w.:]+)", PAGE.read_text())[0]
    model = settings.model.model_copy(update={"provider": provider})
    async with (
        serving(create_app(settings.model_copy(update={"model": model}))) as url,
        httpx2.AsyncClient(base_url=url, timeout=120) as service,
    ):
        files = {"image": ("x.jpg", jpeg_photo(colour=(51, 153, 51)), "image/jpeg")}
        answers = [(await service.post("/api/v1/classify", files=files)).json() for _ in range(2)]
        assert [(answer["data"]["category"], answer["from_cache"]) for answer in answers] == [
            ("travel_scenery", False),
            ("travel_scenery", True),
        ]
        names = [(item["name"], item["model"]) for item in (await service.get("/models")).json()["items"]]
        assert names[0] == ("Colours", "colours/1")


async def test_the_example_answers(folder: Path, settings: Settings, engine: AsyncEngine) -> None:
    further = ModelSettings.model_validate({"MODELS": models_setting()}).further_models
    model = settings.model.model_copy(update={"further_models": further})
    app = create_app(settings.model_copy(update={"model": model}))
    async with serving(app) as url, httpx2.AsyncClient(base_url=url, timeout=120) as service:
        headers = await person(service)
        for colour, label, category in (
            ((51, 153, 51), "grass", "travel_scenery"),
            ((102, 153, 242), "sky", "travel_scenery"),
            ((204, 102, 51), "plate", "foods"),
            ((242, 242, 242), "paper", "screenshot"),
        ):
            image = (await upload(service, headers, jpeg_photo(colour=colour))).json()
            body = {"image_id": image["id"], "model_name": "colours"}
            answer = await service.post("/images/inference", headers=headers, json=body)
            assert answer.status_code == 200, answer.text
            said = answer.json()
            assert (said["model"], said["category"], said["description"]) == (
                "colours/1",
                category,
                f"Its colour is that of {label}.",
            )
            assert said["confidence"] > 0.9
        names = [item["name"] for item in (await service.get("/models")).json()["items"]]
        assert names == ["custom", "colours", "default", "dummy"]
