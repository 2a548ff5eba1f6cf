"""Ids of tasks on a Redis stream, through taskiq: each goes to one of the processes that listen.

A message is acknowledged when it arrives. What is lost with Redis or with a process is in the database, and is found
there; so Redis may be away, restarted or emptied at any time.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

from loguru import logger
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from taskiq import AckableMessage
from taskiq.acks import AcknowledgeType
from taskiq.receiver import Receiver
from taskiq_redis import RedisStreamBroker

from app.services.tasks.queue import TASK_NAME, Run

ANNOUNCE_TIMEOUT_SECONDS = 0.5
RETRY_SECONDS = 2.0
READ_BLOCK_SECONDS = 2.0
# Longer than a read may wait for a message.
SOCKET_TIMEOUT_SECONDS = 5.0
# Old messages are cut off: they have been acknowledged, or their tasks were found without them.
MAX_MESSAGES = 10_000
# Who dies between the arrival of a message and its acknowledgement leaves it to others after this time.
IDLE_SECONDS = 60


class _Broker(RedisStreamBroker):
    """taskiq's, with acknowledgements that may fail: the task shall run all the same."""

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        async for message in super().listen():
            yield AckableMessage(data=message.data, ack=_quietly(message.ack))

    async def forget_us(self) -> None:
        """Remove this process from those that Redis keeps messages for."""
        async with Redis(connection_pool=self.connection_pool) as redis:
            await redis.xgroup_delconsumer(self.queue_name, self.consumer_group_name, self.consumer_name)


class RedisQueue:
    """A stream of one name.

    Args:
        url: `redis://` or `rediss://`.
        name: the stream's key.
    """

    def __init__(self, url: str, *, name: str) -> None:
        self._broker = _Broker(
            url,
            queue_name=name,
            xread_block=int(READ_BLOCK_SECONDS * 1000),
            maxlen=MAX_MESSAGES,
            idle_timeout=IDLE_SECONDS * 1000,
            unacknowledged_lock_timeout=10,
            socket_connect_timeout=ANNOUNCE_TIMEOUT_SECONDS,
            socket_timeout=SOCKET_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

        # A plain function: taskiq renames what it is given, which a method does not bear.
        async def receive(task_id: str) -> None:
            if self._run is not None:
                await self._run(task_id)

        self._task = self._broker.register_task(receive, task_name=TASK_NAME)
        self._run: Run | None = None
        self._finish = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self._is_lost = False
        self._retry_at = 0.0

    async def announce(self, task_id: str) -> None:
        """Put an id on the stream, unless Redis is away."""
        if time.monotonic() < self._retry_at:
            return
        try:
            async with asyncio.timeout(ANNOUNCE_TIMEOUT_SECONDS):
                await self._task.kiq(task_id)
        except Exception as error:  # noqa: BLE001 - whatever it was, the task is in the database
            self._lose(error)

    async def listen(self, run: Run, *, concurrency: int) -> None:
        """Call `run` from now on, also when Redis comes back later."""
        self._run = run
        # What one process takes from the stream, the others cannot have.
        self._broker.count = concurrency
        self._listening = asyncio.create_task(self._listen_for_ever(concurrency), name="tasks-listen")

    async def close(self) -> None:
        """Read nothing more, and close the connections."""
        self._finish.set()
        if self._listening is not None:
            await asyncio.gather(self._listening, return_exceptions=True)
            with suppress(Exception):
                async with asyncio.timeout(ANNOUNCE_TIMEOUT_SECONDS):
                    await self._broker.forget_us()
        await self._broker.shutdown()

    async def _listen_for_ever(self, concurrency: int) -> None:
        while not self._finish.is_set():
            try:
                # Makes the stream and the group of its readers, which are gone if Redis was emptied.
                await self._broker.startup()
                self._find()
                receiver = Receiver(
                    self._broker,
                    max_async_tasks=concurrency,
                    ack_type=AcknowledgeType.WHEN_RECEIVED,
                    run_startup=False,
                )
                await receiver.listen(self._finish)
            except Exception as error:  # noqa: BLE001 - whatever it was, Redis is tried again
                if self._finish.is_set():
                    return
                self._lose(error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await self._finish.wait()

    def _find(self) -> None:
        if self._is_lost:
            self._is_lost = False
            self._retry_at = 0.0
            logger.info("tasks: Redis is back")

    def _lose(self, error: BaseException) -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if not self._is_lost:
            self._is_lost = True
            # Not the error's text: a server may quote the password that it was sent.
            logger.warning("tasks: Redis is out of reach ({}), the database is watched", type(error).__name__)


def _quietly(acknowledge: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    async def acknowledge_if_possible() -> None:
        with suppress(Exception):
            await acknowledge()  # type: ignore[misc]  # taskiq-redis makes coroutines

    return acknowledge_if_possible
