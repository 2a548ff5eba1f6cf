"""Each provider's words over real HTTP, and the table that knows them."""

import re

import pytest

from app.clients.base import PreparedPhoto
from app.clients.breaker import BreakerState
from app.clients.errors import ModelError, ModelQuotaExhausted, ModelRateLimited, ModelRefused
from app.clients.llm.error_rules import RULES, Rule, find_rule, is_refusal
from app.config.settings import PROJECT_ROOT
from tests.fakes.model_dialects import DIALECTS
from tests.fakes.model_replies import raw
from tests.fakes.model_server import FakeModelServer
from tests.support.model_settings import MakeClient


@pytest.mark.parametrize("provider", ["custom", "claude"])
@pytest.mark.parametrize("name", DIALECTS)
async def test_what_a_provider_says_is_understood_in_one_call(
    provider: str, name: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    dialect = DIALECTS[name]
    server.default = dialect.reply
    client = await make_client(provider, max_retries=0 if dialect.kind.retryable else 2)
    with pytest.raises(ModelError) as raised:
        await client.classify(photo)
    assert type(raised.value) is dialect.kind
    assert server.call_count == 1


@pytest.mark.parametrize("name", ["200-no-message", "200", "413-less"])
async def test_a_filtered_answer_of_gemini(
    name: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    """As `../shared/cases/answer_filtered_gemini`: with a message, without one, and with an empty choice."""
    choice = {
        "200-no-message": b'{"index": 0, "finish_reason": "content_filter: PROHIBITED_CONTENT"}',
        "200": b'{"index": 0, "finish_reason": "content_filter: X", "message": {"role": "assistant", "content": null}}',
        "413-less": b'{"finish_reason": "SAFETY", "message": null}',
    }[name]
    server.script(*[raw(b'{"choices": [' + choice + b"]}")] * 6)
    client = await make_client("custom")
    for _ in range(6):
        with pytest.raises(ModelRefused):
            await client.classify(photo)
    assert server.call_count == 6
    assert (await client.health()).breaker is BreakerState.CLOSED
    await client.classify(photo)


async def test_a_limit_of_a_day_is_not_waited_for(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.default = DIALECTS["OpenRouter: day, under 200"].reply
    with pytest.raises(ModelRateLimited) as raised:
        await (await make_client("custom", timeout_seconds=30)).classify(photo)
    assert server.call_count == 1
    assert raised.value.retry_after_seconds == 600


async def test_words_of_the_request_say_nothing(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    """A validator quotes what was sent, and a prompt may hold any word."""
    body = b'{"detail": [{"loc": ["body"], "msg": "no", "input": {"code": "1301", "text": "content policy"}}]}'
    server.default = raw(body, 402)
    with pytest.raises(ModelQuotaExhausted):
        await (await make_client("custom")).classify(photo)


@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls", "", None, 7, "error"])
def test_other_ends_are_no_refusals(finish: object) -> None:
    assert not is_refusal(finish)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.provider}: {rule.recognised_by}")
def test_no_row_is_hidden_by_an_earlier_one(rule: Rule) -> None:
    """A response that says just what stands in the row is the row's error."""
    found = re.fullmatch(r"((?:[1-5](?:\d\d|xx) ?)*)(?:(code|says) (.+))?", rule.recognised_by)
    assert found is not None
    status = int((found[1].split() or ["400"])[0].replace("xx", "07"))
    for value in (found[3] or "").split(" | " if found[2] == "says" else " "):
        codes = {value.replace("*", "x")} if found[2] == "code" else set()
        recognised = find_rule(status, codes, value if found[2] == "says" else "")
        assert recognised is not None
        assert recognised.kind is rule.kind
    assert rule.source.startswith("https://")


@pytest.mark.parametrize("page", ["docs/providers.md", "docs/providers.zh-CN.md"])
def test_the_documentation_has_every_row(page: str) -> None:
    """One table of provider and error, in the order in which the rows are tried."""
    text = (PROJECT_ROOT / page).read_text("utf-8")
    written = [
        tuple(cell.strip().strip("`").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        for line in text.partition("<!-- error rules -->")[2].partition("<!-- end -->")[0].splitlines()
        if line.startswith("| ") and "---" not in line
    ][1:]
    assert written == [(rule.provider, rule.recognised_by, rule.kind.code) for rule in RULES]
