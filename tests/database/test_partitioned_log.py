"""What docs/scaling.md says about a log in partitions: the statements run, and the log is none the worse for it."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from app.config.settings import Settings
from app.database.batch_writer import create_batch_writer
from app.database.engine import create_engine
from app.database.pipeline import DuplicateRowError
from app.services.request_log.record import insert_log
from app.services.request_log.service import RequestLogService
from tests.support.databases import TestDatabase, recorder_on
from tests.support.documents import DOCS, code_blocks
from tests.support.records import record
from tests.support.rollups import SHANGHAI
from tests.support.service_settings import migrated

FIRST_DAY = datetime(2026, 11, 22, 12, 0, 0, 600_000, tzinfo=UTC)


async def test_the_log_can_be_parted_by_days(mysql_database: TestDatabase) -> None:
    [script] = code_blocks(DOCS / "scaling.md", "sql")
    *before, drop_first_day = [statement for statement in script.split(";") if statement.strip()]
    engine = create_engine(Settings(database=await migrated(mysql_database.settings)))
    recorder, writer = recorder_on(engine), create_batch_writer(engine)
    try:
        async with engine.connect() as connection:
            for statement in before:
                await connection.execute(text(statement))
        old, *others = records = [record(day, created_at=FIRST_DAY + timedelta(days=day)) for day in (0, 1, 2, 30)]
        await recorder.record(records)
        # A connection lost during COMMIT: the same rows come again.
        with pytest.raises(DuplicateRowError):
            await writer.write([insert_log(records[:1])])
        log = RequestLogService(engine, SHANGHAI)
        assert (await log.find(old.request_id)).request_id == old.request_id
        async with engine.connect() as connection:
            await connection.execute(text(drop_first_day))
            left = set(await connection.scalars(text("SELECT request_id FROM request_log")))
        assert left == {each.request_id for each in others}
        assert await log.delete_older_than(FIRST_DAY + timedelta(days=3)) == 2
    finally:
        await recorder.close()
        await writer.close()
        await engine.dispose()
