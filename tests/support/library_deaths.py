"""Program: do one thing with a library again and again, each time killed (SIGKILL) one step later, until it survives.

After each death, and then once more after the sweep of the next start, files and rows must agree. It prints how often
it has died. Steps are each transaction's begin and commit, each fsync and rename, each file that is removed.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.tables.accounts import User
from app.services.library.service import LibraryService
from app.services.library.sweep import sweep
from app.storage import LocalStorage
from tests.support.databases import empty_tables
from tests.support.libraries import PICTURE, add_users, library_on, names_in, names_of_rows, temporary_files, uploaded

MAX_STEPS = 100

Act = Callable[[LibraryService, list[int]], Awaitable[Any]]


async def _add(library: LibraryService, users: list[int]) -> None:
    await library.add(users[0], uploaded())


async def _delete(library: LibraryService, users: list[int]) -> None:
    (image,), _ = await library.page(users[0], skip=0, limit=10)
    await library.delete(users[0], image.id)


async def _delete_all(library: LibraryService, users: list[int]) -> None:
    await library.delete_all(users[0])


# What is done, and who has the picture before: the first account does it.
ACTIONS: dict[str, tuple[Act, tuple[int, ...]]] = {
    "add": (_add, ()),
    "add_shared": (_add, (1,)),
    "delete": (_delete, (0,)),
    "delete_shared": (_delete, (0, 1)),
    "delete_all": (_delete_all, (0, 0)),
}


def main(action: str, folder: Path) -> None:
    act, owners = ACTIONS[action]
    for fatal in range(1, MAX_STEPS):
        assert _in_child(lambda: _prepare(folder, owners)) == 0
        status = _in_child(lambda: _act(folder, act, Steps(fatal)))  # noqa: B023 - it is over when this returns
        assert status in {0, -signal.SIGKILL}, status
        assert _in_child(lambda: _check(folder)) == 0, f"after the death at step {fatal}"
        if status == 0:
            assert _in_child(lambda: _clear(folder)) == 0
            sys.stdout.write(f"deaths: {fatal - 1}\n")
            return
    raise AssertionError("it never ends")


async def _prepare(folder: Path, owners: tuple[int, ...]) -> None:
    async with _library(folder) as (engine, library, _):
        await empty_tables(engine)
        users = await add_users(engine, 2)
        for owner in owners:
            await library.add(users[owner], uploaded())


async def _act(folder: Path, act: Act, steps: "Steps") -> None:
    async with _library(folder) as (engine, library, _):
        async with engine.connect() as connection:
            users = list(await connection.scalars(select(User.id).order_by(User.id)))
        for moment in ("begin", "commit"):
            event.listen(engine.sync_engine, moment, steps)
        os.fsync = steps.before(os.fsync)
        Path.replace = steps.before(Path.replace)  # type: ignore[method-assign]
        Path.unlink = steps.before(Path.unlink)  # type: ignore[method-assign]
        await act(library, users)


async def _check(folder: Path) -> None:
    async with _library(folder) as (engine, library, storage):
        named = await names_of_rows(engine)
        assert named <= await names_in(storage)
        (folder / "incoming" / "another").touch()
        await sweep(engine, storage, older_than_seconds=-10)
        assert await names_of_rows(engine) == named
        assert await names_in(storage) == named
        assert temporary_files(folder) == []
        async with engine.connect() as connection:
            users = list(await connection.scalars(select(User.id)))
        for user in users:
            images, _ = await library.page(user, skip=0, limit=10)
            assert [await library.read(image) for image in images] == [PICTURE] * len(images)


async def _clear(folder: Path) -> None:
    async with _library(folder) as (engine, _, storage):
        await empty_tables(engine)
        await sweep(engine, storage, older_than_seconds=-10)
        assert await names_in(storage) == set()


@asynccontextmanager
async def _library(folder: Path) -> AsyncIterator[tuple[AsyncEngine, LibraryService, LocalStorage]]:
    database = DatabaseSettings.model_validate({"url": os.environ["TEST_DATABASE"]})
    engine = create_engine(Settings(database=database))
    storage = LocalStorage(folder)
    async with library_on(engine, storage) as library:
        yield engine, library, storage
    await engine.dispose()


class Steps:
    """Counts steps, and dies before the one with the given number."""

    def __init__(self, fatal: int) -> None:
        self._left = fatal

    def __call__(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, as a step."""

        def counted(*arguments: Any, **options: Any) -> Any:
            self()
            return function(*arguments, **options)

        return counted


def _in_child(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a coroutine in a process of its own; returns its exit status, or minus the signal that has ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        asyncio.run(work())
        status = 0
    except BaseException:  # noqa: BLE001 - the parent is to see the status
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
