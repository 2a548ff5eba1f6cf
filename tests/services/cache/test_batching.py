"""Look-ups share queries: no timer, bounded groups, bounded queries, and no look-up fails with another group's."""

import asyncio

import pytest

from app.errors import AppError, DatabaseUnavailable, ServerBusy
from app.services.cache import batching
from app.services.cache.batching import MAX_HASHES_PER_QUERY, MAX_QUERIES, MAX_WAITING_QUERIES, DataLoader


class Database:
    """Answers each key with itself, except keys with "unknown"; a query ends when the test says so."""

    def __init__(self, *, held: bool = True) -> None:
        self.queries: list[list[str]] = []
        self.running = 0
        self.most_running = 0
        self.error: Exception | None = None
        self.go = asyncio.Semaphore(0 if held else 1_000_000)

    async def fetch(self, keys: list[str]) -> dict[str, str]:
        self.queries.append(keys)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            await self.go.acquire()
            if self.error is not None:
                raise self.error
            return {key: key for key in keys if "unknown" not in key}
        finally:
            self.running -= 1


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def ask(reader: DataLoader[str], *keys: str) -> "asyncio.Task[dict[str, str]]":
    return asyncio.create_task(reader.find(keys))


async def test_what_arrives_during_queries_shares_the_next_one() -> None:
    database = Database()
    reader = DataLoader(database.fetch)
    first = ask(reader, "a")
    await settle()
    second = ask(reader, "b", "unknown")
    await settle()
    later = [ask(reader, key) for key in ("c", "d", "c", "a", "unknown")]
    await settle()
    assert database.queries == [["a"], ["b", "unknown"]]
    database.go.release()
    await settle()
    # "a" is asked for again: the query under way may have read before it was stored.
    assert database.queries[2:] == [["c", "d", "a", "unknown"]]
    database.go.release()
    database.go.release()
    assert await asyncio.gather(first, second, *later) == [
        {"a": "a"}, {"b": "b"}, {"c": "c"}, {"d": "d"}, {"c": "c"}, {"a": "a"}, {}
    ]  # fmt: skip
    # Nothing is remembered.
    database.go.release()
    assert await reader.find(["unknown"]) == {}
    assert len(database.queries) == 4


async def test_look_ups_of_the_same_moment_are_one_query() -> None:
    database = Database(held=False)
    reader = DataLoader(database.fetch)
    answers = await asyncio.gather(*(reader.find([f"{number % 50}"]) for number in range(150)))
    assert answers == [{f"{number % 50}": f"{number % 50}"} for number in range(150)]
    assert [len(query) for query in database.queries] == [50]


async def test_groups_and_queries_are_bounded() -> None:
    database = Database(held=False)
    reader = DataLoader(database.fetch)
    many = [str(number) for number in range(5 * MAX_HASHES_PER_QUERY - 1)]
    assert await reader.find(many) == {key: key for key in many}
    assert [len(query) for query in database.queries] == [MAX_HASHES_PER_QUERY] * 4 + [MAX_HASHES_PER_QUERY - 1]
    assert database.most_running == MAX_QUERIES


async def test_too_many_waiting_look_ups_are_refused() -> None:
    database = Database()
    reader = DataLoader(database.fetch)
    full = (MAX_WAITING_QUERIES + MAX_QUERIES) * MAX_HASHES_PER_QUERY
    waiting = []
    for start in range(0, full, MAX_HASHES_PER_QUERY):
        waiting.append(ask(reader, *(str(key) for key in range(start, start + MAX_HASHES_PER_QUERY))))
        await settle()
    with pytest.raises(ServerBusy):
        await reader.find(["one more"])
    for _ in waiting:
        database.go.release()
    await asyncio.gather(*waiting)
    database.go.release()
    assert await reader.find(["one more"]) == {"one more": "one more"}


async def test_someone_who_goes_away_harms_nobody() -> None:
    database = Database()
    reader = DataLoader(database.fetch)
    leaver, stayer = ask(reader, "a"), ask(reader, "a")
    await settle()
    queued = ask(reader, "b")
    queued_too = ask(reader, "b")
    await settle()
    leaver.cancel()
    queued.cancel()
    await settle()
    database.go.release()
    database.go.release()
    assert await stayer == {"a": "a"}
    assert await queued_too == {"b": "b"}
    assert leaver.cancelled()
    assert queued.cancelled()


async def test_a_fault_of_one_query_fails_those_who_wait_for_it() -> None:
    await check_failure(ZeroDivisionError(), fails_others=False)


async def test_a_database_that_is_away_fails_those_behind_too() -> None:
    await check_failure(DatabaseUnavailable(), fails_others=True)


async def check_failure(error: Exception, *, fails_others: bool) -> None:
    database = Database()
    reader = DataLoader(database.fetch)
    alone = ask(reader, "z")
    await settle()
    failing = [ask(reader, "a"), ask(reader, "b")]
    await settle()
    behind = ask(reader, "c")
    await settle()
    database.go.release()
    assert await alone == {"z": "z"}
    await settle()
    assert database.queries == [["z"], ["a", "b"], ["c"]]
    last = ask(reader, "d")
    await settle()
    database.error = error
    database.go.release()
    results = await asyncio.gather(*failing, return_exceptions=True)
    assert results == [error, error]
    database.error = None
    database.go.release()
    database.go.release()
    assert await behind == {"c": "c"}
    if fails_others:
        with pytest.raises(AppError):
            await last
    else:
        assert await last == {"d": "d"}
    database.go.release()
    assert await reader.find(["a"]) == {"a": "a"}


async def test_nothing_is_left_running() -> None:
    database = Database(held=False)
    reader = DataLoader(database.fetch)
    task = ask(reader, "a")
    await asyncio.sleep(0)
    await reader.close()
    assert database.running == 0
    assert await task == {"a": "a"}


async def test_a_look_up_right_after_the_last_query_has_ended_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "MAX_QUERIES", 1)
    late: list[asyncio.Task[dict[str, str]]] = []

    async def fetch(keys: list[str]) -> dict[str, str]:
        if keys == ["a"]:
            # It runs when this query has ended, before its callers resume.
            late.append(ask(reader, "b"))
        return {key: key for key in keys}

    reader = DataLoader(fetch)
    assert await reader.find(["a"]) == {"a": "a"}
    async with asyncio.timeout(120):
        assert await late[0] == {"b": "b"}
