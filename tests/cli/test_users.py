"""`image-classifier users` on a real database, beside a service that knows what it does at once."""

import asyncio
import json
import os
import pty
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from tests.support.audit import details_of, entries
from tests.support.command_line import Done, run
from tests.support.library_api import files_of, upload
from tests.support.people import USER, bearer, code, log_in, sign_up


class Operator:
    """Runs `users` on the database of a service."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        url = settings.database_url.render_as_string(hide_password=False)
        self._folder = folder
        self._environment: dict[str, Any] = {
            "DATABASE_URL": url,
            "DATA_DIR": str(settings.data_dir),
            "SIGN_UP": "closed",
            "SUDO_USER": "margaret",
        }

    async def users(self, *arguments: str) -> Done:
        done = await run("users", *arguments, cwd=self._folder, **self._environment)
        assert "Traceback" not in done.messages
        return done


@pytest.fixture
def operator(settings: Settings, tmp_path: Path) -> Operator:
    return Operator(settings, tmp_path)


async def test_an_account_is_made_and_its_password_shown_once(operator: Operator, service: httpx2.AsyncClient) -> None:
    made = await operator.users("create", "Margaret", "maggie@example.com")
    assert made.status == 0, made.messages
    password = made.output.strip()
    assert len(password) >= 20
    assert password not in made.messages
    assert await log_in(service, "margaret", password)
    listed = await operator.users("list", "--json")
    [row] = json.loads(listed.output)
    assert (row["username"], row["email"], row["disabled_at"]) == ("Margaret", "maggie@example.com", None)
    assert row.keys() == {"id", "username", "email", "created_at", "disabled_at"}
    table = await operator.users("list")
    assert "Margaret" in table.output
    assert password not in listed.output + table.output


async def test_what_cannot_be_made_is_told(operator: Operator, service: httpx2.AsyncClient) -> None:
    await sign_up(service)
    for arguments in (
        ("create", "TESTUSER", "other@example.com"),
        ("create", "other", "TEST@example.com"),
        ("create", "a b", "other@example.com"),
        ("create", "other", "nobody"),
        ("disable", "nobody"),
        ("enable", "nobody"),
        ("reset-password", "nobody"),
        ("delete", "nobody"),
    ):
        done = await operator.users(*arguments)
        assert (done.status, done.output) == (1, ""), arguments
        assert done.messages
    assert (await operator.users("create", "other", "other@example.com", "password")).status == 2


async def test_a_disabled_account_is_out_at_once(operator: Operator, service: httpx2.AsyncClient) -> None:
    await sign_up(service)
    token = await log_in(service)
    assert (await operator.users("disable", "TestUser")).status == 0
    assert code(await service.get("/users/me", headers=bearer(token))) == (401, "invalid_token")
    answer = await service.post("/users/token", data=USER)
    unknown = await service.post("/users/token", data=USER | {"username": "nobody"})
    assert code(answer) == (401, "login_failed")
    assert answer.json()["error"] == unknown.json()["error"]
    assert "20" in (await operator.users("list")).output
    assert (await operator.users("enable", "testuser")).status == 0
    # The tokens from before stay ended.
    assert code(await service.get("/users/me", headers=bearer(token))) == (401, "invalid_token")
    assert await log_in(service)


async def test_what_an_operator_does_is_in_the_audit_log(operator: Operator, engine: AsyncEngine) -> None:
    made = await operator.users("create", "grace", "grace@example.com")
    for arguments in (["disable", "grace"], ["enable", "Grace"], ["reset-password", "grace"], ["delete", "grace"]):
        done = await operator.users(*arguments)
        assert done.status == 0, done.messages
        # Also as a line, for where the database is away.
        assert "audit user." in done.messages
    [[subject]] = [{entry[2] for entry in await entries(engine)}]
    assert subject is not None
    assert subject.startswith("account:")
    actions = ["created", "disabled", "enabled", "password_reset", "deleted"]
    assert await entries(engine) == [(f"user.{action}", "cli:margaret", subject, None) for action in actions]
    assert await details_of(engine) == [{}] * 5
    assert made.output.strip() not in made.messages


async def test_a_new_password_ends_the_tokens(operator: Operator, service: httpx2.AsyncClient) -> None:
    await sign_up(service)
    token = await log_in(service)
    reset = await operator.users("reset-password", "testuser")
    assert reset.status == 0, reset.messages
    assert code(await service.get("/users/me", headers=bearer(token))) == (401, "invalid_token")
    assert (await service.post("/users/token", data=USER)).status_code == 401
    assert await log_in(service, password=reset.output.strip())


async def test_a_deleted_account_takes_its_pictures_with_it(
    operator: Operator, service: httpx2.AsyncClient, settings: Settings
) -> None:
    await sign_up(service)
    token = await log_in(service)
    assert (await upload(service, bearer(token))).status_code == 201
    assert files_of(settings)
    assert (await operator.users("delete", "testuser", "--yes")).status == 0
    assert code(await service.get("/users/me", headers=bearer(token))) == (401, "invalid_token")
    assert files_of(settings) == []


async def test_a_password_is_typed_at_a_terminal_unseen(
    operator: Operator, service: httpx2.AsyncClient, engine: AsyncEngine, settings: Settings, tmp_path: Path
) -> None:
    controller, terminal = pty.openpty()

    async def type_all_the_time() -> None:
        # What is typed before the question is thrown away.
        while True:
            os.write(controller, b"a long sentence\n")
            await asyncio.sleep(0.2)

    typing = asyncio.create_task(type_all_the_time())
    try:
        url = settings.database_url.render_as_string(hide_password=False)
        arguments = ("users", "create", "margaret", "maggie@example.com", "--ask")
        async with asyncio.timeout(60):
            done = await run(
                *arguments, cwd=tmp_path, stdin=terminal, DATABASE_URL=url, DATA_DIR=str(settings.data_dir)
            )
    finally:
        typing.cancel()
        os.close(controller)
        os.close(terminal)
    assert done.status == 0, done.messages
    assert "a long sentence" not in done.output + done.messages
    assert await log_in(service, "margaret", "a long sentence")


async def test_looking_at_the_accounts_creates_nothing(tmp_path: Path) -> None:
    for command in (["list"], ["create", "other", "other@example.com"], ["delete", "other"]):
        done = await run("users", *command, cwd=tmp_path)
        assert done.status == 1
        assert "There is no database yet." in done.messages
    assert await asyncio.to_thread(os.listdir, tmp_path) == []
