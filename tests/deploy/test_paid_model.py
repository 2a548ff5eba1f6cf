"""A model that costs money, with what is shipped: it starts in production, and strangers cannot sign up."""

from pathlib import Path

import pytest

from app.clients.errors import ModelConfigurationError
from app.clients.registry import create_model_client
from app.config.settings import Environment, Settings, load_settings
from app.database.engine import create_engine
from app.services.spending.lifespan import open_spending
from tests.deploy.test_compose import SECRETS, env_file, plain, services
from tests.deploy.test_kubernetes import deployed_environment
from tests.support.deploy_tools import DEPLOY
from tests.support.spools import no_spool

PAID = {"LLM_PROVIDER": "openai", "LLM_API_KEY": "sk-1", "LLM_MODEL": "gpt-6-luna"}


def of_compose(monkeypatch: pytest.MonkeyPatch, folder: Path, **values: str) -> Settings:
    """Settings of the container, with this .env."""
    env_file(folder, {**SECRETS, **values})
    environment = plain(services(folder)["api"]["environment"])
    inside = folder / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def of_systemd(monkeypatch: pytest.MonkeyPatch, folder: Path, **values: str) -> Settings:
    """Settings of the unit, with the example's empty values filled in."""
    monkeypatch.chdir(folder)
    for line in (DEPLOY / "systemd/environment.example").read_text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            monkeypatch.setenv(name, value or "0123456789abcdef" * 2)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return load_settings()


async def starts(settings: Settings) -> None:
    client, engine = create_model_client(settings.model), create_engine(settings)
    try:
        async with open_spending(settings, engine, spool=no_spool(), model_client=client):
            assert client.is_paid
    finally:
        await client.close()
        await engine.dispose()


@pytest.mark.parametrize("way", ["compose", "systemd", "kubernetes"])
async def test_it_starts_with_what_is_shipped(way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if way == "compose":
        settings = of_compose(monkeypatch, tmp_path, **PAID, DAILY_BUDGET="5")
    else:
        settings = (of_systemd if way == "systemd" else deployed_environment)(monkeypatch, tmp_path, **PAID)
    assert settings.environment is Environment.PRODUCTION
    assert settings.spending.daily_budget_micros == 5_000_000
    assert not settings.account.is_sign_up_open(in_production=True)
    await starts(settings)


async def test_compose_without_a_budget_does_not_start_and_says_so_where_one_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ModelConfigurationError, match="needs DAILY_BUDGET"):
        await starts(of_compose(monkeypatch, tmp_path, **PAID))


@pytest.mark.parametrize(
    "file", ["docker-compose.yml", "deploy/systemd/environment.example", "deploy/kubernetes/kustomization.yaml"]
)
def test_what_an_operator_fills_in_names_budget_and_sign_up(file: str) -> None:
    text = (DEPLOY.parent / file).read_text(encoding="utf-8")
    assert "DAILY_BUDGET" in text
    assert "unlimited" in text
    assert "SIGN_UP" in text
