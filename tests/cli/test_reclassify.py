"""`reclassify`: an operator sees what asking again costs, marks entries, and takes it back."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.config.settings import Settings
from app.database.tables.classification import CachedImage
from tests.support.audit import entries
from tests.support.cache_processes import result, save, service
from tests.support.command_line import run

PAID: dict[str, Any] = {"LLM_PROVIDER": "claude", "LLM_API_KEY": "sk-0123456789abcdef", "COST_PER_API_CALL": "0.02"}


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
async def test_entries_are_counted_marked_and_taken_back(
    settings: Settings, engine: AsyncEngine, tmp_path: Path
) -> None:
    database = settings.database_url.render_as_string(hide_password=False)
    environment = PAID | {"DATABASE_URL": database, "DESCRIPTION_LANGUAGE": "zh"}
    for number in range(3):
        await save(service(engine), f"{number}" * 64, result(Category.OTHER, 0.1 + 0.3 * number), model="old[b]")

    async def models() -> set[str]:
        async with engine.connect() as connection:
            return set((await connection.scalars(select(CachedImage.model_used))).all())

    only = ["--category", "other", "--below", "0.6", "--made-by", "old[b]"]
    planned = await run("reclassify", *only, "--dry-run", cwd=tmp_path, **environment)
    assert planned.status == 0, planned.messages
    assert planned.messages == "2 entries would be asked again of claude-haiku-5-5, about 0.0400 CNY\n"
    assert "old[b]  other     2" in planned.output
    assert await models() == {"old[b]"}

    marked = await run("reclassify", *only, cwd=tmp_path, **environment)
    assert marked.status == 0, marked.messages
    assert "2 entries are asked again at their next upload" in marked.messages
    assert await models() == {"old[b]", "again/old[b]"}
    taken = await run("reclassify", "--undo", cwd=tmp_path, **environment)
    assert taken.messages.endswith("2 entries answer again\n")
    assert await models() == {"old[b]"}
    recorded = [(action, subject) for action, _, subject, _ in await entries(engine)]
    assert recorded == [("cache_entries.marked", "2 for claude-haiku-5-5"), ("cache_entries.unmarked", None)]

    for wrong, words in (
        (["--model", "another"], "Set LLM_MODEL first"),
        (["--language", "en"], "Set DESCRIPTION_LANGUAGE first"),
        (["--language", "klingon"], "no language 'klingon'"),
    ):
        refused = await run("reclassify", *wrong, cwd=tmp_path, **environment)
        assert refused.status == 2
        assert words in refused.messages
