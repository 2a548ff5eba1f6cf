"""A wake-up among processes, by Redis' publish and subscribe: there is something new to read. It carries nothing else.

It may be lost at any time: a process that listens also looks by itself now and then, and more often without contact.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from enum import StrEnum

from app.runtime.background import every
from app.services.redis import RETRY_SECONDS, RedisClient

# A server that has vanished without a word would be listened to without end.
SILENCE_SECONDS = 10.0


class Topic(StrEnum):
    """What there is news of; each has a channel."""

    TASK_EVENTS = "task-events"
    NEW_TASKS = "new-tasks"


class RedisSignal:
    """Sends and receives wake-ups; `in_contact` while they would be received."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._channels = {topic: client.key(topic) for topic in Topic}
        self._listeners: dict[str, list[Callable[[], None]]] = {channel: [] for channel in self._channels.values()}
        self._due: set[Topic] = set()
        self._has_due = asyncio.Event()
        self.in_contact = False

    def send(self, topic: Topic) -> None:
        """Have a wake-up sent soon; many calls may become one wake-up."""
        self._due.add(topic)
        self._has_due.set()

    def listen(self, topic: Topic, on_news: Callable[[], None]) -> None:
        """Have `on_news` called for each wake-up of the topic that is received, and when contact is made or lost."""
        self._listeners[self._channels[topic]].append(on_news)

    async def run(self) -> None:
        """Send what is due, and call the listeners, until the task is cancelled."""
        await asyncio.gather(
            *(
                every(RETRY_SECONDS, action, outage=self._client.outage, first_after_seconds=0)
                for action in (self._send_when_due, self._receive)
            )
        )

    async def close(self) -> None:
        """Send a last wake-up if it is due."""
        if self._due:
            with contextlib.suppress(*self._client.failures):
                await self._publish()

    async def _send_when_due(self) -> None:
        """Send until it fails."""
        while True:
            await self._has_due.wait()
            await self._publish()

    async def _publish(self) -> None:
        async with asyncio.timeout(self._client.call_timeout_seconds):
            self._has_due.clear()
            topics = self._due.copy()
            self._due.clear()
            try:
                for topic in topics:
                    await self._client.redis.publish(self._channels[topic], b"")
            except BaseException:
                self._due |= topics
                self._has_due.set()
                raise

    async def _receive(self) -> None:
        """Receive until it fails."""
        try:
            await self._subscribe()
        finally:
            self.in_contact = False
            # Listeners have to look more often from now on.
            self._tell(self._listeners)

    async def _subscribe(self) -> None:
        async with self._client.redis.pubsub() as subscription:
            async with asyncio.timeout(self._client.call_timeout_seconds):
                await subscription.subscribe(*self._channels.values())
            is_asked = False
            while True:
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
                    self._client.outage.succeeded()
                if message["type"] in {"subscribe", "message"}:
                    # The former, since whatever was sent before it was missed.
                    self._tell([message["channel"].decode()])

    def _tell(self, channels: Iterable[str]) -> None:
        for channel in channels:
            for on_news in self._listeners[channel]:
                on_news()
