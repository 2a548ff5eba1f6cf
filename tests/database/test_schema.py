"""init.sql, the migrations and the tables describe one schema; each is put into a database of its own and compared."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config.model import MODEL_NAME_MAX_LENGTH
from app.config.settings import PROJECT_ROOT, Settings
from app.database.engine import create_engine
from app.database.migrate import HEAD_REVISION, migrate, revision
from app.database.tables.schema import metadata
from app.errors import DatabaseUnavailable
from tests.support.databases import TestDatabase, admin_engine

TABLES = frozenset(metadata.tables)


async def _describe(connection: AsyncConnection, schema: str) -> dict[str, list[tuple[object, ...]]]:
    columns = await connection.execute(
        text(
            "SELECT table_name, column_name, ordinal_position, column_default, is_nullable, column_type,"
            " collation_name, extra, column_comment, generation_expression"
            " FROM information_schema.columns WHERE table_schema = :schema ORDER BY table_name, ordinal_position"
        ),
        {"schema": schema},
    )
    indexes = await connection.execute(
        text(
            "SELECT table_name, index_name, non_unique, seq_in_index, column_name, nullable, index_type"
            " FROM information_schema.statistics WHERE table_schema = :schema"
            " ORDER BY table_name, index_name, seq_in_index"
        ),
        {"schema": schema},
    )
    tables = await connection.execute(
        text(
            "SELECT table_name, engine, table_collation, table_comment"
            " FROM information_schema.tables WHERE table_schema = :schema ORDER BY table_name"
        ),
        {"schema": schema},
    )
    keys = await connection.execute(
        text(
            "SELECT k.table_name, k.column_name, k.referenced_table_name, k.referenced_column_name, c.delete_rule"
            " FROM information_schema.key_column_usage AS k JOIN information_schema.referential_constraints AS c"
            " ON c.constraint_schema = k.table_schema AND c.constraint_name = k.constraint_name"
            " WHERE k.table_schema = :schema AND c.table_name = k.table_name ORDER BY k.table_name, k.column_name"
        ),
        {"schema": schema},
    )
    described = {"columns": columns, "indexes": indexes, "tables": tables, "keys": keys}
    return {name: [tuple(row) for row in rows if row[0] in TABLES] for name, rows in described.items()}


async def _views(connection: AsyncConnection, schema: str) -> dict[str, tuple[str, str]]:
    """Name -> with whose rights it reads, and what."""
    rows = await connection.execute(
        text(
            "SELECT table_name, security_type, view_definition FROM information_schema.views"
            " WHERE table_schema = :schema"
        ),
        {"schema": schema},
    )
    return {name: (security, definition.replace(f"`{schema}`.", "")) for name, security, definition in rows}


async def _run_init_sql(connection: AsyncConnection, schema: str) -> None:
    script = (PROJECT_ROOT / "sql" / "init.sql").read_text(encoding="utf-8").replace("image_classifier", schema)
    script = re.sub(r"^--.*$", "", script, flags=re.MULTILINE)
    for statement in script.split(";"):
        if statement.strip():
            await connection.exec_driver_sql(statement)


async def test_init_sql_migrations_and_tables_agree(mysql_database: TestDatabase) -> None:
    name = mysql_database.name
    from_init, from_tables = f"{name}_init", f"{name}_tables"
    async with admin_engine(mysql_database.server_url) as admin, admin.connect() as connection:
        try:
            await _run_init_sql(connection, from_init)
            await _run_init_sql(connection, from_init)
            await connection.exec_driver_sql(f"CREATE DATABASE {from_tables} COLLATE utf8mb4_unicode_ci")
            tables_url = make_url(mysql_database.server_url).set(database=from_tables)
            async with admin_engine(tables_url) as engine, engine.connect() as tables_connection:
                await tables_connection.run_sync(metadata.create_all)
            migrated = await _describe(connection, name)
            assert {row[0] for row in migrated["tables"]} == TABLES
            assert await _describe(connection, from_init) == migrated
            assert await _describe(connection, from_tables) == migrated
            views = await _views(connection, name)
            assert await _views(connection, from_init) == views
            assert {security for security, _ in views.values()} == {"INVOKER"}
            assert len(views) == 5
            version = await connection.scalar(text(f"SELECT version_num FROM {from_init}.alembic_version"))
            assert version == HEAD_REVISION
        finally:
            for schema in (from_init, from_tables):
                await connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {schema}")


async def test_head_revision_is_the_newest_migration() -> None:
    config = Config(str(PROJECT_ROOT / "sql" / "alembic.ini"))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD_REVISION


async def test_sqlite_has_the_same_columns_and_indexes(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    engine = create_engine(settings)
    try:
        await migrate(engine, settings)
        await migrate(engine, settings)
        for table in metadata.sorted_tables:
            async with engine.connect() as connection:
                columns = (await connection.execute(text(f"PRAGMA table_xinfo({table.name})"))).all()
                indexes = (await connection.execute(text(f"PRAGMA index_list({table.name})"))).all()
            assert [column.name for column in columns] == [column.name for column in table.columns]
            async with engine.connect() as connection:
                keys = (await connection.execute(text(f"PRAGMA foreign_key_list({table.name})"))).all()
                sql = await connection.scalar(text(f"SELECT sql FROM sqlite_master WHERE name = '{table.name}'"))
            assert {(key[3], key[2], key[4], key.on_delete) for key in keys} == {
                (each.parent.name, each.column.table.name, each.column.name, each.ondelete or "NO ACTION")
                for each in table.foreign_keys
            }
            never_again = table.dialect_kwargs.get("sqlite_autoincrement") and table.autoincrement_column is not None
            assert ("AUTOINCREMENT" in sql) == bool(never_again)
            own = {(i.name, bool(i.unique)) for i in indexes if not i.name.startswith("sqlite_autoindex")}
            assert own == {(f"{table.name}_{index.name}", bool(index.unique)) for index in table.indexes}
    finally:
        await engine.dispose()


@pytest.mark.parametrize("attempt", range(3))
async def test_many_processes_may_migrate_at_once(empty_database: Settings, attempt: int) -> None:
    engines: list[AsyncEngine] = [create_engine(empty_database) for _ in range(6)]
    try:
        await asyncio.gather(*(migrate(engine, empty_database) for engine in engines))
        async with engines[0].connect() as connection:
            assert (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalars().all() == [
                HEAD_REVISION
            ]
    finally:
        await asyncio.gather(*(engine.dispose() for engine in engines))


async def test_what_cannot_be_migrated_says_why(empty_database: Settings) -> None:
    """Such as a table of another service in the same database."""
    engine = create_engine(empty_database)
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("CREATE TABLE image_classification_cache (id INT)")
        with pytest.raises(DatabaseUnavailable, match=r"revision .*image_hash"):
            await migrate(engine, empty_database)
    finally:
        await engine.dispose()


@pytest.mark.parametrize("tables", [0, 1, 7, len(TABLES) - 1])
async def test_an_upgrade_that_was_cut_off_goes_on(empty_database: Settings, tables: int) -> None:
    """MySQL commits each table by itself."""
    engine = create_engine(empty_database)
    created: list[str] = []

    def stop(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith("CREATE TABLE") and "alembic_version" not in statement:
            if len(created) == tables:
                raise KeyError
            created.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", stop)
    try:
        with pytest.raises(KeyError):
            await migrate(engine, empty_database)
        event.remove(engine.sync_engine, "before_cursor_execute", stop)
        # None, or that of an earlier migration which was complete.
        assert await revision(engine) != HEAD_REVISION
        await migrate(engine, empty_database)
        assert await revision(engine) == HEAD_REVISION
        async with engine.connect() as connection:
            found = await connection.run_sync(lambda sync: inspect(sync).get_multi_indexes())
        names = {name: {index["name"] for index in indexes} for (_, name), indexes in found.items() if name in TABLES}
        prefix = "{}_" if engine.dialect.name == "sqlite" else ""
        for table in metadata.sorted_tables:
            expected = {f"{prefix.format(table.name)}{index.name}" for index in table.indexes}
            assert expected <= names[table.name]
        assert set(names) == TABLES
    finally:
        await engine.dispose()


def test_names_of_models_fit_the_columns() -> None:
    for table, column in (("image_classification_cache", "model_used"), ("inference_result", "model")):
        assert metadata.tables[table].c[column].type.length == MODEL_NAME_MAX_LENGTH  # type: ignore[attr-defined]
