"""The administrator's key: made well, kept in `.env`, shown once."""

import asyncio
import os
import stat
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tests.support.command_line import run

SOMEBODY = 65_534


async def test_the_administrators_key_is_written_once_and_keeps_the_rest(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("# mine\nAPP_PORT=8001\n  export  ADMIN_API_KEY =\n")
    made = await run("create-admin", cwd=tmp_path)
    assert made.status == 0, made.messages
    key = made.output.strip()
    assert len(key) >= 43
    assert key not in made.messages
    assert env_file.read_text() == f"# mine\nAPP_PORT=8001\nADMIN_API_KEY={key}\n"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    refused = await run("create-admin", cwd=tmp_path)
    assert refused.status == 1
    assert refused.output == ""
    assert dotenv_values(env_file)["ADMIN_API_KEY"] == key
    replaced = await run("create-admin", "--force", cwd=tmp_path, ADMIN_API_KEY="a-key-of-the-environment")
    assert dotenv_values(env_file)["ADMIN_API_KEY"] == replaced.output.strip() != key
    assert "wins over the file" in replaced.messages
    assert "a-key-of" not in replaced.messages
    shown = await run("create-admin", "--print-only", cwd=tmp_path)
    assert shown.output != replaced.output
    assert dotenv_values(env_file)["ADMIN_API_KEY"] == replaced.output.strip()
    left = await asyncio.to_thread(os.listdir, tmp_path)
    assert left == [".env"]


async def test_a_link_stays_a_link_and_its_file_belongs_to_whom_it_belonged(tmp_path: Path) -> None:
    real = tmp_path / "etc" / "classifier.env"
    real.parent.mkdir()
    real.write_text("APP_PORT=8001\n")
    (tmp_path / ".env").symlink_to(real)
    owner = SOMEBODY if os.geteuid() == 0 else os.geteuid()
    os.chown(real, owner, os.getegid())
    # A group may read it, such as that of the service.
    real.chmod(0o640)
    made = await run("create-admin", cwd=tmp_path)
    assert made.status == 0, made.messages
    assert (tmp_path / ".env").is_symlink()
    assert dotenv_values(real)["ADMIN_API_KEY"] == made.output.strip()
    assert real.stat().st_uid == owner
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


@pytest.mark.parametrize(("name", "reason"), [("latin", "is not UTF-8"), ("[b]folder[/]", "Is a directory")])
async def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "latin").write_bytes("PASSWORT=groß\n".encode("latin-1"))
    (tmp_path / "[b]folder[").mkdir()
    (tmp_path / "[b]folder[/]").mkdir()
    before = sorted(await asyncio.to_thread(os.listdir, tmp_path))
    done = await run("create-admin", "--env-file", name, cwd=tmp_path)
    assert (done.status, done.output) == (1, "")
    assert f"{name}" in done.messages
    assert reason in done.messages
    assert sorted(await asyncio.to_thread(os.listdir, tmp_path)) == before
