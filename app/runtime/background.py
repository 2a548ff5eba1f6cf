"""Work that runs beside the requests: loops, tasks that outlive their request, and calls that requests share.

A task of the service itself runs in a context of its own, so that its log lines do not carry the id of the request
that happened to start it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context
from typing import Any, Generic, TypeVar

from loguru import logger
from sqlalchemy.exc import SQLAlchemyError

from app.errors import AppError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class OutageLog:
    """Logs that something fails when it begins to, and when it works again; not each failure in between.

    Args:
        failing: what does not work, such as "tasks cannot be claimed"; the error's type is added.
        recovered: what works again, such as "tasks are claimed again".
        expected: errors of an outage beside the service's own, the database's and the system's. Any other is a bug and
            is logged with its traceback.
    """

    def __init__(self, failing: str, *, recovered: str, expected: tuple[type[Exception], ...] = ()) -> None:
        self._failing = failing
        self._recovered = recovered
        self._expected = (AppError, SQLAlchemyError, OSError, *expected)
        self.is_out = False

    def failed(self, error: BaseException) -> None:
        """Note a failure. Its text is not logged: a server may quote the password that it was sent."""
        if self.is_out:
            return
        self.is_out = True
        traceback_of = None if isinstance(error, self._expected) else error
        logger.opt(exception=traceback_of).warning("{} ({})", self._failing, type(error).__name__)

    def succeeded(self) -> None:
        """Note that it works."""
        if self.is_out:
            self.is_out = False
            logger.info("{}", self._recovered)

    @contextmanager
    def guard(self, *, passes: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Note how the block ends; an exception is logged in place of being raised, unless `passes` names its type."""
        try:
            yield
        except passes:
            raise
        except Exception as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # The clean-up of a cancelled block has failed, as redis-py's may: the task has to end all the same.
                raise asyncio.CancelledError from error
            self.failed(error)
        else:
            self.succeeded()


async def every(
    seconds: float,
    action: Callable[[], Awaitable[object]],
    *,
    outage: OutageLog,
    first_after_seconds: float | None = None,
) -> None:
    """Call `action` again and again until the task is cancelled; a failure is logged, and the next round tries again.

    Args:
        seconds: the pause between two rounds.
        action: one round.
        outage: logs failures.
        first_after_seconds: the pause before the first round; None: as long as the others.
    """
    pause = seconds if first_after_seconds is None else first_after_seconds
    while True:
        await asyncio.sleep(pause)
        with outage.guard():
            await action()
        pause = seconds


def spawn(work: Coroutine[Any, Any, V], *, name: str) -> asyncio.Task[V]:
    """Start a task of the service itself, in a context of its own. The caller keeps the task, and ends it."""
    return asyncio.create_task(work, name=name, context=Context())


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended, however they end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Raise `error` in the caller that awaits `future`, if there is one still."""
    if not future.done():
        future.set_exception(error)
        # Marks it as retrieved, for the case that the caller has been cancelled.
        future.exception()


async def shared(future: asyncio.Future[V]) -> V:
    """Return the result of a future that others wait for too; a caller that is cancelled does not cancel it.

    From Python 3.14 on, asyncio.shield reports a failure that no caller is left for as an error of the event loop.

    Raises:
        Exception: what the future raises.
    """
    if not future.done():
        waiter = future.get_loop().create_future()

        def wake(_: object) -> None:
            if not waiter.done():
                waiter.set_result(None)

        future.add_done_callback(wake)
        try:
            await waiter
        finally:
            future.remove_done_callback(wake)
    return future.result()


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None], *, name: str) -> AsyncIterator[None]:
    """Run `work` for the length of the block."""
    task = spawn(work, name=name)
    try:
        yield
    finally:
        await cancel(task)


class SingleFlight(Generic[K, V]):
    """Callers that ask for the same key at the same time share one call.

    The word is that of Go's golang.org/x/sync/singleflight. A caller that is cancelled does not cancel the call: others
    may wait for it, and a model call is paid for.
    """

    def __init__(self) -> None:
        self._calls: dict[K, asyncio.Task[V]] = {}

    async def run(
        self, key: K, call: Callable[[], Coroutine[Any, Any, V]], *, is_detached: bool = False
    ) -> tuple[V, bool]:
        """Return the result of the call under way for `key`, else of a new one; and whether another caller began it.

        Args:
            key: what is asked for.
            call: makes the coroutine, if there is none under way.
            is_detached: the call runs in a context of its own, as a task of the service; else in that of the caller
                that begins it.

        Raises:
            Exception: what the call raised, to each of its callers.
        """
        under_way = self._calls.get(key)
        if under_way is not None:
            return await shared(under_way), True
        name = f"single-flight-{key}"
        started = spawn(call(), name=name) if is_detached else asyncio.create_task(call(), name=name)
        self._calls[key] = started
        started.add_done_callback(lambda done: self._end(key, done))
        return await shared(started), False

    async def wait(self) -> None:
        """Wait for the calls under way, however they end."""
        await asyncio.gather(*self._calls.values(), return_exceptions=True)

    async def cancel(self) -> None:
        """Cancel the calls under way."""
        await cancel(*self._calls.values())

    def __contains__(self, key: K) -> bool:
        """Return whether a call is under way for `key`."""
        return key in self._calls

    def _end(self, key: K, call: asyncio.Task[V]) -> None:
        del self._calls[key]
        if not call.cancelled():
            # Marks the exception as retrieved, for the case that every caller has been cancelled.
            call.exception()
