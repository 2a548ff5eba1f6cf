import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from app.clients.base import ModelClient, ModelResult, PreparedPhoto
from app.clients.errors import ModelConfigurationError
from app.clients.registry import BUILT_IN_PROVIDERS, create_model_client
from app.config.model import MODEL_NAME_MAX_LENGTH, ModelSettings
from tests.support.model_settings import model_settings

HERE = "tests.clients.test_registry"


class OddClient(ModelClient):
    provider: ClassVar[str] = "odd"
    default_model: ClassVar[str] = "odd-1"

    async def _classify(self, photo: PreparedPhoto) -> ModelResult:
        raise NotImplementedError


class ExplodingClient(OddClient):
    def __init__(self, settings: ModelSettings) -> None:
        raise RuntimeError(f"key {settings.api_key.get_secret_value() if settings.api_key else ''}")


class NamelessClient(ModelClient):
    async def _classify(self, photo: PreparedPhoto) -> ModelResult:
        raise NotImplementedError


class AbstractClient(ModelClient):
    provider: ClassVar[str] = "abstract"
    default_model: ClassVar[str] = ""


def refusal(provider: str, **fields: Any) -> str:
    with pytest.raises(ModelConfigurationError) as raised:
        create_model_client(model_settings(provider, **fields))
    return str(raised.value)


@pytest.mark.parametrize("provider", ["openai", "claude", "custom"])
async def test_built_in_provider(provider: str) -> None:
    client = create_model_client(model_settings(provider, base_url="http://127.0.0.1:9/v1", model="m"))
    assert (client.provider, client.model) == (provider, "m")
    await client.close()


def test_class_by_its_own_name() -> None:
    client = create_model_client(model_settings(f"{HERE}:OddClient"))
    assert isinstance(client, OddClient)
    assert client.model == "odd-1"


def test_plugin_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "odd_models-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-models\nVersion: 1.0\n")
    points = f"[image_classifier.models]\nodd = {HERE}:OddClient\nlocal = {HERE}:OddClient\n"
    (metadata / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert isinstance(create_model_client(model_settings("odd")), OddClient)
    assert "local, openai, claude, custom, odd;" in refusal("nonsense")


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ("nonsense", "There are: local, openai, claude, custom"),
        ("OpenAI", "is unknown"),
        (":", "is unknown"),
        ("a:", "is unknown"),
        (":B", "is unknown"),
        ("no.such.module:Client", "No module named"),
        ("..relative:Client", "TypeError"),
        (f"{HERE}:Missing", "has no attribute"),
        (f"{HERE}:refusal", "not a subclass"),
        ("json:JSONDecoder", "not a subclass"),
        (f"{HERE}:NamelessClient", "lacks the class attribute 'provider'"),
        (f"{HERE}:AbstractClient", "TypeError"),
        (f"{HERE}:ExplodingClient", "RuntimeError"),
    ],
)
def test_what_cannot_be_a_provider(provider: str, said: str) -> None:
    text = refusal(provider, api_key=SecretStr("sk-secret"))
    assert said in text
    assert provider in text
    assert "sk-secret" not in text


def test_module_that_fails_to_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_plugin.py").write_text('raise RuntimeError("secret")\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    text = refusal("failing_plugin:Client")
    assert "RuntimeError" in text
    assert "secret" not in text


@pytest.mark.parametrize("provider", ["openai", "claude", "custom", f"{HERE}:OddClient"])
def test_name_of_the_local_model_is_reserved(provider: str) -> None:
    assert 'begins with "local/"' in refusal(provider, model="local/x", base_url="http://127.0.0.1:9/v1")


@pytest.mark.parametrize("provider", ["openai", "claude"])
def test_missing_key(provider: str) -> None:
    assert "LLM_API_KEY" in refusal(provider, api_key=None)


def test_no_sdk_is_imported_before_it_is_chosen() -> None:
    code = "import sys, app.clients.registry; print({'openai', 'anthropic', 'onnxruntime'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own code
    assert output.strip() == "set()"


def test_built_ins_are_named_like_plugins() -> None:
    assert all(target.count(":") == 1 for target in BUILT_IN_PROVIDERS.values())


@pytest.mark.parametrize("provider", ["openai", "claude", "custom", f"{HERE}:OddClient"])
async def test_the_name_of_a_model_may_be_as_long_as_its_column(provider: str) -> None:
    longest = "m" * MODEL_NAME_MAX_LENGTH
    client = create_model_client(model_settings(provider, base_url="http://127.0.0.1:9/v1", model=longest))
    assert client.model == longest
    await client.close()
    said = refusal(provider, base_url="http://127.0.0.1:9/v1", model=f"{longest}m")
    assert f"(LLM_MODEL) is longer than {MODEL_NAME_MAX_LENGTH} characters" in said
