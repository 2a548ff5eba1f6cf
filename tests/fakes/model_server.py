"""A model server to test against: OpenAI's Chat Completions and Anthropic's Messages over real HTTP.

    async with fake_model_server() as server:            # or: with running_model_server() as server
        settings = ModelSettings(LLM_PROVIDER="custom", LLM_BASE_URL=server.openai_url, ...)
        server.script(failure(429, retry_after="0"))     # the next call; further ones get the default answer
        ...
        assert server.call_count == 2

It refuses a request that the real API would refuse, and remembers why in `violations`. The server runs in a thread,
so its URLs also work from another process.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.fakes.model_batches import FakeBatches
from tests.fakes.model_replies import Reply, classification, failure
from tests.fakes.model_wire import (
    THINKING_SWITCHES,
    anthropic_body,
    anthropic_complaints,
    openai_body,
    openai_complaints,
    request_image,
)

API_KEY = "sk-fake-0123456789abcdef"
MODELS = ("gpt-6-luna", "claude-haiku-5-5", "test-vision")


@dataclass(frozen=True, slots=True)
class Call:
    """A paid call as it arrived; `jpeg` is the picture in it, None unless it is a JPEG without metadata."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    jpeg: bytes | None


@dataclass(slots=True)
class FakeModelServer:
    """The state of a server, free to be changed while it runs.

    `refuses` names what it does not take: "logprobs", "json_schema", "json_object", "max_tokens",
    "max_completion_tokens", "reasoning_effort", "reasoning_none" (the value that switches reasoning off), "image",
    "system" (a message of that role), "data_url" (a picture as one), "thinking" (a request that does not switch it off
    by `enable_thinking`).
    `owned_by` is what its list of models says of each: vLLM runs them, others route names that they do not list.
    `thinks_unless` is the field that has to switch thoughts off, else they come with the answer.
    `delay_seconds` comes before every answer. `calls` are the paid calls, `probes` the paths of the free ones.
    `batches` are those of both providers.
    """

    url: str = ""
    api_key: str | None = API_KEY
    models: tuple[str, ...] = MODELS
    lists_models: bool = True
    owned_by: str = "vllm"
    refuses: set[str] = field(default_factory=set)
    thinks_unless: str | None = None
    delay_seconds: float = 0.0
    default: Reply = field(default_factory=classification)
    calls: list[Call] = field(default_factory=list)
    probes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    concurrent: int = 0
    most_concurrent: int = 0
    batches: FakeBatches = field(init=False)
    _script: deque[Reply] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.batches = FakeBatches(lambda: self._script.popleft() if self._script else self.default)

    @property
    def openai_url(self) -> str:
        """Base URL for the openai and custom providers."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """Base URL for the claude provider."""
        return self.url

    @property
    def call_count(self) -> int:
        return len(self.calls)

    def script(self, *replies: Reply) -> None:
        """Say how the next calls are answered, in order; after them comes `default` again."""
        self._script.extend(replies)

    async def handle(self, request: HTTPRequest) -> HTTPResponse:
        """Answer one request as the real API would, unless the script says otherwise."""
        anthropic = "anthropic-version" in request.headers
        refused = self._refuse_key(request, anthropic=anthropic)
        if request.method == "GET" and request.path.startswith("/v1/models"):
            self.probes.append(request.path)
            return _render(refused, anthropic=anthropic) if refused else self._models(request.path, anthropic=anthropic)
        if (answer := None if refused else self.batches.handle(request, anthropic=anthropic)) is not None:
            await asyncio.sleep(self.batches.delay_seconds if self.batches.made else 0)
            return answer
        if request.method != "POST" or request.path != ("/v1/messages" if anthropic else "/v1/chat/completions"):
            return _render(failure(404, message="Unknown path."), anthropic=anthropic)
        body = json.loads(request.body)
        self.calls.append(Call(request.path, request.headers, body, request_image(body)))
        self.concurrent += 1
        self.most_concurrent = max(self.most_concurrent, self.concurrent)
        try:
            reply = refused or self._refuse_request(body, anthropic=anthropic)
            reply = reply or (self._script.popleft() if self._script else self.default)
            await asyncio.sleep(self.delay_seconds + reply.delay_seconds)
        finally:
            self.concurrent -= 1
        switch = self.thinks_unless
        thinks = switch is not None and body.get(switch) != THINKING_SWITCHES.get(switch, False)
        return _render(reply, anthropic=anthropic, model=body["model"], thoughts="Hm." if thinks else None)

    def _refuse_key(self, request: HTTPRequest, *, anthropic: bool) -> Reply | None:
        if self.api_key is None:
            return None
        given = request.headers.get("authorization", "")
        # Anthropic takes the key in either header; its SDK went over from the first to the second.
        if given == f"Bearer {self.api_key}" or (anthropic and request.headers.get("x-api-key") == self.api_key):
            return None
        # The real APIs quote the key, which is why their words must not travel on.
        return failure(
            401, "authentication_error" if anthropic else "invalid_api_key", message=f"Incorrect API key: {given}."
        )

    def _refuse_request(self, body: dict[str, Any], *, anthropic: bool) -> Reply | None:
        if body.get("model") not in self.models:
            code = "not_found_error" if anthropic else "model_not_found"
            return failure(404, code, message=f"model: {body.get('model')}")
        check = anthropic_complaints if anthropic else openai_complaints
        self.violations += check(body, set())
        complaint = next(check(body, self.refuses), None)
        return failure(400, message=complaint) if complaint else None

    def _models(self, path: str, *, anthropic: bool) -> HTTPResponse:
        name = path.removeprefix("/v1/models").strip("/")
        if not self.lists_models or (name and name not in self.models):
            return _render(failure(404, "not_found_error" if anthropic else "model_not_found"), anthropic=anthropic)
        models = [{"id": model, "object": "model", "type": "model", "owned_by": self.owned_by} for model in self.models]
        body: dict[str, Any] = {"id": name, "object": "model", "type": "model"} if name else {"data": models}
        return HTTPResponse(body=json.dumps(body).encode())


@contextmanager
def running_model_server() -> Iterator[FakeModelServer]:
    """Run a fake model server for the length of the block."""
    server = FakeModelServer()
    with running_http_server(server.handle) as url:
        server.url = url
        yield server


@asynccontextmanager
async def fake_model_server() -> AsyncIterator[FakeModelServer]:
    """Run a fake model server for the length of the block, in asynchronous tests."""
    with running_model_server() as server:
        yield server


def _render(reply: Reply, *, anthropic: bool, model: str = "", thoughts: str | None = None) -> HTTPResponse:
    body = reply.raw
    if body is None:
        answer = anthropic_body(reply, model) if anthropic else openai_body(reply, model, thoughts=thoughts)
        body = json.dumps(answer, ensure_ascii=False).encode()
    return HTTPResponse(reply.status, body, reply.headers, reply.sent_bytes)
