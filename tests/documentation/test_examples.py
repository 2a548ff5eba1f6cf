"""The examples of the documentation work: its commands, client code and providers are run as they stand there."""

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.clients.base import PreparedPhoto
from app.clients.errors import ModelNotFound
from app.clients.registry import create_model_client
from app.config.access import AccessSettings
from app.config.model import ModelSettings
from app.config.settings import PROJECT_ROOT, CacheSettings, Settings, StatisticsSettings
from app.main import create_app
from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.support.documents import CLIENTS, DOCS, READMES, code_blocks, page_name
from tests.support.serving import serving

SAMPLE = DOCS / "samples" / "coffee.jpg"
DOCUMENTED_URL = "http://127.0.0.1:8000"
DOCUMENTED_KEY = "change-me-to-a-long-secret"
NODE_HAS_WEB_CRYPTO = 20


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a service as `make run` starts it: empty SQLite database, local model; its midnight is far away."""
    noon = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path / "data",
            "database": {"url": f"sqlite:///{tmp_path}/test.db"},
            "model": ModelSettings.model_validate({"provider": "local", "description_language": "zh"}),
            "cache": CacheSettings.model_validate({"admin_api_key": DOCUMENTED_KEY}),
            # The page shows the statistics of a service without keys.
            "access": AccessSettings.model_validate({"public_statistics": True}),
            "statistics": StatisticsSettings.model_validate({"timezone": noon}),
        }
    )
    async with serving(create_app(settings)) as url:
        yield url


async def run(*command: str | Path, cwd: Path = PROJECT_ROOT) -> str:
    """Run a program to its end and return what it writes; fails with its error output when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


def same_shape(shown: Any, real: Any) -> bool:
    """Whether two JSON values have the same keys, lengths and types; null may stand for anything."""
    if isinstance(shown, dict) and isinstance(real, dict):
        return shown.keys() == real.keys() and all(same_shape(shown[key], real[key]) for key in shown)
    if isinstance(shown, list) and isinstance(real, list):
        return len(shown) == len(real) and all(map(same_shape, shown, real))
    return shown is None or real is None or type(shown) is type(real)


def lasting(value: Any, *, approximate: bool = False) -> Any:
    """The same JSON without times, ids and durations; `approximate` lets numbers differ a little."""
    if isinstance(value, dict):
        kept = {
            key: item for key, item in value.items() if not re.fullmatch("timestamp|request_id|.*_(ms|at|request)", key)
        }
        return {key: lasting(item, approximate=approximate) for key, item in kept.items()}
    if isinstance(value, list):
        return [lasting(item, approximate=approximate) for item in value]
    # Another processor may round the local model's last digits otherwise.
    return pytest.approx(value, abs=0.005) if approximate and type(value) is float else value


def commands_with_answers(page: Path) -> list[tuple[str, Any]]:
    """Every curl command of a page, and the JSON that stands behind it."""
    text = page.read_text(encoding="utf-8")
    pairs = re.findall(r"^```sh\n(curl .*?)^```\n+```json\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(pairs) == len(re.findall(r"^```sh\ncurl ", text, re.MULTILINE)) > 0
    return [(command, json.loads(shown)) for command, shown in pairs]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", [READMES[0], DOCS / "api.md"], ids=page_name)
async def test_the_commands_give_the_answers_shown(page: Path, service: str) -> None:
    for command, shown in commands_with_answers(page):
        answer = json.loads(await run(*shlex.split(command.replace(DOCUMENTED_URL, service)), "--silent"))
        assert same_shape(shown, answer), command
        assert lasting(answer) == lasting(shown, approximate=True), command


class BusyOnce:
    """Breaks off, then answers with 503 and Retry-After, a hit, and as a proxy that has a limit of its own."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.keys: list[str] = []

    async def __call__(self, request: HTTPRequest) -> HTTPResponse:
        self.paths.append(request.path)
        self.keys.append(request.headers["idempotency-key"])
        if len(self.paths) == 1:
            return HTTPResponse(200, b"{}", sent_bytes=0)
        if len(self.paths) == 2:
            body = b'{"success": false, "error": {"code": "server_busy", "message": "Full.", "details": null}}'
            return HTTPResponse(503, body, {"retry-after": "1"})
        if len(self.paths) == 3:
            return HTTPResponse(200, b'{"success": true, "cached": true, "data": {"category": "pets"}}')
        return HTTPResponse(413, b"<html>too large</html>", {"content-type": "text/html"})


def check_tries(busy: BusyOnce) -> None:
    """The first photo was asked about three times with one key, the second once with another."""
    assert busy.paths == ["/api/v1/classify/check-cache"] * 4
    assert busy.keys == [busy.keys[0]] * 3 + [busy.keys[3]]
    assert busy.keys[0] != busy.keys[3]


def check_client_flow(output: str) -> None:
    """Compare what both drivers print: an upload, a hit, a refusal, and what BusyOnce makes of two further calls."""
    first, second, refused, waited, not_json = map(json.loads, output.splitlines())
    assert (first["data"]["category"], first["from_cache"]) == ("foods", False)
    assert (second["data"], second["from_cache"], second["cached"]) == (first["data"], True, True)
    assert refused == "unsupported_image_format"
    assert waited["data"] == {"category": "pets"}
    assert not_json == "http_error"
    assert first["request_id"] != second["request_id"]


PYTHON_DRIVER = """
import json, sys
import client

client.API = sys.argv[1] + "/api/v1"
jpeg = client.compress_image(sys.argv[3])
assert len(jpeg) <= 500_000

def attempt(data):
    try:
        return client.classify_photo(data, "device-1")
    except client.ClassifyError as error:
        return error.args[0]

answers = [attempt(jpeg), attempt(jpeg), attempt(b"not a photo")]
client.API = sys.argv[2] + "/api/v1"
for answer in [*answers, attempt(jpeg), attempt(jpeg)]:
    print(json.dumps(answer))
"""


async def test_the_python_client_works(service: str, tmp_path: Path) -> None:
    shutil.copy(CLIENTS / "python.py", tmp_path / "client.py")
    (tmp_path / "driver.py").write_text(PYTHON_DRIVER, encoding="utf-8")
    busy = BusyOnce()
    with running_http_server(busy) as busy_url:
        output = await run(sys.executable, tmp_path / "driver.py", service, busy_url, SAMPLE)
    check_client_flow(output)
    check_tries(busy)


async def test_the_python_client_is_a_program(service: str, tmp_path: Path) -> None:
    program = (CLIENTS / "python.py").read_text(encoding="utf-8")
    assert DOCUMENTED_URL in program
    (tmp_path / "client.py").write_text(program.replace(DOCUMENTED_URL, service), encoding="utf-8")
    assert await run(sys.executable, tmp_path / "client.py", SAMPLE) == f"{SAMPLE} foods\n"


# node has no pictures, so the file is sent as it is; how they are compressed is tested in a browser.
JAVASCRIPT_DRIVER = """
import { readFile } from "node:fs/promises";
import { classifyPhoto } from "./image-classifier.mjs";

const [service, busy, sample] = process.argv.slice(2);
const photo = new Blob([await readFile(sample)]);
const attempt = (server, file) => classifyPhoto(file, { server, userId: "device-1" }).catch((error) => error.code);
for (const [server, file] of [[service, photo], [service, photo], [service, new Blob(["not a photo"])],
                              [busy, photo], [busy, photo]])
  console.log(JSON.stringify(await attempt(server, file)));
"""


def node() -> str:
    """The path of a node that has fetch, FormData, Blob and crypto.subtle; skips the test when there is none."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603 - found on the PATH
    if int(version.lstrip("v").partition(".")[0]) < NODE_HAS_WEB_CRYPTO:
        pytest.skip(f"node {version.strip()} is too old")
    return found


async def test_the_browsers_client_works(service: str, tmp_path: Path) -> None:
    program = node()
    client = (PROJECT_ROOT / "app" / "web" / "assets" / "image-classifier.js").read_text(encoding="utf-8")
    (tmp_path / "image-classifier.mjs").write_text(client, encoding="utf-8")
    (tmp_path / "driver.mjs").write_text(JAVASCRIPT_DRIVER, encoding="utf-8")
    busy = BusyOnce()
    with running_http_server(busy) as busy_url:
        output = await run(program, tmp_path / "driver.mjs", service, busy_url, SAMPLE)
    check_client_flow(output)
    check_tries(busy)


# A browser that guards against fingerprinting: what is drawn does not come back, and each JPEG is another one.
NOISY_BROWSER = """
import { compressPhoto } from "./image-classifier.mjs";

const noise = (size) => crypto.getRandomValues(new Uint8ClampedArray(size));
const blank = (width, height) => ({ data: new Uint8ClampedArray(width * height * 4) });
let drawn = null;
globalThis.createImageBitmap = async () => ({ width: 40, height: 30, close() {} });
globalThis.OffscreenCanvas = class {
  getContext = () => ({
    fillRect() {}, drawImage() {}, createImageData: blank, putImageData: (data) => (drawn = data),
    getImageData: (x, y, width, height) => (process.argv[2] === "noisy" ? { data: noise(width * height * 4) } : drawn),
  });
  convertToBlob = async () => new Blob([noise(100)]);
};
console.log(await compressPhoto(new Blob(["photo"])).then(() => "compressed", (error) => error.name));
"""


@pytest.mark.parametrize(("browser", "printed"), [("noisy", "NotSupportedError"), ("true", "compressed")])
async def test_a_browser_that_adds_noise_sends_the_file_itself(browser: str, printed: str, tmp_path: Path) -> None:
    """As `../shared/cases/browser_canvas_noise`: noise would make another hash, and a paid call, of each upload."""
    client = (PROJECT_ROOT / "app" / "web" / "assets" / "image-classifier.js").read_text(encoding="utf-8")
    (tmp_path / "image-classifier.mjs").write_text(client, encoding="utf-8")
    (tmp_path / "browser.mjs").write_text(NOISY_BROWSER, encoding="utf-8")
    assert await run(node(), tmp_path / "browser.mjs", browser) == f"{printed}\n"


async def test_the_react_native_example_is_javascript(tmp_path: Path) -> None:
    shutil.copy(CLIENTS / "react-native.jsx", tmp_path / "native.mjs")
    await run(node(), "--check", tmp_path / "native.mjs")


def plugin(page: Path, class_name: str, folder: Path) -> str:
    """Save the example that defines `class_name` as a module of that folder and return its LLM_PROVIDER value."""
    (example,) = [block for block in code_blocks(page, "python") if f"class {class_name}(" in block]
    module = f"documented_{class_name.lower()}"
    (folder / f"{module}.py").write_text(example, encoding="utf-8")
    return f"{module}:{class_name}"


async def test_the_short_provider_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    received: list[bytes] = []

    async def house(request: HTTPRequest) -> HTTPResponse:
        received.append(request.body)
        return HTTPResponse(200, b'{"label": "pets", "score": 0.9}')

    with running_http_server(house) as url:
        values = {"provider": plugin(DOCS / "providers.md", "HouseModel", tmp_path), "base_url": url}
        client = create_model_client(ModelSettings.model_validate(values))
        await client.start()
        result = await client.classify(PreparedPhoto(b"jpeg"))
        await client.close()
    assert (result.category, result.confidence, received) == ("pets", 0.9, [b"jpeg"])


class Ollama:
    """Speaks as much of Ollama's native API as the example uses: busy once, then prose, then proper answers."""

    def __init__(self) -> None:
        self.questions: list[dict[str, Any]] = []

    async def __call__(self, request: HTTPRequest) -> HTTPResponse:
        body = json.loads(request.body)
        if request.path == "/api/show":
            capabilities = ["completion", *(["vision"] if body["model"] == "seeing" else [])]
            return HTTPResponse(200, json.dumps({"capabilities": capabilities}).encode())
        assert request.path == "/api/chat"
        self.questions.append(body)
        if len(self.questions) == 1:
            return HTTPResponse(503, b'{"error": "busy"}', {"retry-after": "0"})
        answer = {"category": "foods", "confidence": 0.8, "description": "一碗面"}
        content = "I see noodles." if len(self.questions) == 2 else json.dumps(answer)
        reply = {
            "model": body["model"],
            "message": {"role": "assistant", "content": content},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 100,
            "eval_count": 20,
        }
        return HTTPResponse(200, json.dumps(reply).encode())


async def test_the_complete_provider_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    ollama = Ollama()
    with running_http_server(ollama) as url:
        values = {"provider": plugin(DOCS / "providers.md", "OllamaModel", tmp_path), "base_url": url}
        client = create_model_client(ModelSettings.model_validate({**values, "model": "seeing"}))
        await client.start()
        health = await client.health()
        result = await client.classify(PreparedPhoto(SAMPLE.read_bytes()))
        await client.close()
        blind = create_model_client(ModelSettings.model_validate({**values, "model": "blind"}))
        blind_health = await blind.health()
        await blind.close()
    assert health.available
    assert (result.category, result.confidence, result.description) == ("foods", 0.8, "一碗面")
    assert result.response["usage"] == {"input_tokens": 200, "output_tokens": 40, "total_tokens": 240}
    assert [len(question["messages"]) for question in ollama.questions] == [2, 2, 4]
    assert not blind_health.available
    assert blind_health.last_error_code == ModelNotFound.code
