"""Which model is meant, and that a key goes to no other provider than the one it was set for."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.config.settings import Settings
from app.config.spending import SpendingSettings
from app.evaluation.candidates import NoCandidate, find_candidate
from app.services.spending.prices import Price, TokenPrice
from tests.support.model_settings import model_settings

KEY = "sk-0123456789abcdef"
PRICES = SpendingSettings(input_price=Decimal(2), output_price=Decimal(10), cost_per_call=Decimal("0.02"))
BY_TOKENS = Price(20_000, TokenPrice(Decimal(2), Decimal(2), Decimal(10)))


def settings(provider: str, **fields: Any) -> Settings:
    return Settings(model=model_settings(provider, api_key=SecretStr(KEY), **fields), spending=PRICES)


def key_of(candidate: Any) -> str | None:
    key = candidate.client.settings.api_key
    return None if key is None else key.get_secret_value()


def test_the_services_own_model_is_the_default() -> None:
    candidate = find_candidate(None, None, settings("openai"))
    assert (candidate.label, candidate.price) == ("openai gpt-6-luna", BY_TOKENS)
    assert candidate.model_key == "openai/gpt-6-luna"


def test_another_model_of_the_provider_has_the_key_but_not_the_price() -> None:
    candidate = find_candidate("openai=gpt-6-terra", None, settings("openai"))
    assert (candidate.client.model, key_of(candidate)) == ("gpt-6-terra", KEY)
    assert candidate.price == Price(20_000)


def test_a_key_does_not_go_to_another_provider() -> None:
    with pytest.raises(NoCandidate, match="needs LLM_API_KEY"):
        find_candidate("claude", None, settings("openai"))
    address = {"base_url": "http://127.0.0.1:9/v1"}
    with pytest.raises(NoCandidate, match="LLM_BASE_URL"):
        find_candidate("custom=other", None, settings("openai", **address))


def test_beside_the_local_model_the_key_is_for_the_one_that_is_named() -> None:
    assert key_of(find_candidate("claude", None, settings("local"))) == KEY


def test_a_file_takes_nothing_of_its_own_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LLM_API_KEY", KEY), ("LLM_MODEL", "gpt-6"), ("LLM_PRICE_INPUT_PER_MTOK", "7")):
        monkeypatch.setenv(name, value)
    file = tmp_path / "other.env"
    file.write_text("LLM_PROVIDER=claude\n", encoding="utf-8")
    with pytest.raises(NoCandidate, match="needs LLM_API_KEY"):
        find_candidate(str(file), None, settings("openai"))
    file.write_text("LLM_PROVIDER=claude\nLLM_API_KEY=sk-other-0123456789\nCOST_PER_API_CALL=0.5\n", encoding="utf-8")
    candidate = find_candidate(str(file), None, settings("openai"))
    assert (candidate.client.model, key_of(candidate)) == ("claude-haiku-5-5", "sk-other-0123456789")
    assert candidate.price == Price(500_000)


@pytest.mark.parametrize("text", ["", "LLM_API_KEY=x", "LLM_PROVIDER=claude\nLLM_TIMEOUT=soon", "\0\1"])
def test_a_file_that_says_no_model_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.env"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(NoCandidate):
        find_candidate(str(file), None, settings("local"))


def test_temperatures_are_under_data_dir_unless_a_file_is_named(tmp_path: Path) -> None:
    """Also for a model from a file of its own."""
    assert settings("openai").model.calibration_file == Path("data/calibration.json")
    assert Settings(data_dir=tmp_path).model.calibration_file == tmp_path / "calibration.json"
    named = settings("openai", calibration_file=tmp_path / "named.json")
    assert named.model.calibration_file == tmp_path / "named.json"
    file = tmp_path / "other.env"
    file.write_text("LLM_PROVIDER=local\n", encoding="utf-8")
    candidate = find_candidate(str(file), None, named)
    assert candidate.client.settings.calibration_file == tmp_path / "named.json"


def test_what_changes_the_answers_changes_the_key(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Sort the picture.", encoding="utf-8")
    own = settings("openai")
    keys = {
        find_candidate(None, None, own).key,
        find_candidate(None, prompt, own).key,
        find_candidate("openai=gpt-6-terra", None, own).key,
        find_candidate(None, None, settings("openai", image_max_edge_pixels=512)).key,
    }
    assert len(keys) == 4
    assert find_candidate(None, None, settings("openai", timeout_seconds=9.0)).key in keys


def test_the_estimate_is_of_the_size_of_a_real_price() -> None:
    """Measured: 1300 tokens in and 40 out for a picture of 1024 pixels."""
    real = BY_TOKENS.tokens
    assert real is not None
    expected = find_candidate(None, None, settings("openai")).expected_cost_micros()
    assert 1 < expected / (1300 * 2 + 40 * 10) < 2
