"""`keys`: an operator makes, lists and revokes keys of the service's own database."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.tables import api_keys
from app.main import create_app
from app.services.api_keys.key import Scope, hash_of
from tests.support.command_line import run
from tests.support.keys import key_of
from tests.support.serving import serving


async def test_a_key_is_made_listed_and_revoked(settings: Settings, engine: AsyncEngine, tmp_path: Path) -> None:
    environment: dict[str, Any] = {"DATABASE_URL": settings.database_url.render_as_string(hide_password=False)}
    arguments = ["--scope", "stats,classify", "--budget", "5.5", "--rate", "60", "--expires", "90d"]
    made = await run("keys", "create", "[b]phone[/b]", *arguments, cwd=tmp_path, **environment)
    assert made.status == 0, made.messages
    key = made.output.strip()
    assert key not in made.messages
    async with engine.connect() as connection:
        [row] = (await connection.execute(select(api_keys.ApiKey.__table__))).all()
    assert (row.key_hash, row.scopes, row.budget_micros) == (hash_of(key), "classify,stats", 5_500_000)
    assert (row.expires_at - row.created_at).days == 90

    listed = await run("keys", "list", "--json", cwd=tmp_path, **environment)
    [shown] = json.loads(listed.output)
    assert (shown["id"], shown["name"], shown["state"], shown["budget"]) == (row.id, "[b]phone[/b]", "valid", "5.5")
    table = await run("keys", "list", cwd=tmp_path, **environment)
    assert "[b]phone[/b]" in table.output
    for output in (listed.output, table.output):
        assert key not in output
        assert row.key_hash not in output

    revoked = await run("keys", "revoke", str(row.id), cwd=tmp_path, **environment)
    assert revoked.status == 0, revoked.messages
    assert "revoked" in (await run("keys", "list", cwd=tmp_path, **environment)).output
    missing = await run("keys", "revoke", "9999", cwd=tmp_path, **environment)
    assert (missing.status, missing.messages) == (1, "there is no key 9999\n")


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "--scope", "everything"],
        ["a", "--scope", ","],
        ["", "--scope", "stats"],
        ["a", "--scope", "stats", "--budget", "-1"],
        ["a", "--scope", "stats", "--budget", "NaN"],
        ["a", "--scope", "stats", "--budget", "0.0000001"],
        ["a", "--scope", "stats", "--expires", "90"],
        ["a", "--scope", "stats", "--expires", "999999w"],
        ["a", "--scope", "stats", "--rate", "0"],
    ],
)
async def test_what_cannot_be_a_key_is_refused(
    arguments: list[str], settings: Settings, engine: AsyncEngine, tmp_path: Path
) -> None:
    url = settings.database_url.render_as_string(hide_password=False)
    done = await run("keys", "create", *arguments, cwd=tmp_path, DATABASE_URL=url)
    assert (done.status, done.output) == (2, "")
    assert "Traceback" not in done.messages
    async with engine.connect() as connection:
        assert (await connection.execute(select(api_keys.ApiKey.id))).all() == []


async def test_the_client_sends_the_key_of_the_environment(
    settings: Settings, engine: AsyncEngine, tmp_path: Path
) -> None:
    key = await key_of(engine, Scope.STATS)
    async with serving(create_app(settings)) as url:
        refused = await run("stats", "--server", url, "--json", cwd=tmp_path)
        assert (refused.status, refused.output) == (1, "")
        assert "api_key_required" in refused.messages
        shown = await run("stats", "--server", url, "--json", cwd=tmp_path, IMAGE_CLASSIFIER_API_KEY=key.text)
        assert shown.status == 0, shown.messages
        assert json.loads(shown.output)["today"]["total_requests"] == 0
