"""What is in the spool comes into the database once, whatever happened to the process, the COMMIT, or the user."""

import asyncio
import fcntl
import shutil
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config.settings import LogDurability
from app.database.batch_writer import create_batch_writer
from app.database.pipeline import DuplicateRowError
from app.database.tables.classification import CachedImage
from app.database.tables.request_log import ForgottenUser, RequestLog
from app.database.tables.statistics import CacheTotals, NewPhotoPeriod, UserTotals
from app.errors import DatabaseUnavailable
from app.services.privacy.service import PrivacyService
from app.services.request_log.forgotten import FORGOTTEN_KEPT
from app.services.request_log.recorder import RequestRecorder
from app.services.spool.service import Kind, Spool
from tests.support.databases import recorder_on
from tests.support.ledgers import check_ledgers_agree, logged_ids
from tests.support.records import IMAGE, record
from tests.support.spools import spool_files, spool_in


class Instance:
    """Processes with one folder; while `is_away`, none of their batches reaches the database."""

    def __init__(self, engine: AsyncEngine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = engine
        self.folder = folder
        self.is_away = False
        self.batches = 0
        self.spools: list[Spool] = []
        writer = type(create_batch_writer(engine))
        write = writer.write

        async def write_unless_away(this: Any, statements: Any) -> None:
            self.batches += 1
            if self.is_away:
                raise DatabaseUnavailable
            await write(this, statements)

        monkeypatch.setattr(writer, "write", write_unless_away)

    def start(self, **options: Any) -> tuple[Spool, RequestRecorder]:
        """One more process."""
        spool = spool_in(self.folder, max_bytes=options.pop("max_bytes", 1_000_000))
        self.spools.append(spool)
        return spool, recorder_on(self.engine, spool=spool, **options)

    def kill(self, spool: Spool) -> None:
        """End a process as SIGKILL does: the kernel takes its locks, and nothing else happens."""
        spool._close_files()
        self.spools.remove(spool)


@pytest.fixture
async def instance(engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Instance]:
    async with engine.begin() as connection:
        await connection.execute(
            insert(CachedImage).values(
                image_hash=IMAGE, category="foods", confidence=0.9, model_used="test", hit_count=1
            )
        )
        await connection.execute(insert(CacheTotals).values(shard=0, images=1, hits=1, saved_micros=0))
        photo = {"period_start": utc_now(), "kind": "model", "value": "m", "shard": 0, "photos": 1}
        await connection.execute(insert(NewPhotoPeriod).values(**photo))
    instance = Instance(engine, tmp_path, monkeypatch)
    yield instance
    for spool in instance.spools:
        spool._close_files()


def now(number: int, **values: Any) -> Any:
    return record(number, created_at=utc_now(), **values)


async def check_log(engine: AsyncEngine, numbers: range) -> None:
    assert sorted(await logged_ids(engine)) == sorted(f"req_{number}" for number in numbers)
    await check_ledgers_agree(engine)


async def test_rows_wait_on_disk_and_are_written_once(instance: Instance, engine: AsyncEngine) -> None:
    spool, recorder = instance.start()
    await recorder.record([now(0)])
    instance.is_away = True
    for number in range(1, 20):
        await recorder.record([now(number, user_id=f"user-{number % 3}")])
    # One has tried the database; those behind it did not wait for it.
    assert instance.batches == 2
    assert (spool.rows, spool.is_behind) == (19, True)
    assert await logged_ids(engine) == ["req_0"]
    instance.is_away = False
    await spool.replay()
    assert (spool.rows, spool.is_behind, spool_files(instance.folder)) == (0, False, [])
    await check_log(engine, range(20))
    await recorder.record([now(20)])
    await spool.replay()
    await check_log(engine, range(21))


async def test_a_file_of_a_process_that_is_gone_is_written_by_one_of_the_others(
    instance: Instance, engine: AsyncEngine
) -> None:
    instance.is_away = True
    dead, recorder = instance.start()
    for number in range(30):
        await recorder.record([now(number)])
    others = [instance.start()[0] for _ in range(3)]
    await asyncio.gather(*(other.replay() for other in others))
    # Its process lives.
    assert await logged_ids(engine) == []
    instance.kill(dead)
    await asyncio.gather(*(other.replay() for other in others))
    assert spool_files(instance.folder) == []
    await check_log(engine, range(30))


async def test_a_process_that_is_killed_between_the_commit_and_the_removal_doubles_nothing(
    instance: Instance, engine: AsyncEngine
) -> None:
    instance.is_away = True
    spool, recorder = instance.start()
    for number in range(5):
        await recorder.record([now(number)])
    [file] = spool_files(instance.folder)
    kept = instance.folder / "kept"
    shutil.copy(file, kept)
    await spool.replay()
    shutil.copy(kept, file)
    await instance.start()[0].replay()
    assert spool_files(instance.folder) == []
    # Half of it was committed, and more came behind.
    other, recorder = instance.start()
    for number in range(5, 10):
        await recorder.record([now(number)])
    [new] = spool_files(instance.folder)
    both = kept.read_bytes() + new.read_bytes()
    instance.kill(other)
    new.write_bytes(both)
    await instance.start()[0].replay()
    await check_log(engine, range(10))


@pytest.mark.parametrize("first", ["the server", "the replay"])
async def test_a_commit_that_was_not_answered_counts_once_in_either_order(
    instance: Instance, engine: AsyncEngine, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that stood still runs what it finds in its socket, before or after what was spooled is replayed."""
    spool, recorder = instance.start()
    writer = create_batch_writer(engine)
    late: list[Any] = []

    async def is_not_answered(this: Any, statements: Any) -> None:
        late.append(statements)
        raise DatabaseUnavailable

    write = type(writer).write
    with monkeypatch.context() as patch:
        patch.setattr(type(writer), "write", is_not_answered)
        await recorder.record([now(number) for number in range(3)])
    if first == "the server":
        await write(writer, late[0])
        await spool.replay()
    else:
        await spool.replay()
        with pytest.raises(DuplicateRowError):
            await write(writer, late[0])
    await writer.close()
    await check_log(engine, range(3))


async def test_a_full_spool_keeps_nothing_and_says_so(instance: Instance, engine: AsyncEngine) -> None:
    spool, recorder = instance.start(max_bytes=1000)
    instance.is_away = True
    kept, refused = [], 0
    for number in range(20):
        try:
            await recorder.record([now(number)])
        except DatabaseUnavailable:
            refused += 1
        else:
            kept.append(f"req_{number}")
    assert refused > 10
    assert kept
    assert sum(file.stat().st_size for file in spool_files(instance.folder)) <= 1000
    # What was paid for has room of its own.
    await spool.append(Kind.BILL, b'{"rows":[],"budgets":[]}')
    spool.on_replay(Kind.BILL, _nothing)
    instance.is_away = False
    await recorder.record([now(100, from_cache=False)])
    await spool.replay()
    assert sorted(await logged_ids(engine)) == sorted([*kept, "req_100"])
    await check_ledgers_agree(engine)


async def test_a_folder_that_cannot_be_written_is_a_full_spool(instance: Instance, engine: AsyncEngine) -> None:
    (instance.folder / "spool").write_text("no folder")
    _, recorder = instance.start()
    instance.is_away = True
    with pytest.raises(DatabaseUnavailable):
        await recorder.record([now(1)])
    instance.is_away = False
    await recorder.record([now(2)])
    assert await logged_ids(engine) == ["req_2"]


async def test_rows_that_no_request_waits_for_are_spooled_too(instance: Instance, engine: AsyncEngine) -> None:
    instance.is_away = True
    spool, recorder = instance.start(durability=LogDurability.ASYNC)
    for number in range(10):
        await recorder.record([now(number)])
    await recorder.close()
    assert (spool.rows, recorder.pending_rows) == (10, 0)
    await spool.replay()
    await check_log(engine, range(10))


async def test_without_a_log_hits_are_spooled_without_names(instance: Instance, engine: AsyncEngine) -> None:
    instance.is_away = True
    spool, recorder = instance.start(log_enabled=False)
    await recorder.record([now(0, user_id="phone-1", ip_address="192.0.2.7"), now(1, from_cache=False)])
    [file] = spool_files(instance.folder)
    assert spool.rows == 1
    assert b"phone-1" not in file.read_bytes()
    assert b"192.0.2.7" not in file.read_bytes()
    await spool.replay()
    async with engine.connect() as connection:
        assert await connection.scalar(select(CachedImage.hit_count)) == 2
    assert await logged_ids(engine) == []


async def test_a_user_who_was_forgotten_meanwhile_does_not_come_back(instance: Instance, engine: AsyncEngine) -> None:
    instance.is_away = True
    spool, recorder = instance.start()
    await recorder.record([now(0, user_id="phone-1", ip_address="192.0.2.7"), now(1, user_id="phone-2")])
    await PrivacyService(engine).forget("phone-1")
    # It comes again afterwards.
    later = record(2, user_id="phone-1", created_at=utc_now() + timedelta(seconds=5))
    old = record(3, user_id="phone-3", created_at=utc_now() - FORGOTTEN_KEPT - timedelta(days=1))
    await recorder.record([later, old])
    await spool.replay()
    async with engine.connect() as connection:
        named = select(RequestLog.request_id, RequestLog.user_id, RequestLog.ip_address)
        rows = (await connection.execute(named)).all()
        users = (await connection.scalars(select(UserTotals.user_id).order_by(UserTotals.user_id))).all()
    assert sorted(map(tuple, rows)) == [
        ("req_0", None, None),
        ("req_1", "phone-2", "127.0.0.1"),
        ("req_2", "phone-1", "127.0.0.1"),
        ("req_3", None, None),
    ]
    assert users == ["phone-1", "phone-2"]
    await check_ledgers_agree(engine)


async def test_who_was_forgotten_is_known_for_some_days_only(engine: AsyncEngine) -> None:
    long_ago = utc_now() - FORGOTTEN_KEPT - timedelta(days=1)
    async with engine.begin() as connection:
        await connection.execute(insert(ForgottenUser).values(user_hash="a" * 64, forgotten_at=long_ago))
    for _ in range(2):
        await PrivacyService(engine).forget("phone-1")
    async with engine.connect() as connection:
        hashes = (await connection.scalars(select(ForgottenUser.user_hash))).all()
    assert len(hashes) == 1
    assert hashes != ["a" * 64]
    assert "phone-1" not in hashes


async def test_an_entry_that_cannot_be_written_stops_no_other(instance: Instance, engine: AsyncEngine) -> None:
    instance.is_away = True
    spool, recorder = instance.start()
    await recorder.record([now(0)])
    await spool.append(Kind.REQUESTS, b'[["not", "a", "row"]]')
    await recorder.record([now(1)])
    await spool.replay()
    await check_log(engine, range(2))
    [refused] = spool_files(instance.folder)
    assert refused.suffix == ".refused"
    assert b"not" in refused.read_bytes()
    assert spool.rows == 0


async def test_what_the_database_does_not_take_stays(
    instance: Instance, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance.is_away = True
    spool, recorder = instance.start()
    for number in range(3):
        await recorder.record([now(number)])
    with monkeypatch.context() as patch:
        patch.setattr("app.services.request_log.recorder.run", _away)
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await spool.replay()
            await recorder.record([now(3 + _)])
        assert (spool.rows, spool.is_behind) == (6, True)
        # A file that waits is enough: no new one for each attempt.
        assert len(spool_files(instance.folder)) == 2
    await spool.replay()
    await check_log(engine, range(6))


async def test_hits_of_a_paid_result_are_not_written_before_it(instance: Instance) -> None:
    order: list[str] = []

    def noting(kind: str) -> Callable[..., Any]:
        async def note(payloads: Any) -> None:
            order.extend([kind] * len(payloads))

        return note

    spool, _ = instance.start()
    for kind in (Kind.REQUESTS, Kind.RESULT):
        spool.on_replay(kind, noting(kind))
    await spool.append(Kind.REQUESTS, b"1")
    await spool.append(Kind.RESULT, b"2")
    await spool.append(Kind.REQUESTS, b"3")
    await spool.replay()
    assert order == ["result", "requests", "requests"]


async def test_hits_of_a_dead_process_wait_for_its_paid_results_in_the_hands_of_another(
    instance: Instance, engine: AsyncEngine
) -> None:
    instance.is_away = True
    dead, recorder = instance.start()
    one, other = instance.start()[0], instance.start()[0]
    await dead.append(Kind.RESULT, b"{}")
    await recorder.record([now(0)])
    instance.kill(dead)
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def store(payloads: Any) -> None:
        begun.set()
        await may_end.wait()

    one.on_replay(Kind.RESULT, store)
    [requests] = [path for path in spool_files(instance.folder) if path.suffix == ".requests"]
    kept = requests.rename(instance.folder / "kept")
    storing = asyncio.create_task(one.replay())
    await begun.wait()
    # The first had no time to take both.
    kept.rename(requests)
    await other.replay()
    assert await logged_ids(engine) == []
    may_end.set()
    await storing
    await other.replay()
    await check_log(engine, range(1))


async def test_an_answer_is_found_in_the_spool_of_any_process(instance: Instance) -> None:
    one, other = instance.start()[0], instance.start()[0]
    assert not await other.holds(IMAGE)
    await one.append(Kind.RESULT, f'{{"image_hash":"{IMAGE}"}}'.encode())
    assert await other.holds(IMAGE)
    assert not await other.holds("b" * 64)
    one.on_replay(Kind.RESULT, _nothing)
    await one.replay()
    assert not await other.holds(IMAGE)


async def test_a_new_file_that_another_process_takes_for_a_left_one_is_made_again(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does so in the moment before the new file is locked."""
    one, other = instance.start()[0], instance.start()[0]
    other.on_replay(Kind.BILL, _nothing)
    flock = fcntl.flock
    taken: list[Path] = []

    def take_first(descriptor: int, operation: int) -> None:
        if not taken:
            [path] = spool_files(instance.folder)
            taken.append(path)
            path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr("app.services.spool.file.fcntl.flock", take_first)
    await one.append(Kind.BILL, b"{}")
    [path] = spool_files(instance.folder)
    assert path not in taken
    assert b"bill" in path.read_bytes()


async def _nothing(payloads: Any) -> None:
    """Take entries and write nothing."""


async def _away(*arguments: Any, **options: Any) -> None:
    raise DatabaseUnavailable
