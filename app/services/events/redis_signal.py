"""A word among processes, by Redis' publish and subscribe, that there is something new to read. It carries nothing.

It may be lost at any time: a listener also looks by itself now and then, and more often while there is no contact.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterable
from enum import StrEnum

from loguru import logger

KEY_PREFIX = "ic1"
TIMEOUT_SECONDS = 0.5
RETRY_SECONDS = 5.0
# A server that has vanished would otherwise be listened to without end.
SILENCE_SECONDS = 10.0


class Topic(StrEnum):
    """What there is news of; each has a channel."""

    TASK_EVENTS = "task-events"
    NEW_TASKS = "new-tasks"


class RedisSignal:
    """Sends and hears the word; `in_contact` while it would be heard.

    Args:
        url: `redis://` or `rediss://`, with a password if need be.
        key_space: what tells this installation from others on the same Redis.
    """

    def __init__(self, url: str, *, key_space: str) -> None:
        # Imported only where it is configured: it costs half a second and 20 MB.
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        digest = hashlib.blake2s(key_space.encode(), digest_size=4).hexdigest()
        self._channels = {topic: f"{KEY_PREFIX}:{digest}:{topic}" for topic in Topic}
        self._listeners: dict[str, list[Callable[[], None]]] = {channel: [] for channel in self._channels.values()}
        # As in app/services/cache/redis.py.
        self._failures: tuple[type[Exception], ...] = (RedisError, OSError, RuntimeError, TypeError)
        self._redis = Redis.from_url(
            url,
            socket_connect_timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._due: set[Topic] = set()
        self._has_due = asyncio.Event()
        self._is_lost = False
        self._ending = asyncio.Event()
        self.in_contact = False

    def send(self, topic: Topic) -> None:
        """Have the word sent soon; many calls may become one word."""
        self._due.add(topic)
        self._has_due.set()

    def listen(self, topic: Topic, on_news: Callable[[], None]) -> None:
        """Have `on_news` called for each word of the topic that is heard, and when the contact is lost."""
        self._listeners[self._channels[topic]].append(on_news)

    async def run(self) -> None:
        """Send what is due, and call the listeners, until the task is cancelled."""
        tasks = [asyncio.create_task(each) for each in (self._send_when_due(), self._hear())]
        try:
            await asyncio.wait(tasks)
        finally:
            # redis-py sometimes takes a cancellation for a time-out of its own.
            self._ending.set()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Send a last word if it is due, and close the connections."""
        if self._due:
            with contextlib.suppress(*self._failures):
                await self._publish()
        await self._redis.aclose()

    async def _send_when_due(self) -> None:
        while not self._ending.is_set():
            await self._has_due.wait()
            try:
                await self._publish()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next try must come
                if self._ending.is_set():
                    return
                self._lose(error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _publish(self) -> None:
        async with asyncio.timeout(3 * TIMEOUT_SECONDS):
            self._has_due.clear()
            topics = self._due.copy()
            self._due.clear()
            try:
                for topic in topics:
                    await self._redis.publish(self._channels[topic], b"")
            except BaseException:
                self._due |= topics
                self._has_due.set()
                raise

    async def _hear(self) -> None:
        while not self._ending.is_set():
            try:
                await self._subscribe()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next try must come
                if self._ending.is_set():
                    return
                self._lose(error)
            finally:
                self.in_contact = False
            if not self._ending.is_set():
                # Listeners have to look more often from now on.
                self._tell(self._listeners)
                await asyncio.sleep(RETRY_SECONDS)

    async def _subscribe(self) -> None:
        async with self._redis.pubsub() as subscription:
            async with asyncio.timeout(3 * TIMEOUT_SECONDS):
                await subscription.subscribe(*self._channels.values())
            is_asked = False
            while not self._ending.is_set():
                message = await subscription.get_message(timeout=SILENCE_SECONDS)
                if message is None:
                    if is_asked:
                        raise TimeoutError
                    await subscription.ping()
                    is_asked = True
                    continue
                is_asked = False
                if message["type"] == "subscribe":
                    self.in_contact = True
                    if self._is_lost:
                        self._is_lost = False
                        logger.info("Redis is back, task events are announced again")
                if message["type"] in {"subscribe", "message"}:
                    # The former, since whatever was said before it was missed.
                    self._tell([message["channel"].decode()])

    def _tell(self, channels: Iterable[str]) -> None:
        for channel in channels:
            for on_news in self._listeners[channel]:
                on_news()

    def _lose(self, error: Exception) -> None:
        if not self._is_lost:
            self._is_lost = True
            # Not the error's text: a server may quote the password that it was sent.
            logger.warning("Redis does not announce task events ({}): looking for them", type(error).__name__)
