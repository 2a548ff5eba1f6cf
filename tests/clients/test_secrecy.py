"""Neither the key nor the photo nor a provider's words reach a log line, an error or a repr, whatever goes wrong."""

import logging
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from loguru import logger

from app.clients.base import PreparedPhoto
from app.clients.errors import ModelError
from tests.fakes.model_replies import failure
from tests.fakes.model_server import API_KEY, FakeModelServer
from tests.support.model_scenarios import INVALID, LASTING, PASSING, PROVIDERS
from tests.support.model_settings import MakeClient


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Every line that loguru and the standard library write, at any level, as the service would write it."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), level=0, diagnose=True, backtrace=True)
    handler = logging.Handler(level=0)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign] # a list is the sink
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(0)
    yield lines
    root.setLevel(level)
    root.removeHandler(handler)
    logger.remove(sink)


REPLIES = {name: reply for name, (reply, _) in (PASSING | LASTING).items()} | INVALID


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", [*REPLIES, "wrong key, quoted", "nobody listens"])
async def test_key_and_photo_and_providers_words_stay_inside(
    provider: str,
    name: str,
    server: FakeModelServer,
    make_client: MakeClient,
    photo: PreparedPhoto,
    log: list[str],
) -> None:
    quoting = f"leaked-words {API_KEY}"
    reply = REPLIES.get(name, failure(400))
    server.default = replace(reply, message=f"{reply.message} {quoting}")
    address = {"base_url": "http://127.0.0.1:9"} if name == "nobody listens" else {}
    if name == "wrong key, quoted":
        server.api_key = "sk-another"
    client = await make_client(provider, max_retries=0, **address)
    log.append(repr(client) + str(client) + repr(client.settings) + repr(photo))
    with pytest.raises(ModelError) as caught:
        await client.classify(photo)
    error = caught.value
    logger.opt(exception=error).error("classification failed")
    log.append(repr(error) + str(error) + repr(error.__dict__) + repr(error.__cause__))
    # The caller cannot change a setting; the operator reads what to do in the log.
    assert not re.search(r"LLM_|`make|operator|credentials|quota", error.text)
    assert error.advice is None or error.advice in "\n".join(log[:-1])
    log.append(repr(await client.health()))
    written = "\n".join(log)
    assert "classification failed" in written
    assert API_KEY not in written
    assert "leaked-words" not in written
    assert photo.jpeg.hex()[:40] not in written
    assert "/9j/" not in written
